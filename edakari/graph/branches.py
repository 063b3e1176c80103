"""Sides of sums that can be dropped: residual branches, `y = x + f(x)` without `f`, and parallel paths."""

from __future__ import annotations

import bisect
import collections
import itertools
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence

from edakari.core.graph import Branch, OutputShape
from edakari.graph.algebra import DimExpr, leaves, size
from edakari.graph.aliases import Memory
from edakari.graph.axis_tracer import AxisTracer, CallRecord, OperatorRecord
from edakari.graph.branch_names import named_by_exit, named_by_home
from edakari.graph.operators import Trait, having, named
from edakari.graph.output_shapes import output_shape
from edakari.graph.residuals import residual_sums, stacked_sums

__all__ = ["branches_of"]

ZEROS = having(Trait.ZEROS)
PADS = frozenset(named("constant_pad"))
WRITES = frozenset(named("write"))
SCALED = frozenset(named("multiplication"))
SUMS = frozenset(named("addition"))
DIVIDED = frozenset(named("division"))


def branches_of(tracer: AxisTracer) -> tuple[tuple[Branch, ...], tuple[Branch, ...]]:
    """Find the branches and the parallel paths of a traced forward pass, in order; nested ones are listed too.

    Both consist of the operators that only one side of a sum depends on. The other side of a branch has no weights of
    its own, except those of branches that can be dropped too: `x + f(x) + g(x)`. Inside of a branch it may have any
    weights: parallel paths can all be dropped there, because the outer shortcut stays. All other sides are paths, and
    so are branches that change the shape of their input. A side can be dropped if it ends in modules: the last one then
    returns zeros. Those before it return their input, or zeros too if shapes change.

    Args:
        tracer: tracer after the forward pass.

    Returns:
        The branches and the paths.
    """
    search = _Search(tracer)
    sums = sorted((*residual_sums(tracer.records), *stacked_sums(tracer.records)))
    sides = {index: search.branches_at(index, search.weighty) for index in sums}
    found: dict[int, list[Branch]] = {}
    droppable = 0
    for index in sums:
        found[index] = search.branches_at(index, droppable) if sides[index] else []
        droppable |= _bits(found[index])
    inside = _bits(itertools.chain.from_iterable(found.values()))
    for index in sums:
        if inside >> index & 1:
            found[index] += sides[index]
    dims = {tracer.names[key]: each for key, each in tracer.stored.items()}
    residual = list(_different(itertools.chain.from_iterable(found.values())).values())
    named = named_by_home(residual, lambda name: math.prod(map(size, dims[name])))
    branches = tuple(branch for branch in named if not search.reshapes(branch))
    kept = {_key(branch) for branch in branches}
    rest = _different(itertools.chain.from_iterable(sides.values()))
    paths = [side for key, side in rest.items() if key not in kept]
    return branches, named_by_exit(paths)


def _key(branch: Branch) -> Hashable:
    return branch.modules, branch.exit


def _different(branches: Iterable[Branch]) -> dict[Hashable, Branch]:
    """Branches that differ in their modules, by these."""
    return {_key(branch): branch for branch in branches}


