"""Many short byte strings in one array: a million Python objects would fill the memory of every worker.

Workers that are forked share the array's pages; those that are spawned are handed its memory instead of a copy.
"""

from __future__ import annotations

import dataclasses as dc
import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["Packed", "existing"]

CHUNK = 65_536
"""Strings that `take` copies at once."""


@dc.dataclass(frozen=True, eq=False)
class Packed:
    """Byte strings, concatenated.

    Args:
        data: the bytes, uint8.
        starts: start of each string in `data`, and the end of the last one, int64 [N + 1].
    """

    data: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, parts: Iterable[bytes]) -> Packed:
        """Pack byte strings."""
        parts = list(parts)
        starts = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=starts[1:])
        # a bytearray, for PyTorch shares only what can be written to
        return cls(np.frombuffer(bytearray().join(parts), np.uint8), starts)

    @classmethod
    def texts(cls, parts: Iterable[str]) -> Packed:
        """Pack texts, such as the paths of files."""
        return cls.of(os.fsencode(part) for part in parts)

    @classmethod
    def joined(cls, parts: Sequence[Packed]) -> Packed:
        """Join packed strings, in their order."""
        lengths = np.concatenate([np.zeros(1, np.int64), *(np.diff(part.starts) for part in parts)])
        return cls(np.concatenate([np.empty(0, np.uint8), *(part.data for part in parts)]), np.cumsum(lengths))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @functools.cached_property
    def _shared(self) -> tuple[torch.Tensor, torch.Tensor]:
        # handing them to a process moves them to shared memory, once for all processes
        return torch.from_numpy(self.data), torch.from_numpy(self.starts)

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
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        data = np.empty(int(starts[-1]), np.uint8)
        for first in range(0, len(chosen), CHUNK):
            part = slice(first, first + CHUNK)
            moved = np.repeat(self.starts[chosen[part]] - starts[:-1][part], lengths[part])
            here = slice(int(starts[first]), int(starts[first]) + len(moved))
            data[here] = self.data[np.arange(here.start, here.stop) + moved]
        return Packed(data, starts)


def _received(data: torch.Tensor, starts: torch.Tensor) -> Packed:
    """The strings of another process: its memory, without a copy."""
    return Packed(data.numpy(), starts.numpy())


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
