"""Residual branches that can be dropped whole: `y = x + f(x)` without `f`."""

from __future__ import annotations

import bisect
import collections
import dataclasses as dc
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from edakari.core.graph import Branch
from edakari.graph.aliases import Memory
from edakari.graph.axes import size
from edakari.graph.flow import Flow, Record, Visit

__all__ = ["branches_of"]

SUMS = frozenset({"aten.add", "aten.add_"})

LINEAR = frozenset(
    "aten." + name
    for name in """
    view _unsafe_view reshape _reshape_alias permute transpose t unsqueeze squeeze expand clone
    detach alias contiguous roll slice select narrow flatten unflatten _to_copy neg native_dropout
    dropout dropout_
    """.split()
)
"""Operators of one tensor that make zeros of zeros."""

SCALED = frozenset({"aten.mul", "aten.mul_"})
DIVIDED = frozenset({"aten.div", "aten.div_"})


def branches_of(flow: Flow) -> tuple[Branch, ...]:
    """The branches of a traced forward pass, in order; one inside of another is listed too.

    A branch is what nothing but one side of a sum depends on, where the other side has no weights of its own. It can
    be dropped if it ends in modules: the last one returns zeros instead, and those before it pass on what they get.

    Args:
        flow: after the forward pass.
    """
    found = []
    search = _Search(flow)
    for place, record in enumerate(flow.records):
        if record.name not in SUMS or len(record.sources) != 2 or _broadcasts(record):
            continue
        for source in record.sources:
            other = next((each for each in record.sources if each != source), None)
            region = search.region(source, other, place) if source is not None else []
            branch = search.branch(region, source) if region and source is not None else None
            if branch is not None:
                found.append(branch)
    return _named(found, {flow.names[key]: math.prod(map(size, dims)) for key, dims in flow.stored.items()})


def _broadcasts(record: Record) -> bool:
    shapes = [[size(dim) for dim in dims] for dims in record.inputs]
    return any(shape != shapes[0] for shape in shapes)


class _Search:
    """Looks for branches in a traced forward pass."""

    def __init__(self, flow: Flow) -> None:
        self.records = flow.records
        self.memory = Memory(flow.records)
        self.ancestors = self._ancestors()
        self.readers = self._readers(flow)
        self.calls = flow.calls
        self.numbers = {id(visit): number for number, visit in enumerate(flow.calls)}
        self.weighty = sum(1 << place for place, record in enumerate(flow.records) if record.weights)
        self.uses = collections.Counter(name for record in flow.records for name in set(record.weights))
        counts = collections.Counter(visit.path for visit in flow.calls)
        self.visits = [visit for visit in flow.calls if visit.path and visit.places and counts[visit.path] == 1]
        self.starts = [visit.start for visit in self.visits]
        self.callers = _callers(self.visits)

    def _ancestors(self) -> list[int]:
        """For each record, itself and all that it depends on, as the bits of an integer."""
        found: list[int] = []
        for place, sources in enumerate(self.memory.sources):
            mine = 1 << place
            for source in sources:
                mine |= found[source]
            found.append(mine)
        return found

    def _readers(self, flow: Flow) -> dict[int, list[int]]:
        """For each record, those that read what it makes; beyond the last stands who called the network.

        What the outputs do not depend on reads nothing.
        """
        readers: dict[int, list[int]] = collections.defaultdict(list)
        end = len(self.records)
        for source in {seen for made in flow.returned for seen in self.memory.seen(made, end)}:
            readers[source].append(end)
        for place in range(len(self.records) - 1, -1, -1):
            if place in readers:
                for source in self.memory.sources[place]:
                    readers[source].append(place)
        return readers

    def region(self, source: int, other: int | None, end: int) -> list[int]:
        """What only a sum depends on, by way of one of the two tensors that it adds; empty if this is no branch.

        Args:
            source: the record that made this tensor.
            other: the one that made the other tensor; None for an input of the network.
            end: the sum.
        """
        kept = 0
        for seen in self.memory.seen(other, end):
            kept |= self.ancestors[seen]
        mine = self.ancestors[source] & ~kept
        if end not in self.readers or not mine & self.weighty or kept & ~self.ancestors[source] & self.weighty:
            return []
        # what is read elsewhere too, such as a table of positions that later blocks share, stays; so does what it needs
        inside: set[int] = {end}
        for place in reversed(_places(mine)):
            if all(reader in inside for reader in self.readers.get(place, ())):
                inside.add(place)
        inside.remove(end)
        return sorted(inside) if source in inside else []

    def branch(self, region: Sequence[int], source: int) -> Branch | None:
        """A region as a branch that can be dropped; None where that cannot be done.

        Args:
            region: as found above.
            source: the record among them that the sum reads.
        """
        inside = frozenset(region)
        modules = self._modules(region, inside)
        weighty = [visit for visit in modules if any(self.records[place].weights for place in visit.places)]
        if not weighty:
            return None
        last = max(weighty, key=lambda visit: visit.end)
        gone = [*(visit for visit in modules if visit.end <= last.start), last]
        places = {place for visit in gone for place in visit.places}
        if min(visit.returned for visit in gone) < 0 or source not in self._zeros(region, places, last):
            return None
        weights = collections.Counter(name for place in places for name in set(self.records[place].weights))
        order = dict.fromkeys(name for place in sorted(places) for name in self.records[place].weights)
        return Branch(
            name="",
            modules=tuple(visit.path for visit in gone[:-1]),
            exit=last.path,
            returned=tuple(visit.returned for visit in gone),
            operators=tuple(sorted(places)),
            parameters=tuple(name for name in order if weights[name] == self.uses[name]),
            calls=tuple(number for visit in gone for number in self._within(visit)),
            region=tuple(sorted(inside | places)),
            copies=self.memory.is_written(inside | places, by_others_than=places),
        )

    def _modules(self, region: Sequence[int], inside: frozenset[int]) -> list[Visit]:
        """The outermost module calls that lie wholly in a region, of modules that are called nowhere else."""
        first, last = bisect.bisect_left(self.starts, region[0]), bisect.bisect_right(self.starts, region[-1])

        def lies_inside(visit: Visit) -> bool:
            read = (place for place in visit.places if place in self.readers)
            return all(place in inside for place in read) and any(place in inside for place in visit.places)

        # one that begins before the region may have begun with what nobody reads
        candidates = [*self._enclosing(region[0], first), *self.visits[first:last]]
        found = [visit for visit in candidates if lies_inside(visit)]
        paths = {visit.path for visit in found}
        return [visit for visit in found if not any(above in paths for above in _above(visit.path))]

    def _enclosing(self, place: int, behind: int) -> Iterator[Visit]:
        """The calls that were running at a record, of those before one of `visits`, the innermost first."""
        number = behind - 1
        while number >= 0:
            if self.visits[number].end > place:
                yield self.visits[number]
            number = self.callers[number]

    def _within(self, visit: Visit) -> Iterator[int]:
        """The numbers of the calls that a call makes."""
        number = self.numbers[id(visit)] + 1
        while number < len(self.calls) and self.calls[number].depth > visit.depth:
            yield number
            number += 1

    def _zeros(self, region: Sequence[int], gone: Collection[int], last: Visit) -> set[int | str | None]:
        """The records that make zeros where a module returns zeros, and those before it are gone."""
        first = min(gone)
        lost = sum(1 << place - first for place in gone)

        def is_known(argument: int | str | None) -> bool:
            return not isinstance(argument, int) or not self.ancestors[argument] >> first & lost

        zeros: set[int | str | None] = set(last.made)
        for place in region:
            if place >= last.end and _stays_zero(self.records[place], zeros, is_known):
                zeros.add(place)
        return zeros


