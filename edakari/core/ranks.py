"""Work that processes share out; on one process nothing is sent."""

from __future__ import annotations

import torch
import torch.distributed as dist

__all__ = ["my_rank", "own_share", "summed"]


def my_rank() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def own_share(count: int) -> range:
    """The jobs of this process, of so many: runs of equal length, the first ones longer by one where needed."""
    rank, world = my_rank()
    each, more = divmod(count, world)
    start = rank * each + min(rank, more)
    return range(start, start + each + (rank < more))


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over all processes; exact where each entry is zero on all of them but one.

    Args:
        tensor: of the same shape and kind on each of them.
    """
    if my_rank()[1] == 1:
        return tensor
    total = tensor.cuda() if dist.get_backend() == "nccl" else tensor.clone()
    dist.all_reduce(total)
    return total.to(tensor.device)