class _Search:
    """Searches branches in a traced forward pass."""

    def __init__(self, tracer: AxisTracer) -> None:
        self.records = tracer.records
        self.memory = Memory(tracer.records)
        self.ancestors = self._ancestors()
        self.readers = self._readers(tracer)
        self.calls = tracer.calls
        self.call_indices = {id(call_record): number for number, call_record in enumerate(tracer.calls)}
        self.weighty = sum(1 << index for index, record in enumerate(tracer.records) if record.weights)
        self.uses = collections.Counter(name for record in tracer.records for name in set(record.weights))
        counts = collections.Counter(call_record.path for call_record in tracer.calls)
        self.single_calls = [
            call_record
            for call_record in tracer.calls
            if call_record.path and call_record.indices and counts[call_record.path] == 1
        ]
        self.by_path = {call_record.path: call_record for call_record in self.single_calls}
        self.starts = [call_record.start for call_record in self.single_calls]
        self.callers = _callers(self.single_calls)

    def _ancestors(self) -> list[int]:
        """For each record, a bit mask of itself and of all records that it depends on."""
        found: list[int] = []
        for index, sources in enumerate(self.memory.sources):
            mine = 1 << index
            for source in sources:
                mine |= found[source]
            found.append(mine)
        return found

    def _readers(self, tracer: AxisTracer) -> dict[int, list[int]]:
        """For each record, the records that read its outputs; the caller of the network has the index after the last.

        Records that the network's outputs do not depend on are not listed as readers.
        """
        readers: dict[int, list[int]] = collections.defaultdict(list)
        end = len(self.records)
        for source in {seen for index in tracer.returned for seen in self.memory.seen(index, end)}:
            readers[source].append(end)
        for index in range(len(self.records) - 1, -1, -1):
            if index in readers:
                for source in self.memory.sources[index]:
                    readers[source].append(index)
        return readers

    def branches_at(self, end: int, allowed: int) -> list[Branch]:
        """Find the branches that end in a sum, on any of its sides.

        Args:
            end: record of the sum.
            allowed: bit mask of the records whose weights the other side may have for itself.
        """
        found = []
        sources = self.records[end].sources
        for source in sources:
            others = [each for each in sources if each != source]
            region = self._region(source, others, end, allowed) if source is not None else []
            branch = self._branch(region, source) if region and source is not None else None
            if branch is not None:
                found.append(branch)
        return found

    def _region(self, source: int, sides: Iterable[int | None], end: int, allowed: int) -> list[int]:
        """Find the records that a sum depends on through one of its tensors only; empty if this is no branch.

        Args:
            source: record that made this tensor.
            sides: records that made its other tensors; None for an input of the network.
            end: record of the sum.
            allowed: see `branches_at`.
        """
        others = 0
        for seen in itertools.chain.from_iterable(self.memory.seen(side, end) for side in sides):
            others |= self.ancestors[seen]
        mine = self.ancestors[source] & ~others
        if (
            end not in self.readers
            or not mine & self.weighty
            or others & ~self.ancestors[source] & self.weighty & ~allowed
        ):
            return []
        # tensors that are read elsewhere too, such as a table of positions for later blocks, stay; so do their inputs
        inside: set[int] = {end}
        for index in reversed(_set_bits(mine)):
            if all(reader in inside for reader in self.readers.get(index, ())):
                inside.add(index)
        inside.remove(end)
        return sorted(inside) if source in inside else []

    def _branch(self, region: Sequence[int], source: int) -> Branch | None:
        """Make a branch of a region; None if it cannot be dropped.

        Args:
            region: records of the region, see `_region`.
            source: record among them whose output the sum reads.
        """
        inside = frozenset(region)
        modules = self._modules(region, inside)
        weighty = [
            call_record for call_record in modules if any(self.records[index].weights for index in call_record.indices)
        ]
        if not weighty:
            return None
        last = max(weighty, key=lambda call_record: call_record.end)
        gone = [*(call_record for call_record in modules if call_record.end <= last.start), last]
        indices = {index for call_record in gone for index in call_record.indices}
        if min(call_record.returned for call_record in gone) < 0 or source not in self._zeros(region, indices, last):
            return None
        shapes = self._shapes(gone, inside - indices)
        if shapes is None:
            return None
        weights = collections.Counter(name for index in indices for name in set(self.records[index].weights))
        order = dict.fromkeys(name for index in sorted(indices) for name in self.records[index].weights)
        return Branch(
            name="",
            modules=tuple(call_record.path for call_record in gone[:-1]),
            exit=last.path,
            returned=tuple(call_record.returned for call_record in gone),
            operators=tuple(sorted(indices)),
            parameters=tuple(name for name in order if weights[name] == self.uses[name]),
            calls=tuple(number for call_record in gone for number in self._within(call_record)),
            region=tuple(sorted(inside | indices)),
            copies=self.memory.is_written(inside | indices, by_others_than=indices),
            shapes=shapes,
        )

    def _shapes(self, gone: Sequence[CallRecord], staying: Iterable[int]) -> tuple[OutputShape, ...] | None:
        """Shapes of the modules' outputs; empty if the modules return their input.

        Args:
            gone: calls of the modules.
            staying: records of the region that still run.

        Returns:
            The shapes; None if products stay, which must run on the shapes that are counted, and a shape is unknown.
        """
        products = any(self.records[index].macs for index in staying)
        if not products and not self._reshape(gone):
            return ()
        shapes = [output_shape(call_record, self.records) for call_record in gone]
        if all(shapes):
            return tuple(shape for shape in shapes if shape is not None)
        return None if products else ()

    def reshapes(self, branch: Branch) -> bool:
        """Whether a branch that can be dropped ends in another shape than those that its modules receive."""
        return bool(branch.shapes) and self._reshape([self.by_path[path] for path in (*branch.modules, branch.exit)])

    def _reshape(self, calls: Sequence[CallRecord]) -> bool:
        """Whether the last of these calls returns another shape than those that enter them from outside."""
        inside = sum(1 << index for call_record in calls for index in call_record.indices)
        entering = [
            dims
            for call_record in calls
            for dims, source in zip(call_record.inputs[:1], call_record.input_sources, strict=False)
            if source is None or not self.ancestors[source] & inside
        ]
        last = calls[-1].outputs[0] if calls[-1].outputs else ()
        return not any(_same_positions(dims, last) for dims in entering)

    def _modules(self, region: Sequence[int], inside: frozenset[int]) -> list[CallRecord]:
        """The outermost module calls inside of a region, of modules that are called only once."""
        first, last = bisect.bisect_left(self.starts, region[0]), bisect.bisect_right(self.starts, region[-1])

        def lies_inside(call_record: CallRecord) -> bool:
            read = (index for index in call_record.indices if index in self.readers)
            return all(index in inside for index in read) and any(index in inside for index in call_record.indices)

        # a call that begins before the region may begin with operators whose results nothing reads
        candidates = [*self._enclosing(region[0], first), *self.single_calls[first:last]]
        found = [call_record for call_record in candidates if lies_inside(call_record)]
        paths = {call_record.path for call_record in found}
        return [call_record for call_record in found if not any(above in paths for above in _above(call_record.path))]

    def _enclosing(self, index: int, behind: int) -> Iterator[CallRecord]:
        """The calls among the first `behind` of `single_calls` that were running at a record, innermost first."""
        number = behind - 1
        while number >= 0:
            if self.single_calls[number].end > index:
                yield self.single_calls[number]
            number = self.callers[number]

    def _within(self, call_record: CallRecord) -> Iterator[int]:
        """Indices of the calls inside of a call."""
        number = self.call_indices[id(call_record)] + 1
        while number < len(self.calls) and self.calls[number].depth > call_record.depth:
            yield number
            number += 1

    def _zeros(self, region: Sequence[int], gone: Collection[int], last: CallRecord) -> set[int | str | None]:
        """The records that return zeros if the last module returns zeros and those before it are removed."""
        first = min(gone)
        lost = sum(1 << index - first for index in gone)

        def is_known(argument: int | str | None) -> bool:
            return not isinstance(argument, int) or not self.ancestors[argument] >> first & lost

        zeros: set[int | str | None] = set(last.output_sources)
        for index in region:
            if index >= last.end and _stays_zero(self.records[index], zeros, is_known):
                zeros.add(index)
        return zeros


