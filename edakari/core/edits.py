"""Edits of a network, as data; plans are made of them."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Iterable
from typing import Any

from edakari.core.tables import shortened
from edakari.errors import PlanError

__all__ = ["DropBranch", "Edit", "KeepChannels", "KeepTokens", "MaskWeights", "edit_of", "keep", "row_of"]


@dc.dataclass(frozen=True, slots=True)
class KeepChannels:
    """Keep only these channels of a group, in increasing order."""

    group: str
    indices: tuple[int, ...]


@dc.dataclass(frozen=True, slots=True)
class KeepTokens:
    """Keep `count` patch tokens at a block, chosen by a selector.

    Args:
        block: dotted path of the block after the selector.
        count: number of patches to keep, without class tokens and packages.
        selector: name of the selector.
        settings: settings of the selector and its package, as pairs sorted by name.
    """

    block: str
    count: int
    selector: str
    settings: tuple[tuple[str, bool | int | float | str], ...] = ()

    @property
    def group(self) -> str:
        """Name of the group whose size is the count."""
        return f"{self.block}:tokens"


@dc.dataclass(frozen=True, slots=True)
class DropBranch:
    """Remove a complete residual branch or parallel path; names are those of `Graph.branches` and `Graph.paths`."""

    branch: str


@dc.dataclass(frozen=True, slots=True)
class MaskWeights:
    """Set single weights of a parameter to zero; `Plan.bits` says which.

    Args:
        parameter: name of the parameter in the plan's dense network.
        digest: digest of the mask, by which `Plan.bits` holds it; see `PackedMask`.
        shape: shape of the parameter in the dense network.
        count: number of its weights that stay.
    """

    parameter: str
    digest: str
    shape: tuple[int, ...]
    count: int


Edit = KeepChannels | KeepTokens | DropBranch | MaskWeights

KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (KeepChannels, KeepTokens, DropBranch, MaskWeights)}


def row_of(edit: Edit) -> tuple[str, str, str, str]:
    """Row of a table for an edit: its kind, its group or block, the number of kept indices, and the indices."""
    match edit:
        case KeepChannels(group, indices):
            return "keep channels", group, str(len(indices)), shortened(indices)
        case KeepTokens(block, count, selector):
            return "keep tokens", block, str(count), f"by {selector}"
        case DropBranch(branch):
            return "drop branch", branch, "0", ""
        case MaskWeights(parameter, _, shape, count):
            return "mask weights", parameter, f"{count:,}", f"of {math.prod(shape):,} weights"


def keep(indices: Iterable[int], group: str, size: int) -> KeepChannels:
    """Make a checked `KeepChannels`.

    Raises:
        PlanError: there is no index, a repeated index, or an index outside the group.
    """
    chosen = tuple(sorted(int(index) for index in indices))
    if not chosen or len(set(chosen)) != len(chosen) or chosen[0] < 0 or chosen[-1] >= size:
        raise PlanError(f"group {group!r} has {size} channels; cannot keep {chosen[:8]}{'…' if chosen[8:] else ''}")
    return KeepChannels(group, chosen)


def edit_of(entry: dict[str, Any]) -> Edit:
    """Make an edit of its entry in the JSON of a plan.

    Raises:
        PlanError: channels are repeated or negative.
        KeyError, TypeError, ValueError: the entry is not that of an edit.
    """
    fields = {key: _tuples(value) for key, value in entry.items() if key != "kind"}
    for key, value in fields.items():
        fits = {"indices": tuple, "settings": tuple, "shape": tuple, "count": int}.get(key, str)
        if not isinstance(value, fits) or isinstance(value, bool):
            raise TypeError(f"{key} of an edit is {value!r}")
    edit: Edit = KINDS[entry["kind"]](**fields)
    if isinstance(edit, KeepChannels):
        return keep(edit.indices, edit.group, max(edit.indices, default=0) + 1)
    if isinstance(edit, MaskWeights) and not (
        all(type(length) is int and length >= 0 for length in edit.shape) and 0 <= edit.count <= math.prod(edit.shape)
    ):
        raise ValueError(f"the mask of {edit.parameter!r} keeps {edit.count} weights of the shape {edit.shape}")
    return edit


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
