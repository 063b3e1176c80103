"""The processes of a run, set up where a launcher such as `accelerate launch` has begun several."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from edakari.core.processes import Processes

__all__ = ["started"]


def started(*, cpu: bool) -> Processes:
    """The processes that this run goes on in.

    Args:
        cpu: whether they stay off accelerators; has a say where they are set up by this call.
    """
    if importlib.util.find_spec("accelerate") is None:  # then nothing can be trained, and nobody launches several
        return Processes.here(torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu"))
    from accelerate.state import PartialState

    make: Any = PartialState
    state = make(cpu=True) if cpu else make()
    return Processes.here(torch.device("cpu") if cpu else torch.device(state.device))