def _callers(visits: Sequence[Visit]) -> list[int]:
    """For each call, the number of the call that it lies in; -1 where there is none."""
    found: list[int] = []
    for number, visit in enumerate(visits):
        caller = number - 1
        while caller >= 0 and visits[caller].end < visit.end:
            caller = found[caller]
        found.append(caller)
    return found


def _stays_zero(
    record: Record, zeros: Collection[int | str | None], is_known: Callable[[int | str | None], bool]
) -> bool:
    """Whether an operator makes zeros of what are zeros among its arguments, the others being as they were or not."""
    arguments = record.arguments
    from_zeros = [argument in zeros for argument in arguments]
    if record.name in LINEAR:
        return bool(arguments) and from_zeros[0]
    if record.name == "aten.constant_pad_nd":
        return from_zeros[0] and not any(record.scalars)
    if record.name == "aten.copy_":
        return from_zeros[-1]
    # what passing modules make of other values may be infinite, and zero times that is no number
    sane = all(zero or is_known(argument) for argument, zero in zip(arguments, from_zeros, strict=True))
    if record.name in SCALED:
        return any(from_zeros) and sane and all(map(math.isfinite, record.scalars))
    return record.name in DIVIDED and from_zeros[0] and sane and not any(from_zeros[1:]) and all(record.scalars)


def _places(region: int) -> list[int]:
    """The bits of an integer that are set, rising."""
    start = (region & -region).bit_length() - 1
    return [start + place for place, bit in enumerate(reversed(bin(region >> start)[2:])) if bit == "1"]


def _above(path: str) -> Iterator[str]:
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def _named(branches: Sequence[Branch], sizes: Mapping[str, int]) -> tuple[Branch, ...]:
    """Named by the module that holds them, or else by the one with the most parameters, or else by the last one.

    The first of these names that no other branch has is taken; numbers tell apart what still has one name.
    """
    unique = list({(branch.modules, branch.exit): branch for branch in branches}.values())
    names = [_home(branch) for branch in unique]
    for other in (lambda branch: _heaviest(branch, sizes), lambda branch: branch.exit):
        counts = collections.Counter(names)
        names = [
            name if name and counts[name] == 1 else other(branch) for name, branch in zip(names, unique, strict=True)
        ]
    taken: collections.Counter[str] = collections.Counter()
    named = []
    for branch, name in zip(unique, names, strict=True):
        taken[name] += 1
        number = f"#{taken[name]}" if taken[name] > 1 else ""
        named.append(dc.replace(branch, name=f"{name}{number}:branch"))
    return tuple(named)


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
