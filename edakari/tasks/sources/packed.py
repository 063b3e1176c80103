"""Many short byte strings in one array: a million Python objects would fill the memory of every worker.

Workers that are forked share the array's pages; those that are spawned are handed its memory instead of a copy.
"""

from __future__ import annotations

import dataclasses as dc
import functools
import os
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["Packed", "existing"]

CHUNK = 65_536
"""Strings that `take` copies at once."""
SMALL = 2**32
"""Bytes from which on 32 bits cannot say where a string starts."""


@dc.dataclass(frozen=True, eq=False)
class Packed:
    """Byte strings, concatenated.

    Args:
        data: the bytes, uint8.
        starts: start of each string in `data`, and the end of the last one, [N + 1]: uint32, or int64 above 4 GiB.
    """

    data: npt.NDArray[np.uint8]
    starts: npt.NDArray[Any]

    @classmethod
    def of(cls, parts: Iterable[bytes]) -> Packed:
        """Pack byte strings."""
        return cls.behind([(b"", list(parts))])

    @classmethod
    def behind(cls, groups: Iterable[tuple[bytes, Sequence[bytes]]]) -> Packed:
        """Pack groups of byte strings, each string behind the prefix of its group.

        The groups are taken one by one, so that no more of them than one need be in memory.
        """
        # a bytearray, for PyTorch shares only what can be written to; it grows in place
        data, lengths = bytearray(), array("Q")
        for prefix, parts in groups:
            lengths.extend(len(prefix) + len(part) for part in parts)
            data += prefix.join([b"", *parts])
        return cls(np.frombuffer(data, np.uint8), _starts(np.asarray(lengths)))

    @classmethod
    def texts(cls, parts: Iterable[str]) -> Packed:
        """Pack texts, such as the paths of files."""
        return cls.of(os.fsencode(part) for part in parts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @functools.cached_property
    def _shared(self) -> tuple[torch.Tensor, torch.Tensor]:
        # handing them to a process moves them to shared memory, once for all processes; PyTorch pickles no uint32
        starts = self.starts.view(np.int32) if self.starts.dtype == np.uint32 else self.starts
        return torch.from_numpy(self.data), torch.from_numpy(starts)

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, self._shared

    def __getitem__(self, index: int) -> bytes:
        return self.data[self.starts[index] : self.starts[index + 1]].tobytes()

    def text(self, index: int) -> str:
        """Return a text that was packed by `texts`."""
        return os.fsdecode(self[index])

    def take(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> Packed:
        """The strings at these indices, in their order."""
        chosen = np.asarray(indices, np.int64)
        lengths = np.diff(self.starts)[chosen]
        starts = _starts(lengths)
        data = np.empty(int(starts[-1]), np.uint8)
        for first in range(0, len(chosen), CHUNK):
            part = slice(first, first + CHUNK)
            moved = np.repeat(self.starts[chosen[part]].astype(np.int64) - starts[:-1][part], lengths[part])
            here = slice(int(starts[first]), int(starts[first]) + len(moved))
            data[here] = self.data[np.arange(here.start, here.stop) + moved]
        return Packed(data, starts)


def _starts(lengths: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Where strings of these lengths start, and where the last one ends."""
    kind = np.uint32 if int(lengths.sum(dtype=np.int64)) < SMALL else np.int64
    starts = np.zeros(len(lengths) + 1, kind)
    np.cumsum(lengths, dtype=kind, out=starts[1:])
    return starts


def _received(data: torch.Tensor, starts: torch.Tensor) -> Packed:
    """The strings of another process: its memory, without a copy."""
    numbers = starts.numpy()
    return Packed(data.numpy(), numbers.view(np.uint32) if numbers.dtype == np.int32 else numbers)


def existing(root: Path, files: Packed) -> npt.NDArray[np.bool_]:
    """Return for each file whether it exists; lists every folder once.

    Args:
        root: folder that the paths are relative to.
        files: paths with forward slashes.
    """
    listed: dict[str, frozenset[str]] = {}
    found = np.zeros(len(files), np.bool_)
    for index in range(len(files)):
        path = PurePosixPath(files.text(index))
        parent = str(path.parent)
        if parent not in listed:
            try:
                listed[parent] = frozenset(os.listdir(root / parent))
            except OSError:
                listed[parent] = frozenset()
        found[index] = path.name in listed[parent]
    return found
