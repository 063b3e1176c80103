"""Work that processes share out; on one process nothing is sent."""

from __future__ import annotations

import torch
import torch.distributed as dist

__all__ = ["all_reduce_sum", "broadcast", "rank_and_world_size", "reduced", "shard"]


def rank_and_world_size() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def shard(count: int) -> range:
    """The jobs of this process, of so many: runs of equal length, the first ones longer by one where needed."""
    rank, world = rank_and_world_size()
    each, more = divmod(count, world)
    start = rank * each + min(rank, more)
    return range(start, start + each + (rank < more))


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over all processes; exact where each entry is zero on all of them but one.

    Args:
        tensor: of the same shape and kind on each of them.
    """
    return reduced(tensor)


def reduced(tensor: torch.Tensor, how: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> torch.Tensor:
    """A tensor reduced entry by entry over all processes; the tensor itself where there is one process.

    Args:
        tensor: of the same shape and kind on each of them.
        how: sum, smallest or largest.
    """
    if rank_and_world_size()[1] == 1:
        return tensor
    total = tensor.cuda() if dist.get_backend() == "nccl" else tensor.clone()
    dist.all_reduce(total, how)
    return total.to(tensor.device)


def broadcast(text: str) -> str:
    """The first process's text, on every process."""
    rank, world = rank_and_world_size()
    if world == 1:
        return text
    content, device = text.encode(), "cuda" if dist.get_backend() == "nccl" else "cpu"
    size = torch.tensor([len(content)], device=device)
    dist.broadcast(size, 0)
    data = torch.zeros(int(size), dtype=torch.uint8, device=device)
    if rank == 0:
        data[:] = torch.tensor(list(content), dtype=torch.uint8)
    dist.broadcast(data, 0)
    return bytes(data.tolist()).decode()
