"""Plans: the edits to a network, as data."""

from __future__ import annotations

import dataclasses as dc
import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edakari.core.edits import DropBranch, Edit, KeepChannels, KeepTokens, MaskWeights, edit_of, keep, row_of
from edakari.core.files import json_text
from edakari.core.graph import Graph, InputSpec
from edakari.core.layout import Layout, Mask, axes, kept
from edakari.core.packed_masks import PackedMask
from edakari.core.reading import because, parse_json
from edakari.core.space import Sizes
from edakari.core.summaries import ROWS, input_text, rest
from edakari.core.tables import Table
from edakari.errors import PlanError

if TYPE_CHECKING:
    from edakari.core.weight_masks import WeightMasks

__all__ = ["DropBranch", "Edit", "KeepChannels", "KeepTokens", "MaskWeights", "Plan", "channel_masks", "joined", "keep"]

VERSION = 1


Layouts = Mapping[str, tuple[Layout, ...]]
"""For each parameter and buffer, the layout of each of its dimensions; see `Graph.layouts`."""


@dc.dataclass(frozen=True)
class Plan:
    """Edits of one network, in order.

    Args:
        edits: the edits.
        fingerprint: fingerprint of the graph that the plan was made for.
        inputs: the example that was traced, so that the network can be traced again.
        method: name of the method that made the plan.
        version: version of the format.
        bits: masks of `MaskWeights` by their digests, for all weights of the dense network, those of channels that the
            plan removes included. Not part of the JSON, which names the digests; `save` writes them into a file beside
            it. Plans whose JSON is equal are equal.
    """

    edits: tuple[Edit, ...]
    fingerprint: str
    inputs: InputSpec
    method: str = ""
    version: int = VERSION
    bits: Mapping[str, bytes] = dc.field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        return self._table().text()

    def _repr_html_(self) -> str:
        return self._table().html()

    def _table(self) -> Table:
        return Table(
            f"Plan of {len(self.edits)} edits" + (f" by {self.method}" if self.method else ""),
            (("for input", input_text(self.inputs)), ("for graph", self.fingerprint[:12])),
            ("edit", "where", "kept", "which"),
            tuple(row_of(edit) for edit in self.edits[:ROWS]),
            rest(len(self.edits), "edits"),
        )

    def then(self, later: Plan, graph: Graph | None = None) -> Plan:
        """Join this plan with a later plan that was made for this plan's result.

        `apply(model, a.then(b))` equals `apply(apply(model, a), b)`.

        Args:
            later: the later plan.
            graph: graph of this plan's dense network; needed if this plan cuts channels and the later plan masks
                weights, whose places in the dense network it knows.

        Raises:
            PlanError: the later plan keeps a channel that this one has already removed, or masks weights that it does
                not leave; or both prune tokens; or the graph is missing or of another network.
        """
        if graph is not None and graph.fingerprint != self.fingerprint:
            raise PlanError("then(later, graph): the graph is of another network than the one the plan was made for")
        return joined(self, later, None if graph is None else graph.layouts)

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

    def packed_masks(self) -> dict[str, PackedMask]:
        """Return the mask of each masked parameter as packed bits.

        Raises:
            PlanError: the plan comes without the bits, or they are damaged.
        """
        return {edit.parameter: _packed(edit, self.bits) for edit in self.edits if isinstance(edit, MaskWeights)}

    def masks(self) -> WeightMasks:
        """Return the masks of weights as bool tensors of the dense network's shapes; see `packed_masks`."""
        from edakari.core.weight_masks import WeightMasks  # torch takes seconds to import

        return WeightMasks.unpack(self.packed_masks())

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
            edits = tuple(edit_of(entry) for entry in content["edits"])
            return cls(edits, str(content["fingerprint"]), content["inputs"], str(content["method"]))
        except PlanError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"not a plan: {because(error)}. Was the file edited or cut short?") from None


def joined(earlier: Plan, later: Plan, layouts: Layouts | None) -> Plan:
    """Join two plans; see `Plan.then`.

    Args:
        earlier: a plan.
        later: a plan for the earlier one's result.
        layouts: layouts of the earlier plan's dense network; None where they are not known.
    """
    if any(isinstance(edit, KeepTokens) for edit in earlier.edits) and any(
        isinstance(edit, KeepTokens) and edit not in earlier.edits for edit in later.edits
    ):
        raise PlanError("both plans prune tokens; make one plan with all selectors for the original network")
    channels = {edit.group: edit.indices for edit in earlier.edits if isinstance(edit, KeepChannels)}
    for edit in later.edits:
        if isinstance(edit, KeepChannels):
            channels[edit.group] = _compose(edit, channels.get(edit.group))
    every = [edit for plan in (earlier, later) for edit in plan.edits]
    rest = [edit for edit in every if not isinstance(edit, KeepChannels | MaskWeights)]
    masks, bits = _joined_masks(earlier, later, layouts)
    edits = (*(KeepChannels(group, indices) for group, indices in channels.items()), *dict.fromkeys(rest), *masks)
    return dc.replace(earlier, edits=edits, method=later.method or earlier.method, bits=bits)


