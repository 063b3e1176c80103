"""`simulate`: the dense network with the removed parts masked where they are read; the oracle of `apply`."""

from __future__ import annotations

import contextlib
import dataclasses as dc
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch.overrides import TorchFunctionMode

from edakari.core.graph import Graph
from edakari.core.layout import Mask
from edakari.core.plan import KeepTokens, Plan
from edakari.errors import ModelError
from edakari.graph import as_written, example_for, stored_tensors
from edakari.graph.axis_tracer import AxisTracer, Call
from edakari.graph.meta import operator_name
from edakari.graph.operator_mode import OperatorMode
from edakari.graph.tracked_ints import SHAPE
from edakari.surgery.applying import branches_dropped, checked, cut_by, masks_of
from edakari.surgery.masked_ints import arithmetic, with_counts
from edakari.surgery.masked_reads import READS, MaskedReads
from edakari.surgery.replay import BothMasked
from edakari.surgery.tokens import Adaptive, insert, selections

__all__ = ["buffers_restored", "simulate"]


def simulate(model: nn.Module, plan: Plan, graph: Graph | None = None) -> nn.Module:
    """The dense network behaving as the pruned one.

    Every operator that reads across a pruned axis sees zeros where positions are gone (or, where it computes
    statistics over them, only those that are kept), so biases do not leak. Masked weights are zeros while it runs.
    Weights are shared with `model` and stay as they are (moving or casting the twin moves or casts `model`); there is
    no gradient.

    If the plan prunes tokens, these are masked too; the cut network says which (see `BothMasked`). If tokens are
    merged, or positions of stages skipped, the returned network has cut channels: simulate the plan without its token
    edits to mask them.

    Args:
        model: the dense network. Of a compiled or data-parallel one, the network inside is masked.
        plan: made for this network.
        graph: graph of the network as it is now; None traces it.

    Returns:
        A module that is called as `model` is. It raises a `ModelError` for inputs with which the network's code joins
        or splits a cut group otherwise than in the trace.

    Raises:
        PlanError: the plan or the graph was made for another network.
        ModelError: the network cannot be traced or copied.
    """
    network, graph = checked(plan, model, graph, "simulate(model, plan)")
    if not plan.tokens():
        return _masked(plan, network, graph)
    cut = Adaptive(cut_by(plan, network, graph))
    channels = dc.replace(plan, edits=tuple(edit for edit in plan.edits if not isinstance(edit, KeepTokens)))
    if not channels.edits or len(selections(cut)) < len(plan.tokens()):
        return cut
    masked = _masked(channels, network, graph)
    masked.attach(plan)
    return BothMasked(cut, Adaptive(masked))


def _masked(plan: Plan, network: nn.Module, graph: Graph) -> Simulated:
    """The dense network with channels masked."""
    twin = with_counts(network, graph, plan.sizes())
    dropped = branches_dropped(plan)
    for branch in graph.droppable:
        if branch.name in dropped:
            twin.get_submodule(branch.exit).register_forward_hook(_to_zeros)
    return Simulated(twin, graph, masks_of(plan, graph), plan.masks())


def _to_zeros(module: nn.Module, args: Any, output: Any) -> Any:
    return (torch.zeros_like(output[0]), *output[1:]) if isinstance(output, tuple) else torch.zeros_like(output)


