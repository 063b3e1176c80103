"""The graph of a network as data: groups, the layout of every parameter, and what every operator costs."""

from __future__ import annotations

import dataclasses as dc
import functools
from collections.abc import Mapping
from typing import Any

from edakari.core.layout import Axis, Layout, axes
from edakari.core.space import Group
from edakari.core.summaries import of_graph

__all__ = ["Branch", "Graph", "InputSpec", "Member", "ModuleCall", "Operator", "OutputShape", "Step", "Unprunable"]

InputSpec = Any
"""The example input as JSON: tensors as `{"tensor": [shape, dtype]}` inside lists, objects and plain values.

A small tensor may also have `"values"`, its entries in row-major order; a single one stands for all.
"""


@dc.dataclass(frozen=True, slots=True)
class Operator:
    """One operator call of the traced forward pass.

    Args:
        name: full name, such as "aten.convolution".
        module: dotted path of the module that called it ("" is the network itself).
        outputs: layout of each dimension of each output tensor.
        macs: multiply-accumulates are the sum over these terms, each a constant times the extents of its layouts.
            Empty for an operator that does no multiply-accumulates or whose cost is not counted.
        weights: names of the parameters that it reads.
        inputs: layout of each dimension of each tensor that it reads, weights included, in the order of its arguments.
        settings: other arguments as plain values, such as a convolution's stride.
        sources: for each different tensor among `inputs` that is no parameter or buffer, in order, the index in
            `Graph.operators` of the call that made it; None for an input of the network.
    """

    name: str
    module: str
    outputs: tuple[tuple[Layout, ...], ...]
    macs: tuple[tuple[int, tuple[Layout, ...]], ...] = ()
    weights: tuple[str, ...] = ()
    inputs: tuple[tuple[Layout, ...], ...] = ()
    settings: Mapping[str, Any] = dc.field(default_factory=dict)
    sources: tuple[int | None, ...] = ()


@dc.dataclass(frozen=True, slots=True)
class ModuleCall:
    """One call of a module in the traced forward pass, by the layouts of tensors.

    Args:
        module: dotted path ("" is the network itself).
        inputs: layouts of the input tensors.
        outputs: layouts of the output tensors.
        made_shapes: shapes of the tensors that the module's own code made with explicit sizes (view, slice, zeros), per
            source line.
        input_sources: for each tensor among `inputs`, the index in `Graph.operators` of the call that made it; None for
            an input of the network.
        output_sources: the same of `outputs`.
    """

    module: str
    inputs: tuple[tuple[Layout, ...], ...]
    outputs: tuple[tuple[Layout, ...], ...]
    made_shapes: Mapping[str, tuple[tuple[Layout, ...], ...]] = dc.field(default_factory=dict)
    input_sources: tuple[int | None, ...] = ()
    output_sources: tuple[int | None, ...] = ()


@dc.dataclass(frozen=True, slots=True)
class Unprunable:
    """Why some positions cannot be pruned.

    Args:
        where: parameter and dimension, such as "fc.weight[0]".
        size: positions along that dimension that stay.
        reason: operator and module that fixed them, in words.
    """

    where: str
    size: int
    reason: str


Step = tuple[int, int, int]
"""Factor, shift and divisor: a length becomes `(length * factor + shift) // divisor`."""


@dc.dataclass(frozen=True, slots=True)
class OutputShape:
    """How the shape of a module's output follows from the shapes of its inputs, for inputs of any size.

    Args:
        operator: index in `Graph.operators` of the call that made the output.
        dims: for each dimension, the input tensor and its dimension that it follows, and the steps that the length goes
            through; None for a dimension whose layout in the graph holds for any input, such as channels.
    """

    operator: int
    dims: tuple[tuple[int, int, tuple[Step, ...]] | None, ...]


@dc.dataclass(frozen=True, slots=True)
class Branch:
    """A residual branch or a parallel path: one side of a sum that can be dropped whole.

    Args:
        name: from the module that holds it, ending in ":branch" or ":path".
        modules: dotted paths of its modules except the last; when it is dropped, they return their input.
        exit: dotted path of its last module, which then returns zeros.
        returned: for each of these modules, the exit last, the length of the tuple that it returns; 0 for a tensor.
        operators: indices in `Graph.operators` of the calls that are removed.
        parameters: names of the parameters that are removed.
        calls: indices in `Graph.calls` of the calls inside of its modules, which are removed.
        region: indices in `Graph.operators` of all calls that only the sum depends on. Those that are not removed run
            on the inputs that the modules return.
        copies: whether the modules return copies, because code that stays writes to the tensors in place.
        shapes: for each of its modules, the exit last, the shape of its output; all modules then return zeros of these
            shapes. Empty for a branch that keeps its input's shape.
    """

    name: str
    modules: tuple[str, ...]
    exit: str
    returned: tuple[int, ...]
    operators: tuple[int, ...]
    parameters: tuple[str, ...]
    calls: tuple[int, ...] = ()
    region: tuple[int, ...] = ()
    copies: bool = False
    shapes: tuple[OutputShape, ...] = ()

    @property
    def group(self) -> Group:
        """The branch as a group of one: size 1 keeps it, size 0 drops it."""
        return Group(self.name, "branch", 1, least=0)


