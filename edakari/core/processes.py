"""One process or many: who writes, where each computes, and what they tell each other.

A job asks once which processes there are (`edakari.pipeline.processes.started` sets them up first, where a launcher has
begun several) and hands the answer on; what is called from anywhere, such as a criterion, asks `Processes.here()`.
On one process nothing is sent.
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
    """The processes of a job, as one of them sees them.

    Args:
        rank: number of this process.
        world: number of processes.
        device: where this process computes.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = dc.field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def here(cls, device: torch.device | None = None) -> Processes:
        """The processes that `torch.distributed` knows; one where it was not set up.

        Args:
            device: where this process computes; None is the CPU.
        """
        device = torch.device("cpu") if device is None else device
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), device)
        return cls(device=device)

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.world > 1:
            dist.barrier()

    def from_main(self, make: Callable[[], T]) -> T:
        """What the main process makes, on every process.

        Args:
            make: called in the main process only; what it gives can be pickled.
        """
        if self.world == 1:
            return make()
        found: list[Any] = [make() if self.main else None]
        dist.broadcast_object_list(found, 0, device=_wire())
        made: T = found[0]
        return made

    def agreed(self, answer: T) -> T:
        """The main process's answer, on every process."""
        return self.from_main(lambda: answer)

    def share(self, count: int) -> range:
        """The jobs of this process, of so many: runs of equal length, the first ones longer by one where needed."""
        each, more = divmod(count, self.world)
        start = self.rank * each + min(self.rank, more)
        return range(start, start + each + (self.rank < more))

    def reduced(self, tensor: torch.Tensor, how: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> torch.Tensor:
        """A tensor reduced entry by entry over all processes; the tensor itself where there is one process.

        A sum is exact where each entry is zero on all processes but one.

        Args:
            tensor: of the same shape and kind on each of them.
            how: sum, smallest or largest.
        """
        if self.world == 1:
            return tensor
        total = tensor.cuda() if _wire().type == "cuda" else tensor.clone()
        dist.all_reduce(total, how)
        return total.to(tensor.device)

    def gathered(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The tensors of all processes, in order of their ranks.

        Args:
            tensor: of the same shape and kind on each of them.
        """
        if self.world == 1:
            return [tensor]
        own = tensor.to(_wire())
        found = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(found, own)
        return [each.to(tensor.device) for each in found]

    def gathered_objects(self, value: T) -> list[T]:
        """What each process has, in order of their ranks; it can be pickled."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def equalise_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give tensors the main process's values, in place.

        Args:
            tensors: of the same shapes and kinds on each process, in the same order.
        """
        if self.world > 1:
            for tensor in tensors:
                on_wire = tensor.detach().to(_wire())
                dist.broadcast(on_wire, 0)
                tensor.detach().copy_(on_wire)


ALONE = Processes()
"""One process, on the CPU."""


def _wire() -> torch.device:
    """Where tensors lie that processes send each other."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