class Simulated(nn.Module):
    """A network whose forward pass is masked."""

    def __init__(
        self, model: nn.Module, graph: Graph, masks: Mapping[str, Mask], weights: Mapping[str, torch.Tensor]
    ) -> None:
        super().__init__()
        self.model = model
        self.graph = graph
        self.masks = masks
        self.weights = weights
        self.tracer: AxisTracer | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The pruned network's outputs."""
        with weights_masked(self.model, self.weights):
            return self._masked(args, kwargs)

    def _masked(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        reads = MaskedReads(self.graph, self.masks, stored_tensors(self.model))
        self.tracer = reads.tracer
        modes = (_FunctionMode(reads), OperatorMode(partial(_operator, reads)))
        with buffers_restored(self.model), torch.no_grad(), as_written(), modes[0], modes[1]:
            outputs = self.model(*args, **kwargs)
        group = reads.untraced()
        if group is not None:
            raise ModelError(
                f"with these inputs the network's code uses group {group!r} in another way than in the trace, so a cut "
                "is not exact here. Trace the network with inputs like these, and make the plan again."
            )
        return outputs

    def attach(self, plan: Plan) -> None:
        """Insert a plan's selectors; they act on each channel alone, so their outputs have the inputs' channels."""
        insert(self.model, plan.tokens(), example_for(self.model, plan.inputs))
        for selection in selections(self.model).values():
            selection.register_forward_pre_hook(self._before)
            selection.register_forward_hook(self._behind)

    def _before(self, module: nn.Module, args: Any) -> None:
        assert self.tracer is not None
        self.tracer.quiet = True

    def _behind(self, module: nn.Module, args: Any, output: torch.Tensor) -> None:
        tracer = self.tracer
        assert tracer is not None
        tracer.quiet = False
        images, _, channels = tracer.peek(args[0])
        made = [images, output.shape[1], channels]
        tracer.handle("selection", lambda tracer, call: made, Call("selection", args[:1], {}, output))


@contextlib.contextmanager
def weights_masked(model: nn.Module, masks: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Context in which masked weights of a network are zeros; afterwards they are what they were."""
    named = dict(model.named_parameters())
    before = {name: named[name].data for name in masks}
    try:
        for name, mask in masks.items():
            # wherever else a module holds the parameter, as recurrent layers do in a list, it is masked too
            named[name].data = before[name].masked_fill(~mask.to(before[name].device), 0)
        yield
    finally:
        for name, values in before.items():
            named[name].data = values


@contextlib.contextmanager
def buffers_restored(model: nn.Module) -> Iterator[None]:
    """Context that restores buffers afterwards: observers of quantisation update theirs in evaluation mode too."""
    before = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, values in before:
                if not torch.equal(buffer, values):
                    buffer.resize_(values.shape).copy_(values)


ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "linear": ("input", "weight", "bias"),
    "bilinear": ("input1", "input2", "weight", "bias"),
    "batch_norm": ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps"),
    "local_response_norm": ("input", "size", "alpha", "beta", "k"),
}
"""Names of the arguments of torch functions that have a rule, in order."""


def _in_order(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Moves named arguments to their positions, up to the first gap."""
    ordered, rest = list(args), dict(kwargs)
    for argument in ARGUMENTS.get(name, ())[len(args) :]:
        if argument not in rest:
            break
        ordered.append(rest.pop(argument))
    return tuple(ordered), rest


class _FunctionMode(TorchFunctionMode):
    def __init__(self, reads: MaskedReads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tracer = self.reads.tracer
        known = tracer.functions.get(func)
        if known is None:
            return self._sized(func, args, kwargs)
        name, rule = known
        with tracer.muted():
            out = READS[name](self.reads, func, *_in_order(name, args, kwargs))
        tracer.handle(name, rule, Call(name, args, kwargs, out))
        return out

    def _sized(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if func == SHAPE:
            return self.reads.shape(args[0])
        if func is torch.Tensor.size:
            shape = self.reads.shape(args[0])
            chosen = args[1] if len(args) > 1 else kwargs.get("dim")
            return shape if chosen is None else shape[chosen]
        args, kwargs = arithmetic(func, args, kwargs)
        self.reads.in_attention = func is F.multi_head_attention_forward
        try:
            out = func(*args, **kwargs)
        finally:
            self.reads.in_attention = False
        self.reads.sized(func, args, kwargs, out)
        return out


def _operator(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    tracer = reads.tracer
    if tracer.quiet:
        return func(*args, **kwargs)
    name = operator_name(func)
    read = READS.get(name)
    out = func(*args, **kwargs) if read is None else read(reads, func, args, kwargs)
    tracer.handle(name, tracer.rule_of(name, func), Call(name, args, kwargs, out))
    return out
