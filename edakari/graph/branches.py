"""Residual branches that can be dropped whole: `y = x + f(x)` without `f`."""

from __future__ import annotations

import collections
import dataclasses as dc
import functools
import math
import operator
from collections.abc import Iterator, Mapping, Sequence

from edakari.core.graph import Branch
from edakari.graph.axes import size
from edakari.graph.flow import Flow, Record, Visit

__all__ = ["branches_of"]

SUMS = frozenset({"aten.add", "aten.add_"})

LINEAR = frozenset(
    "aten." + name
    for name in """
    mul mul_ div div_ view _unsafe_view reshape _reshape_alias permute transpose t unsqueeze squeeze expand clone
    detach alias contiguous roll slice select narrow constant_pad_nd flatten unflatten _to_copy neg native_dropout
    dropout dropout_ copy_
    """.split()
)
"""Operators that make zeros of zeros."""


def branches_of(flow: Flow) -> tuple[Branch, ...]:
    """The branches of a traced forward pass, in order; one inside of another is listed too.

    A branch is what only one side of a sum depends on, where the other side has no weights of its own. It can be
    dropped if it ends in modules: the last one returns zeros instead, and those before it pass on what they get.

    Args:
        flow: after the forward pass.
    """
    records = flow.records
    ancestors = _ancestors(records)
    readers = _readers(flow, ancestors)
    found: list[Branch] = []
    for place, record in enumerate(records):
        made = [source for source in record.sources if source is not None]
        if record.name not in SUMS or len(record.sources) != 2 or not made:
            continue
        for source in made:
            other = next((each for each in record.sources if each != source), None)
            kept = 0 if other is None else ancestors[other]
            region = ancestors[source] & ~kept
            alone = kept & ~ancestors[source]
            if not _reads_weights(records, region) or _reads_weights(records, alone) or _broadcasts(record):
                continue
            if _closed(region, readers, place):
                branch = _branch(flow, region, readers)
                if branch is not None:
                    found.append(branch)
    return _named(found, {flow.names[key]: math.prod(map(size, dims)) for key, dims in flow.stored.items()})


def _ancestors(records: Sequence[Record]) -> list[int]:
    """For each record, itself and all that it depends on, as the bits of an integer."""
    found: list[int] = []
    for place, record in enumerate(records):
        mine = 1 << place
        for source in record.sources:
            if source is not None:
                mine |= found[source]
        found.append(mine)
    return found


def _readers(flow: Flow, ancestors: Sequence[int]) -> dict[int, set[int]]:
    """For each record, those that read what it makes; beyond the last stands who called the network.

    What the outputs do not depend on, such as a mask that is filled in place, reads nothing.
    """
    readers: dict[int, set[int]] = collections.defaultdict(set)
    alive = functools.reduce(operator.or_, (ancestors[place] for place in flow.returned), 0)
    for place in _places(alive):
        for source in flow.records[place].sources:
            if source is not None:
                readers[source].add(place)
    for source in flow.returned:
        readers[source].add(len(flow.records))
    return readers


def _places(region: int) -> Iterator[int]:
    while region:
        lowest = region & -region
        yield lowest.bit_length() - 1
        region ^= lowest


def _broadcasts(record: Record) -> bool:
    shapes = [[size(dim) for dim in dims] for dims in record.inputs]
    return any(shape != shapes[0] for shape in shapes)


def _reads_weights(records: Sequence[Record], region: int) -> bool:
    return any(records[place].weights for place in _places(region))


def _closed(region: int, readers: Mapping[int, set[int]], end: int) -> bool:
    """Whether nothing but the sum reads what a region makes."""
    return all(reader == end or region >> reader & 1 for place in _places(region) for reader in readers.get(place, ()))


def _branch(flow: Flow, region: int, readers: Mapping[int, set[int]]) -> Branch | None:
    modules = _modules(flow, region, readers)
    weighty = [visit for visit in modules if any(flow.records[place].weights for place in visit.places)]
    if not weighty:
        return None
    last = max(weighty, key=lambda visit: visit.end)
    gone = [*(visit for visit in modules if visit.end <= last.start), last]
    tail = [flow.records[place] for place in _places(region) if place >= last.end]
    if min(visit.returned for visit in gone) < 0 or not all(record.name in LINEAR for record in tail):
        return None
    places = {place for visit in gone for place in visit.places}
    weights = dict.fromkeys(name for place in sorted(places) for name in flow.records[place].weights)
    others = {name for place, record in enumerate(flow.records) if place not in places for name in record.weights}
    return Branch(
        name="",
        modules=tuple(visit.path for visit in gone[:-1]),
        exit=last.path,
        returned=tuple(visit.returned for visit in gone),
        operators=tuple(sorted(places)),
        parameters=tuple(name for name in weights if name not in others),
    )


def _modules(flow: Flow, region: int, readers: Mapping[int, set[int]]) -> list[Visit]:
    """The outermost module calls that lie wholly in a region, of modules that are called nowhere else."""
    counts = collections.Counter(visit.path for visit in flow.calls)

    def lies_inside(visit: Visit) -> bool:
        read = [place for place in visit.places if place in readers]
        return bool(read) and all(region >> place & 1 for place in read)

    inside = [
        visit for visit in flow.calls if visit.path and visit.places and counts[visit.path] == 1 and lies_inside(visit)
    ]
    paths = {visit.path for visit in inside}
    return [visit for visit in inside if not any(_is_above(other, visit.path) for other in paths)]


def _is_above(path: str, other: str) -> bool:
    return other.startswith(path + ".")


def _named(branches: Sequence[Branch], sizes: Mapping[str, int]) -> tuple[Branch, ...]:
    """Named by the module that holds them, or where that holds several, by the one with the most parameters."""
    unique = {(branch.modules, branch.exit): branch for branch in branches}
    homes = {key: _home(branch) for key, branch in unique.items()}
    counts = collections.Counter(homes.values())
    return tuple(
        dc.replace(branch, name=f"{home if home and counts[home] == 1 else _heaviest(branch, sizes)}:branch")
        for key, branch in unique.items()
        for home in [homes[key]]
    )


def _heaviest(branch: Branch, sizes: Mapping[str, int]) -> str:
    return max(
        (*branch.modules, branch.exit),
        key=lambda path: sum(sizes[name] for name in branch.parameters if name.startswith(path + ".")),
    )


def _home(branch: Branch) -> str:
    paths = [path.split(".") for path in (*branch.modules, branch.exit)]
    if len(paths) == 1:
        return branch.exit
    shared = 0
    while all(len(path) > shared + 1 and path[shared] == paths[0][shared] for path in paths):
        shared += 1
    return ".".join(paths[0][:shared])
