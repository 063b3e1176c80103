"""The processes of a job: which one writes, their devices, and their communication.

A job determines its processes once and passes the result on (`edakari.pipeline.processes.started` sets them up if a
launcher has started several). Code that can be called from anywhere, such as a criterion, uses `Processes.here()`. With
one process nothing is sent.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

__all__ = ["ALONE", "Processes"]

T = TypeVar("T")


@dc.dataclass(frozen=True)
class Processes:
    """The processes of a job, from the view of one of them.

    Args:
        rank: index of this process.
        world: number of processes.
        device: device of this process.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = dc.field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def here(cls, device: torch.device | None = None) -> Processes:
        """Return the processes of `torch.distributed`; one process if it was not set up.

        Args:
            device: device of this process; None means the CPU.
        """
        device = torch.device("cpu") if device is None else device
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), device)
        return cls(device=device)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes have reached this call."""
        if self.world > 1:
            dist.barrier()

    def from_main(self, make: Callable[[], T]) -> T:
        """Compute a value in the main process and return it on every process.

        Args:
            make: function that is called only in the main process; its result must be picklable.
        """
        if self.world == 1:
            return make()
        found: list[Any] = [make() if self.main else None]
        dist.broadcast_object_list(found, 0, device=_wire())
        made: T = found[0]
        return made

    def agreed(self, answer: T) -> T:
        """Return the main process's value on every process."""
        return self.from_main(lambda: answer)

    def share(self, count: int) -> range:
        """Return this process's part of `count` jobs: contiguous ranges whose lengths differ by at most one."""
        each, more = divmod(count, self.world)
        start = self.rank * each + min(self.rank, more)
        return range(start, start + each + (self.rank < more))

    def reduced(self, tensor: torch.Tensor, how: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> torch.Tensor:
        """Reduce a tensor elementwise over all processes; with one process, return the tensor itself.

        A sum is exact if each entry is nonzero on at most one process.

        Args:
            tensor: tensor with the same shape and type on each process.
            how: reduction: sum, minimum or maximum.
        """
        if self.world == 1:
            return tensor
        total = tensor.cuda() if _wire().type == "cuda" else tensor.clone()
        dist.all_reduce(total, how)
        return total.to(tensor.device)

    def gathered(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Gather the tensors of all processes, in order of rank.

        Args:
            tensor: tensor with the same shape and type on each process.
        """
        if self.world == 1:
            return [tensor]
        own = tensor.to(_wire())
        found = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(found, own)
        return [each.to(tensor.device) for each in found]

    def gathered_objects(self, value: T) -> list[T]:
        """Gather the picklable values of all processes, in order of rank."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def first_fault(self, fault: str) -> str:
        """Return the first fault of any process, so that all stop together; nothing if no process has one.

        Args:
            fault: what is wrong in this process; empty if nothing is.
        """
        return next(filter(None, self.gathered_objects(fault)), "")

    def equalise_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Broadcast the main process's values to tensors, in place.

        Args:
            tensors: tensors with the same shapes, types and order on each process.
        """
        if self.world > 1:
            for tensor in tensors:
                on_wire = tensor.detach().to(_wire())
                dist.broadcast(on_wire, 0)
                tensor.detach().copy_(on_wire)


ALONE = Processes()
"""One process, on the CPU."""


def _wire() -> torch.device:
    """The device of tensors that processes send to each other."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