def channel_masks(plan: Plan, layouts: Iterable[Layout]) -> dict[str, Mask]:
    """Return, for each group of these layouts that a plan cuts, which channels it keeps, bool [size]."""
    indices = {edit.group: edit.indices for edit in plan.edits if isinstance(edit, KeepChannels)}
    found: dict[str, Mask] = {}
    for axis in (axis for layout in layouts for axis in axes(layout) if axis.group in indices):
        found[axis.group] = np.isin(np.arange(axis.size), indices[axis.group])
    return found


def _joined_masks(earlier: Plan, later: Plan, layouts: Layouts | None) -> tuple[list[MaskWeights], dict[str, bytes]]:
    """Masks of both plans for the dense network of the earlier one; a weight stays if both keep it."""
    found = {edit.parameter: edit for edit in earlier.edits if isinstance(edit, MaskWeights)}
    bits = {**later.bits, **earlier.bits}
    cuts = any(isinstance(edit, KeepChannels) for edit in earlier.edits)
    for edit in later.edits:
        if not isinstance(edit, MaskWeights):
            continue
        if cuts:
            edit, bits[edit.digest] = _spread(edit, _packed(edit, later.bits), earlier, layouts)
        before = found.get(edit.parameter)
        if before is not None and before != edit:
            if before.shape != edit.shape:
                raise PlanError(
                    f"the later plan masks {edit.parameter!r} with shape {[*edit.shape]}, the earlier one with shape "
                    f"{[*before.shape]}. Was it made for the result of the earlier plan?"
                )
            both = PackedMask.of(_packed(before, bits).array() & _packed(edit, bits).array())
            edit = MaskWeights(edit.parameter, both.digest, both.shape, both.count)
            bits[both.digest] = both.bits
        found[edit.parameter] = edit
    return list(found.values()), {edit.digest: bits[edit.digest] for edit in found.values() if edit.digest in bits}


def _spread(edit: MaskWeights, mask: PackedMask, earlier: Plan, layouts: Layouts | None) -> tuple[MaskWeights, bytes]:
    """A mask of a cut parameter as one of the dense parameter, whose removed weights it keeps."""
    if layouts is None:
        raise PlanError(
            f"the later plan masks weights ({edit.parameter!r}), and the earlier one cuts channels: pass the graph of "
            "the dense network, as in earlier.then(later, graph=graph)"
        )
    if edit.parameter not in layouts:
        raise PlanError(f"the later plan masks {edit.parameter!r}, which the earlier plan's network does not have")
    dims = layouts[edit.parameter]
    chosen = [kept(dim, channel_masks(earlier, dims)) for dim in dims]
    left = tuple(int(each.sum()) for each in chosen)
    if left != mask.shape:
        raise PlanError(
            f"the later plan masks {edit.parameter!r} with shape {[*mask.shape]}, of which the earlier plan leaves the "
            f"shape {[*left]}. Was it made for the result of the earlier plan?"
        )
    dense = np.ones([len(each) for each in chosen], dtype=np.bool_)
    dense[np.ix_(*chosen)] = mask.array()
    packed = PackedMask.of(dense)
    return MaskWeights(edit.parameter, packed.digest, packed.shape, packed.count), packed.bits


def _packed(edit: MaskWeights, bits: Mapping[str, bytes]) -> PackedMask:
    if edit.digest not in bits:
        raise PlanError(
            f"the plan masks weights of {edit.parameter!r}, but comes without the bits that say which: its JSON alone "
            "does not hold them. Read it by edakari.surgery.load_plan from a folder with masks.safetensors."
        )
    return PackedMask(edit.shape, bits[edit.digest]).checked(edit.parameter, edit.digest)


def _compose(later: KeepChannels, earlier: tuple[int, ...] | None) -> tuple[int, ...]:
    if earlier is None:
        return later.indices
    if later.indices[-1] >= len(earlier):
        raise PlanError(
            f"the later plan keeps channel {later.indices[-1]} of group {later.group!r}, of which the earlier plan "
            f"keeps {len(earlier)}. Was it made for the result of the earlier plan?"
        )
    return tuple(earlier[index] for index in later.indices)
