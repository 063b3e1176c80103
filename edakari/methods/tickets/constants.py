"""Neutral removal: the constants that dead units emit are folded into what follows, before the units are cut.

A unit whose gate is 0 emits a constant: its batch norm's bias, after the activation. In training mode a batch norm
behind the layer that reads it subtracts that constant again. In evaluation mode it does not, so its running mean must
move by what the layer makes of the constant (section 4.5 of our specification of SuperTickets).

The constants are measured rather than derived: the network runs on two random inputs with the dead gates at exactly 0.
What the dead units then give to a layer must be equal for both; that is so for any activation, pooling or resizing, and
not so behind squeeze-and-excitation, where another factor depends on the input.
"""

from __future__ import annotations

import contextlib
import dataclasses as dc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from edakari.core.graph import Branch, Graph, Operator
from edakari.core.layout import extent, kept
from edakari.core.modes import eval_mode
from edakari.core.processes import Processes
from edakari.graph import call, example_for
from edakari.graph.operators import BATCH_NORMS, named
from edakari.methods.masking.consumers import names_in, structure_of
from edakari.methods.tickets.gates import LAST, units_in
from edakari.methods.tickets.survivors import Keep
from edakari.surgery.differences import other_inputs
from edakari.train.scope import random_state_kept

__all__ = ["Removal", "fold_constants"]

SUMS = frozenset(named("addition", "dropout"))
CONCATENATIONS = frozenset(named("concatenation"))
LAYERS = (nn.Linear, _ConvNd)


@dc.dataclass(frozen=True)
class Removal:
    """What an event removes from a network, in the names of its current graph.

    Args:
        keep: for each group that loses units, which of its units stay, bool [units].
        norms: names of the batch norm weights that gate each of these groups.
        dropped: branches and paths that are dropped.
    """

    keep: Keep
    norms: Mapping[str, Sequence[str]]
    dropped: Sequence[Branch] = ()


@torch.no_grad()
def fold_constants(model: nn.Module, graph: Graph, removal: Removal) -> tuple[str, ...]:
    """Fold the constants of units and branches that will be removed into biases and running means behind them.

    Call it right before the cut. The network then computes in evaluation mode, with the dead gates at 0, what it will
    compute after the cut. The fold is exact behind layers without padding; with padding, borders see other values than
    the mean that is folded.

    Args:
        model: the network, changed in place.
        graph: its graph.
        removal: what will be removed.

    Returns:
        Groups and branches of which constants are left, because they depend on the input, or because neither a bias nor
        a batch norm takes them. Recalibrate batch norms after the cut for those.
    """
    probes, left = _probes(model, graph, removal)
    device = next(iter(model.parameters())).device
    example = example_for(model, graph.inputs, str(device))
    handles = [probe.module.register_forward_hook(probe) for probe in probes]
    try:
        with eval_mode(model), _gates_closed(model, graph, removal), random_state_kept():
            for seed in (0, 1):
                torch.manual_seed(0)
                call(model, other_inputs(example, seed))
    finally:
        for handle in handles:
            handle.remove()
    for probe in probes:
        if not probe.fold():
            left.extend(probe.names)
    return tuple(dict.fromkeys(left))


