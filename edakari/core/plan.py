"""Plans: the edits to a network, as data."""

from __future__ import annotations

import dataclasses as dc
import hashlib
from collections.abc import Iterable
from typing import Any

from edakari.core.files import json_text
from edakari.core.graph import InputSpec
from edakari.core.reading import because, parse_json
from edakari.core.space import Sizes
from edakari.core.summaries import ROWS, input_text, rest
from edakari.core.tables import Table, shortened
from edakari.errors import PlanError

__all__ = ["DropBranch", "Edit", "KeepChannels", "KeepTokens", "MaskWeights", "Plan"]

VERSION = 1


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
    """Remove a complete residual branch; names are those of `Graph.branches`."""

    branch: str


@dc.dataclass(frozen=True, slots=True)
class MaskWeights:
    """Set single weights to zero; a file next to the plan, named by its digest, holds the mask."""

    parameter: str
    digest: str


Edit = KeepChannels | KeepTokens | DropBranch | MaskWeights

KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (KeepChannels, KeepTokens, DropBranch, MaskWeights)}


@dc.dataclass(frozen=True)
class Plan:
    """Edits of one network, in order.

    Args:
        edits: the edits.
        fingerprint: fingerprint of the graph that the plan was made for.
        inputs: the example that was traced, so that the network can be traced again.
        method: name of the method that made the plan.
        version: version of the format.
    """

    edits: tuple[Edit, ...]
    fingerprint: str
    inputs: InputSpec
    method: str = ""
    version: int = VERSION

    def __repr__(self) -> str:
        return self._table().text()

    def _repr_html_(self) -> str:
        return self._table().html()

    def _table(self) -> Table:
        return Table(
            f"Plan of {len(self.edits)} edits" + (f" by {self.method}" if self.method else ""),
            (("for input", input_text(self.inputs)), ("for graph", self.fingerprint[:12])),
            ("edit", "where", "kept", "which"),
            tuple(_row(edit) for edit in self.edits[:ROWS]),
            rest(len(self.edits), "edits"),
        )

    def then(self, later: Plan) -> Plan:
        """Join this plan with a later plan that was made for this plan's result.

        `apply(model, a.then(b))` equals `apply(apply(model, a), b)`.

        Raises:
            PlanError: the later plan keeps a channel that this one has already removed, or both prune tokens.
        """
        if any(isinstance(edit, KeepTokens) for edit in self.edits) and any(
            isinstance(edit, KeepTokens) and edit not in self.edits for edit in later.edits
        ):
            raise PlanError("both plans prune tokens; make one plan with all selectors for the original network")
        channels = {edit.group: edit.indices for edit in self.edits if isinstance(edit, KeepChannels)}
        for edit in later.edits:
            if isinstance(edit, KeepChannels):
                channels[edit.group] = _compose(edit, channels.get(edit.group))
        rest = [edit for plan in (self, later) for edit in plan.edits if not isinstance(edit, KeepChannels)]
        edits = (*(KeepChannels(group, indices) for group, indices in channels.items()), *dict.fromkeys(rest))
        return dc.replace(self, edits=edits, method=later.method or self.method)

    def __deepcopy__(self, memo: Any) -> Plan:
        return self

    def sizes(self) -> Sizes:
        """Return the size of each cut group, 0 for a dropped branch, and the number of patches kept at a block."""
        kept = {edit.group: len(edit.indices) for edit in self.edits if isinstance(edit, KeepChannels)}
        tokens = {edit.group: edit.count for edit in self.edits if isinstance(edit, KeepTokens)}
        return {**kept, **{edit.branch: 0 for edit in self.edits if isinstance(edit, DropBranch)}, **tokens}

    def tokens(self) -> tuple[KeepTokens, ...]:
        """Return the edits that prune tokens."""
        return tuple(edit for edit in self.edits if isinstance(edit, KeepTokens))

    def digest(self) -> str:
        """Compute the SHA-256 of the plan's JSON; equal plans have equal digests on every rank and machine."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Convert the plan to canonical JSON."""
        edits = [{"kind": type(edit).__name__, **dc.asdict(edit)} for edit in self.edits]
        content = {
            "version": self.version,
            "method": self.method,
            "fingerprint": self.fingerprint,
            "inputs": self.inputs,
            "edits": edits,
        }
        return json_text(content, "the plan", sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan from JSON.

        Raises:
            PlanError: the text is not a plan of this version.
        """
        try:
            content = parse_json(text)
            if content["version"] != VERSION:
                raise PlanError(
                    f"the plan has version {content['version']!r}; this edakari reads version {VERSION}. "
                    "Make the plan again, or install the version of edakari that made it."
                )
            edits = tuple(_edit(entry) for entry in content["edits"])
            return cls(edits, str(content["fingerprint"]), content["inputs"], str(content["method"]))
        except PlanError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"not a plan: {because(error)}. Was the file edited or cut short?") from None


def _row(edit: Edit) -> tuple[str, str, str, str]:
    """Row of a table for an edit: its kind, its group or block, the number of kept indices, and the indices."""
    match edit:
        case KeepChannels(group, indices):
            return "keep channels", group, str(len(indices)), shortened(indices)
        case KeepTokens(block, count, selector):
            return "keep tokens", block, str(count), f"by {selector}"
        case DropBranch(branch):
            return "drop branch", branch, "0", ""
        case MaskWeights(parameter):
            return "mask weights", parameter, "–", ""


def keep(indices: Iterable[int], group: str, size: int) -> KeepChannels:
    """Make a checked `KeepChannels`.

    Raises:
        PlanError: there is no index, a repeated index, or an index outside the group.
    """
    chosen = tuple(sorted(int(index) for index in indices))
    if not chosen or len(set(chosen)) != len(chosen) or chosen[0] < 0 or chosen[-1] >= size:
        raise PlanError(f"group {group!r} has {size} channels; cannot keep {chosen[:8]}{'…' if chosen[8:] else ''}")
    return KeepChannels(group, chosen)


def _compose(later: KeepChannels, earlier: tuple[int, ...] | None) -> tuple[int, ...]:
    if earlier is None:
        return later.indices
    if later.indices[-1] >= len(earlier):
        raise PlanError(
            f"the later plan keeps channel {later.indices[-1]} of group {later.group!r}, of which the earlier plan "
            f"keeps {len(earlier)}. Was it made for the result of the earlier plan?"
        )
    return tuple(earlier[index] for index in later.indices)


def _edit(entry: dict[str, Any]) -> Edit:
    fields = {key: _tuples(value) for key, value in entry.items() if key != "kind"}
    for key, value in fields.items():
        fits = {"indices": tuple, "settings": tuple, "count": int}.get(key, str)
        if not isinstance(value, fits) or isinstance(value, bool):
            raise TypeError(f"{key} of an edit is {value!r}")
    edit: Edit = KINDS[entry["kind"]](**fields)
    if isinstance(edit, KeepChannels):
        return keep(edit.indices, edit.group, max(edit.indices, default=0) + 1)
    return edit


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