def _same_positions(dims: Sequence[DimExpr], others: Sequence[DimExpr]) -> bool:
    """Whether permutations and views, which remain in a network, may lead from one shape to the other.

    They do not if other channels are cut in one than in the other, even if there are as many before.
    """
    shape, other = ([size(dim) for dim in each] for each in (dims, others))
    if {id(axis) for dim in dims for axis in leaves(dim)} != {id(axis) for dim in others for axis in leaves(dim)}:
        return False
    return sorted(shape) == sorted(other) or (len(shape) != len(other) and math.prod(shape) == math.prod(other))


def _callers(calls: Sequence[CallRecord]) -> list[int]:
    """For each call, the index of the call that encloses it; -1 if there is none."""
    found: list[int] = []
    for number, call_record in enumerate(calls):
        caller = number - 1
        while caller >= 0 and calls[caller].end < call_record.end:
            caller = found[caller]
        found.append(caller)
    return found


def _stays_zero(
    record: OperatorRecord, zeros: Collection[int | str | None], is_known: Callable[[int | str | None], bool]
) -> bool:
    """Whether an operator returns zeros, given which of its arguments are zeros and which have their usual values."""
    arguments = record.arguments
    from_zeros = [argument in zeros for argument in arguments]
    if record.name in ZEROS:
        return bool(arguments) and from_zeros[0]
    if record.name in PADS:
        return from_zeros[0] and not any(record.scalars)
    if record.name in SUMS:  # `sum` of Python adds 0 to the first
        return len(arguments) == 1 and from_zeros[0] and not any(record.scalars)
    if record.name in WRITES:
        return from_zeros[-1]
    # passing modules may produce infinite values, and zero times infinity is NaN
    sane = all(zero or is_known(argument) for argument, zero in zip(arguments, from_zeros, strict=True))
    if record.name in SCALED:
        return any(from_zeros) and sane and all(map(math.isfinite, record.scalars))
    return record.name in DIVIDED and from_zeros[0] and sane and not any(from_zeros[1:]) and all(record.scalars)


def _bits(branches: Iterable[Branch]) -> int:
    """A bit mask of the records of branches."""
    return sum(1 << index for index in {index for branch in branches for index in branch.region})


def _set_bits(region: int) -> list[int]:
    """Indices of the set bits of an integer, in ascending order."""
    start = (region & -region).bit_length() - 1
    return [start + index for index, bit in enumerate(reversed(bin(region >> start)[2:])) if bit == "1"]


def _above(path: str) -> Iterator[str]:
    while "." in path:
        path = path.rpartition(".")[0]
        yield path