class _Probe:
    """Measures the constant that reaches a layer, or that a branch ends in; run state.

    Args:
        module: the layer that reads the units, or the last module of the branch.
        gone: positions of removed units among the layer's inputs, bool [inputs]; None for a branch.
        targets: running means (to lower) and biases (to raise) that take the constant; None if there is no place.
        names: names of the groups or the branch.
    """

    def __init__(
        self, module: nn.Module, gone: torch.Tensor | None, targets: _Targets | None, names: Sequence[str]
    ) -> None:
        self.module, self.gone, self.targets, self.names = module, gone, targets, names
        self.seen: torch.Tensor | None = None
        self.shift: torch.Tensor | None = None
        self.steady = False

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Compare what is seen with the first input's, and measure the constant with the second."""
        value = args[0] if self.gone is not None else output
        if not isinstance(value, torch.Tensor):
            return
        dim = value.dim() - 1 if isinstance(module, nn.Linear) else 1
        if self.seen is None:
            self.seen = value
            return
        if self.seen.shape != value.shape:
            return
        tolerance = 64 * torch.finfo(value.dtype).eps
        differs = (self.seen - value).abs() > tolerance * value.abs().clamp(min=1)
        unsteady = differs.movedim(dim, 0).flatten(1).any(1)
        if self.gone is None:
            self.steady, made = not bool(unsteady.any()), value
        else:
            gone = self.gone.to(value.device)
            self.steady = not bool((unsteady & gone).any())
            shape = [-1 if index == dim else 1 for index in range(value.dim())]
            made = type(module).forward(module, value * (gone & ~unsteady).view(shape).to(value.dtype))
            if isinstance(module.bias, torch.Tensor):
                made = made - module.bias.view([-1 if index == dim else 1 for index in range(made.dim())])
        self.shift = made.movedim(dim, 0).flatten(1).mean(1)

    def fold(self) -> bool:
        """Fold the constant; returns False if some of it is left."""
        shift, steady = Processes.here().from_main(
            lambda: (None if self.shift is None else self.shift.cpu(), self.steady)
        )
        if shift is None or self.targets is None:
            return False
        if self.gone is not None or steady:
            for mean in self.targets.means:
                mean -= shift.to(mean)
            for bias in self.targets.biases:
                bias += shift.to(bias)
        return bool(steady)


@dc.dataclass(frozen=True)
class _Targets:
    """Tensors that take a constant."""

    means: Sequence[torch.Tensor] = ()
    biases: Sequence[torch.Tensor] = ()


def _probes(model: nn.Module, graph: Graph, removal: Removal) -> tuple[list[_Probe], list[str]]:
    """The probes, and the groups that are read by something else than layers."""
    structure = structure_of(graph)
    ways = _Ways(model, graph, removal.dropped)
    probes, found = [], set[str]()
    for consumer in structure.consumers:
        names = [name for name in names_in(graph.layouts[consumer.weight][consumer.dim]) if name in removal.keep]
        found.update(names)
        module = model.get_submodule(consumer.caller)
        # of a grouped convolution, outputs go with the inputs that they are made of
        if names and consumer.weight not in ways.lost and getattr(module, "groups", 1) == 1:
            gone = ~kept(graph.layouts[consumer.weight][consumer.dim], {name: removal.keep[name] for name in names})
            probes.append(_Probe(module, torch.from_numpy(gone), ways.from_layer(consumer.caller), names))
    for branch in removal.dropped:
        targets = ways.from_branch(branch.exit)
        probes.append(_Probe(model.get_submodule(branch.exit), None, targets, [branch.name]))
    unseen = [name for name in removal.keep if name not in found and not name.endswith(LAST)]
    return probes, [*(name for name in removal.keep if name in structure.closed), *unseen]


