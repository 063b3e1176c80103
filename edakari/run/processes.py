"""One process or many: who writes, and keeping all of them at the same place."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils.operations import broadcast_object_list

__all__ = ["agreed", "device", "is_main", "wait"]


def is_main(*, cpu: bool) -> bool:
    """Whether this process is the one that writes.

    Args:
        cpu: whether the processes stay off accelerators; has a say where they are set up by this call.
    """
    return bool(_state(cpu).is_main_process)


def device(*, cpu: bool) -> torch.device:
    """Where this process runs its networks."""
    return torch.device("cpu") if cpu else torch.device(_state(cpu).device)


def wait(*, cpu: bool) -> None:
    """Go on when all processes have come here."""
    _state(cpu).wait_for_everyone()


def agreed(answer: bool, *, cpu: bool) -> bool:
    """The main process's answer, on every process."""
    answers = [answer]
    if _state(cpu).num_processes > 1:
        broadcast_object_list(answers)
    return answers[0]


def _state(cpu: bool) -> Any:
    make: Any = PartialState
    return make(cpu=True) if cpu else make()