@dc.dataclass(frozen=True, slots=True)
class Member:
    """One parameter or buffer dimension in which a group appears."""

    tensor: str
    dim: int
    layout: Layout


@dc.dataclass(frozen=True)
class Graph:
    """What can be pruned in a network, and what it costs; names and shapes only, no tensors.

    Args:
        groups: what can be pruned, in order of first use.
        layouts: for each parameter and buffer, the layout of each of its dimensions.
        parameters: the names among them that are parameters.
        operators: the calls of the traced forward pass, in order.
        calls: the module calls of the traced forward pass, in order.
        unprunable: what cannot be pruned, and why.
        inputs: the example that was traced.
        device: where it ran: "meta", or "cpu" for a network that looks at values.
        device_reason: what did not run on meta, in torch's words; empty where all did.
        attributes: layouts noted by rules that modules need to mend their attributes, such as ("conv1", "groups").
        branches: residual branches that can be dropped, in order; methods that prune depth take their groups too.
        paths: sides of sums that can be dropped and are no residual branches: parallel paths, of which all may have
            weights, and branches that change their input's shape. If all sides of a sum are dropped, it is zero.
        with_training: whether the code for training was traced too: the example has several arguments, or evaluation
            does not use all parameters.
        stored: for each parameter and buffer that a file of weights holds, the bytes of one position there.
        fingerprint: digest of the parameters' names and layouts; independent of batch size, device and versions.
    """

    groups: tuple[Group, ...]
    layouts: Mapping[str, tuple[Layout, ...]]
    parameters: tuple[str, ...]
    operators: tuple[Operator, ...]
    calls: tuple[ModuleCall, ...]
    unprunable: tuple[Unprunable, ...]
    inputs: InputSpec
    device: str
    attributes: Mapping[tuple[str, str], Layout]
    fingerprint: str
    device_reason: str = ""
    branches: tuple[Branch, ...] = ()
    paths: tuple[Branch, ...] = ()
    with_training: bool = False
    stored: Mapping[str, int] = dc.field(default_factory=dict)

    def __repr__(self) -> str:
        return of_graph(self).text()

    def _repr_html_(self) -> str:
        return of_graph(self).html()

    def __getitem__(self, name: str) -> Group:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def members(self, name: str) -> tuple[Member, ...]:
        """Where a group appears among the parameters and buffers, in order of the network's own listing."""
        return self._members.get(name, ())

    def layouts_of(self, module: str) -> tuple[tuple[Layout, ...], ...]:
        """Return the layouts of a module's own parameters and buffers, without those of its children."""
        return self._by_module.get(module, ())

    def attributes_of(self, module: str) -> tuple[str, ...]:
        """Return the names of a module's attributes in `attributes`."""
        return self._attributes_by_module.get(module, ())

    @functools.cached_property
    def _attributes_by_module(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {}
        for module, name in self.attributes:
            found.setdefault(module, []).append(name)
        return {module: tuple(names) for module, names in found.items()}

    @functools.cached_property
    def _by_module(self) -> dict[str, tuple[tuple[Layout, ...], ...]]:
        found: dict[str, list[tuple[Layout, ...]]] = {}
        for name, dims in self.layouts.items():
            found.setdefault(name.rpartition(".")[0], []).append(dims)
        return {module: tuple(layouts) for module, layouts in found.items()}

    @functools.cached_property
    def droppable(self) -> tuple[Branch, ...]:
        """All branches and paths; those that lie inside of another come before it."""
        return tuple(sorted((*self.branches, *self.paths), key=lambda branch: branch.region[-1]))

    def enclosing_branches(self, operator: int) -> tuple[Axis, ...]:
        """The branches and paths that an operator lies in, as layouts to multiply its cost by."""
        return self._around[0].get(operator, ())

    def enclosing_branches_of_tensor(self, name: str) -> tuple[Axis, ...]:
        """The branches and paths that a parameter or buffer goes with, as layouts to multiply its count by."""
        return self._around[1].get(name, ())

    @functools.cached_property
    def _around(self) -> tuple[dict[int, tuple[Axis, ...]], dict[str, tuple[Axis, ...]]]:
        operators: dict[int, tuple[Axis, ...]] = {}
        tensors: dict[str, tuple[Axis, ...]] = {}
        buffers = self.layouts.keys() - set(self.parameters)
        for branch in self.droppable:
            axis = (Axis(branch.name, 1),)
            operators.update({index: operators.get(index, ()) + axis for index in branch.operators})
            inside = tuple(f"{path}." for path in (*branch.modules, branch.exit))
            gone = (*branch.parameters, *(name for name in buffers if name.startswith(inside)))
            tensors.update({name: tensors.get(name, ()) + axis for name in gone})
        return operators, tensors

    @functools.cached_property
    def _by_name(self) -> dict[str, Group]:
        return {group.name: group for group in (*self.groups, *(branch.group for branch in self.droppable))}

    @functools.cached_property
    def _members(self) -> dict[str, tuple[Member, ...]]:
        found: dict[str, list[Member]] = {}
        for tensor, dims in self.layouts.items():
            for dim, layout in enumerate(dims):
                for name in dict.fromkeys(axis.group for axis in axes(layout)):
                    found.setdefault(name, []).append(Member(tensor, dim, layout))
        return {name: tuple(members) for name, members in found.items()}
