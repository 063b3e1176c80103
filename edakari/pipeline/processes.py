"""The processes of a run, set up where a launcher such as `accelerate launch` has started several."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from edakari.core.processes import Processes, time_limit
from edakari.train.accelerators import require_whole_networks

__all__ = ["started"]


def started(*, cpu: bool) -> Processes:
    """Set up the processes of this run.

    Args:
        cpu: whether they avoid accelerators; this only has an effect if this call sets them up.

    Raises:
        RecipeError: the launcher asks for networks that are sharded among processes.
    """
    if importlib.util.find_spec("accelerate") is None:  # nothing can be trained then, and no launcher is used
        return Processes.here(torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu"))
    from accelerate.state import PartialState

    require_whole_networks()

    make: Any = PartialState
    limit = time_limit()
    state = make(cpu=True, timeout=limit) if cpu else make(timeout=limit)
    return Processes.here(torch.device("cpu") if cpu else torch.device(state.device))
