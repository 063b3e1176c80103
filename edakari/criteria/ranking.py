"""The strongest responses of each filter, updated batch by batch."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterable

import torch
import torch.distributed as dist

from edakari.core.processes import Processes
from edakari.errors import ModelError

__all__ = ["Ranking", "Strongest"]

BLOCK = 128
"""Images that are buffered before a merge; merging one image costs as much as merging many."""

ROWS = 512
"""Filters that are merged at a time; this bounds the extra memory of a merge."""

IDS = 0xFFFFFFFF
SHORT = 1 << 16
"""Number of images whose indices fit in 16 bits."""
EMPTY = torch.iinfo(torch.int64).min


@dc.dataclass(frozen=True)
class Strongest:
    """The strongest responses of some filters after all images have been seen.

    Args:
        responses: the largest responses in descending order, float32 [filters, top].
        ids: indices of their images, int64 [filters, top].
        labels: labels at the pixels of the responses, int64 [filters, top]; None if labels belong to whole images.
        mean: mean response over all images, float64 [filters].
        dead: whether a filter has the same response to all images, bool [filters].
    """

    responses: torch.Tensor
    ids: torch.Tensor
    labels: torch.Tensor | None
    mean: torch.Tensor
    dead: torch.Tensor


class Ranking:
    """The largest responses of some filters and the indices of their images; mutable state of a run.

    One integer key encodes a response and the index of its image. The upper bits hold the response, mapped so that
    integers sort like floats. The lower bits hold the inverted index. So a larger response wins, and the earlier image
    wins a tie: merging is exact for any batches and ranks. Stored separately, an entry takes 6 bytes, or 8 bytes for
    more than 65,536 images. No image appears twice.

    Args:
        filters: number of filters.
        top: number of responses to keep for each filter.
        device: device of the ranking.
        placed: whether each response has a label of its own.
    """

    def __init__(self, filters: int, top: int, device: torch.device, placed: bool = False) -> None:
        self.filters, self.top = filters, top
        # allocated once: a new buffer at every merge would fragment the memory
        self.width = 0
        self.values = torch.empty((filters, top), dtype=torch.int32, device=device)
        self.ids = torch.empty((filters, top), dtype=torch.int16, device=device)
        self.label_store = torch.empty((filters, top), dtype=torch.int32, device=device) if placed else None
        self.waiting = torch.zeros((filters, BLOCK), device=device)
        self.waiting_ids = torch.zeros(BLOCK, dtype=torch.int64, device=device)
        self.waiting_labels = torch.zeros((filters, BLOCK), dtype=torch.int32, device=device) if placed else None
        self.count = 0
        self.seen = 0
        self.sums = torch.zeros(filters, dtype=torch.float64, device=device)
        self.least = torch.full((filters,), torch.inf, device=device)

    def add(self, responses_NF: torch.Tensor, first: int, labels_NF: torch.Tensor | None = None) -> None:
        """Add the responses to some images.

        Args:
            responses_NF: responses, float32 [images, filters].
            first: index of the first image; the other images follow it.
            labels_NF: labels at the pixels of the responses, [images, filters].
        """
        if first + len(responses_NF) > SHORT:
            self._widen()
        self.sums += responses_NF.sum(0, dtype=torch.float64)
        self.least = torch.minimum(self.least, responses_NF.amin(0))
        self.seen += len(responses_NF)
        done = 0
        while done < len(responses_NF):
            some = slice(done, done + min(BLOCK - self.count, len(responses_NF) - done))
            size = some.stop - some.start
            room = slice(self.count, self.count + size)
            self.waiting[:, room] = responses_NF[some].T
            self.waiting_ids[room] = torch.arange(first + some.start, first + some.stop)
            if self.waiting_labels is not None and labels_NF is not None:
                self.waiting_labels[:, room] = labels_NF[some].T.int()
            self.count, done = self.count + size, some.stop
            if self.count == BLOCK:
                self._merge()

    def _merge(self) -> None:
        if not self.count:
            return
        if not bool(self.waiting[:, : self.count].isfinite().all()):
            raise ModelError("a filter's response is not finite; are there NaN or infinite weights or pixels?")
        turned = IDS - self.waiting_ids[: self.count]
        new = ((_ordered(rows[:, : self.count]) << 32) | turned for rows in torch.split(self.waiting, ROWS))
        labels = None if self.waiting_labels is None else self.waiting_labels[:, : self.count]
        self._keep_best(new, self.count, labels)
        self.count = 0

    @property
    def keys(self) -> torch.Tensor:
        """The keys in the ranking, unsorted, int64 [filters, width]."""
        return self._packed(slice(None))

    def _packed(self, rows: slice) -> torch.Tensor:
        ids = self.ids[rows, : self.width].long() + self._first()
        return (self.values[rows, : self.width].long() << 32) | (IDS - ids)

    def _put(self, rows: slice, keys: torch.Tensor) -> None:
        kept = slice(keys.shape[1])
        self.values[rows, kept] = (keys >> 32).int()
        self.ids[rows, kept] = (IDS - (keys & IDS) - self._first()).to(self.ids.dtype)

    def _first(self) -> int:
        """The image index that a stored 0 stands for: signed 16 bits hold half of the indices below 0."""
        return SHORT // 2 if self.ids.dtype == torch.int16 else 0

    def _widen(self) -> None:
        if self.ids.dtype == torch.int16:
            self.ids = self.ids.int() + SHORT // 2

    @property
    def labels(self) -> torch.Tensor | None:
        """Labels of the keys in the ranking, int32 [filters, width]."""
        return None if self.label_store is None else self.label_store[:, : self.width]

    def _keep_best(self, new: Iterable[torch.Tensor], count: int, labels: torch.Tensor | None) -> None:
        """Merge so many keys for each filter, split by rows, and their labels into the ranking."""
        width = min(self.top, self.width + count)
        for index, rows in enumerate(new):
            own = slice(index * ROWS, index * ROWS + len(rows))
            best = torch.cat([self._packed(own), rows], 1).topk(width, dim=1, sorted=False)
            self._put(own, best.values)
            if self.label_store is not None and self.labels is not None and labels is not None:
                both = torch.cat([self.labels[own], labels[own]], 1)
                self.label_store[own, :width] = both.gather(1, best.indices)
        self.width = width

    def gather(self) -> None:
        """Merge the rankings of all processes, so that all processes have the same ranking."""
        self._merge()
        here = Processes.here()
        if here.world == 1:
            return
        numbers = here.reduced(torch.cat([self.sums, self.sums.new_tensor([self.seen])]))
        self.least = here.reduced(self.least, dist.ReduceOp.MIN)
        self.sums, self.seen = numbers[:-1], int(numbers[-1])
        if self.seen > SHORT:
            self._widen()
        own = self.keys
        widths = here.gathered(own.new_tensor([self.width]))
        most = int(max(widths))
        all_keys = here.gathered(_padded(own, most, EMPTY))
        all_labels = None if self.labels is None else here.gathered(_padded(self.labels, most, 0))
        total, self.width = int(sum(int(width) for width in widths)), 0
        merged = torch.cat(all_keys, 1)
        self._keep_best(
            torch.split(merged, ROWS), merged.shape[1], None if all_labels is None else torch.cat(all_labels, 1)
        )
        # padding is smaller than any response, and is dropped if there are fewer than `top` responses
        if total < self.width:
            order = self.keys.argsort(1, descending=True)[:, :total]
            self._put(slice(None), self.keys.gather(1, order))
            if self.label_store is not None and self.labels is not None:
                self.label_store[:, :total] = self.labels.gather(1, order)
            self.width = total

    def strongest(self, top: int) -> Strongest:
        """Return the strongest responses on the CPU; call `gather` first.

        Args:
            top: number of responses per filter, at most the number in the ranking.
        """
        best = self.keys.topk(min(top, self.width), dim=1)
        responses = _response(best.values >> 32)
        labels = None if self.labels is None else self.labels.gather(1, best.indices).long().cpu()
        return Strongest(
            responses.cpu(),
            (IDS - (best.values & IDS)).cpu(),
            labels,
            (self.sums / max(self.seen, 1)).cpu(),
            (responses[:, 0] <= self.least).cpu(),
        )


def _ordered(responses: torch.Tensor) -> torch.Tensor:
    """Map float32 to int64 values of 32 bits that sort in the same order."""
    bits = (responses + 0.0).view(torch.int32)  # turns -0 into 0
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()


def _response(ordered: torch.Tensor) -> torch.Tensor:
    """The inverse of `_ordered`."""
    bits = ordered.int()
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)


def _padded(tensor: torch.Tensor, width: int, value: int) -> torch.Tensor:
    return torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]), value=value).contiguous()