class _Ways:
    """Where constants can go, by the operators that read them.

    Args:
        model: the network.
        graph: its graph.
        dropped: branches that will be dropped: what they read does not count.
    """

    def __init__(self, model: nn.Module, graph: Graph, dropped: Sequence[Branch]) -> None:
        self.model, self.graph = model, graph
        self.lost = {name for branch in dropped for name in branch.parameters}
        region = {index for branch in dropped for index in branch.region}
        self.readers: dict[int | None, list[int]] = {}
        for index, operator in enumerate(graph.operators):
            for source in operator.sources if index not in region else ():
                self.readers.setdefault(source, []).append(index)

    def from_layer(self, path: str) -> _Targets | None:
        """What takes the constant that a layer reads: its bias, or else batch norms behind it."""
        module, index = self.model.get_submodule(path), self._output_of(path)
        if not isinstance(module, LAYERS) or index is None:
            return None
        return _Targets(biases=[module.bias]) if module.bias is not None else self._means_behind(index)

    def from_branch(self, path: str) -> _Targets | None:
        """What takes the constant that a branch adds to a sum: batch norms behind the sum, or a bias before it.

        A bias before the sum takes it only if what is left reads that tensor nowhere else.

        Args:
            path: dotted path of the last module of the branch.
        """
        index = self._output_of(path)
        if index is None:
            return None
        behind = self._means_behind(index)
        if behind is not None:
            return behind
        for before in self._layers_before(index):
            module = self.model.get_submodule(before)
            bias = getattr(module, "bias", None)
            known = isinstance(module, (*LAYERS, _BatchNorm)) and f"{before}.bias" not in self.lost
            if known and isinstance(bias, nn.Parameter):
                return _Targets(biases=[bias])
        return None

    def _output_of(self, path: str) -> int | None:
        """The operator that makes the output of a module that is called once; None if there is none."""
        calls = [each for each in self.graph.calls if each.module == path]
        return calls[0].output_sources[0] if len(calls) == 1 and len(calls[0].output_sources) == 1 else None

    def _means_behind(self, index: int) -> _Targets | None:
        """The running means of the batch norms that a tensor reaches through sums and concatenations only.

        Returns:
            The means, or their parts; None if the tensor reaches something else.
        """
        made = self.graph.operators[index].outputs[0]
        means: dict[tuple[int, int], torch.Tensor] = {}
        waiting = [(index, 0)]
        for each, start in waiting:
            if each not in self.readers or len(made) < 2:
                return None
            for number in self.readers[each]:
                operator = self.graph.operators[number]
                norm = self.model.get_submodule(operator.module) if operator.name in BATCH_NORMS else None
                if isinstance(norm, _BatchNorm) and norm.running_mean is not None:
                    means[number, start] = norm.running_mean[start : start + int(extent(made[1], {}))]
                    continue
                offset = self._offset(number, each)
                if offset is None:
                    return None
                waiting += [(number, start + offset)] if (number, start + offset) not in waiting else []
        return _Targets(list(means.values()))

    def _offset(self, number: int, source: int) -> int | None:
        """Where the channels of a tensor begin in a sum or concatenation; None for other operators."""
        operator = self.graph.operators[number]
        if _adds(operator):
            return 0 if self._alike(number, source) else None
        if operator.name not in CONCATENATIONS or len(operator.inputs) != len(operator.sources):
            return None
        lengths = [int(extent(dims[1], {})) for dims in operator.inputs]
        if sum(lengths) != extent(operator.outputs[0][1], {}):
            return None
        return sum(lengths[: operator.sources.index(source)])

    def _layers_before(self, index: int) -> Iterator[str]:
        """Paths of the modules whose outputs end in the same sum as an operator, and in nothing else."""
        total = next(self._sums(index), None)
        waiting = [] if total is None else [(source, total) for source in self.graph.operators[total].sources]
        for source, reader in waiting:
            if source in (None, index) or self.readers.get(source) != [reader]:
                continue
            operator = self.graph.operators[source]
            if _adds(operator):
                waiting += [(each, source) for each in operator.sources]
            elif self._alike(source, index):
                yield operator.module

    def _sums(self, index: int) -> Iterator[int]:
        """The only reader of an operator, if that is a sum; read off the graph, since the reader may be in a region."""
        found = [number for number, each in enumerate(self.graph.operators) if index in each.sources]
        yield from found if len(found) == 1 and _adds(self.graph.operators[found[0]]) else ()

    def _alike(self, left: int, right: int) -> bool:
        return self.graph.operators[left].outputs[0] == self.graph.operators[right].outputs[0]


def _adds(operator: Operator) -> bool:
    """Whether an operator adds its tensors as they are: `torch.add(x, y, alpha=2)` does not."""
    return operator.name in SUMS and "alpha" not in operator.settings


@contextlib.contextmanager
def _gates_closed(model: nn.Module, graph: Graph, removal: Removal) -> Iterator[None]:
    """Context in which the gates of removed units are exactly 0."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    before: list[tuple[nn.Parameter, torch.Tensor]] = []
    try:
        for name, keep in removal.keep.items():
            for norm in removal.norms[name]:
                if norm not in parameters:
                    continue
                units = units_in(graph.layouts[norm][0], name)
                dead = np.flatnonzero((units >= 0) & ~keep[units])
                weight = parameters[norm]
                before.append((weight, weight.detach().clone()))
                weight[torch.from_numpy(dead).to(weight.device)] = 0.0
        yield
    finally:
        for changed, values in reversed(before):
            changed.copy_(values)
