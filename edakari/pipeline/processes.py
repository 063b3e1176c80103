"""One process or many: who writes, and keeping all of them at the same place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from edakari.core.optional import needs

with needs("train", "running a recipe"):
    from accelerate.state import PartialState
    from accelerate.utils.operations import broadcast_object_list

__all__ = ["agreed", "count", "device", "from_main", "is_main", "wait"]

T = TypeVar("T")


def is_main(*, cpu: bool) -> bool:
    """Whether this process is the one that writes.

    Args:
        cpu: whether the processes stay off accelerators; has a say where they are set up by this call.
    """
    return bool(_state(cpu).is_main_process)


def count(*, cpu: bool) -> int:
    """Number of processes."""
    return int(_state(cpu).num_processes)


def device(*, cpu: bool) -> torch.device:
    """Where this process runs its networks."""
    return torch.device("cpu") if cpu else torch.device(_state(cpu).device)


def wait(*, cpu: bool) -> None:
    """Go on when all processes have come here."""
    _state(cpu).wait_for_everyone()


def agreed(answer: bool, *, cpu: bool) -> bool:
    """The main process's answer, on every process."""
    return from_main(lambda: answer, cpu=cpu)


def from_main(make: Callable[[], T], *, cpu: bool) -> T:
    """What the main process makes, on every process."""
    if _state(cpu).num_processes == 1:
        return make()
    found: list[Any] = [make() if is_main(cpu=cpu) else None]
    broadcast_object_list(found)
    made: T = found[0]
    return made


def _state(cpu: bool) -> Any:
    make: Any = PartialState
    return make(cpu=True) if cpu else make()
