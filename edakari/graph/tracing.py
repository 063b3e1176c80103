"""Traces networks in one forward pass on meta tensors: to graphs with groups, or to graphs without."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from edakari.core.collection import collecting_new_objects
from edakari.core.copying import copied_as_is
from edakari.core.graph import Graph
from edakari.core.lazy import refuse_uninitialised
from edakari.core.modes import eval_mode, training_code
from edakari.core.modules import buffers_of, parameters_of
from edakari.core.networks import unwrapped
from edakari.errors import ModelError
from edakari.graph import algebra, rule_files
from edakari.graph.axis_tracer import AxisTracer, Shape
from edakari.graph.branches import branches_of
from edakari.graph.groups import finish
from edakari.graph.inputs import spec_of_inputs
from edakari.graph.outputs import Outputs, output_names, selected, tensors_in, with_outputs
from edakari.graph.rules import FUNCTIONS, RULES
from edakari.graph.shadow import bytes_on_disk, run_on, shadow_of, stored_tensors
from edakari.graph.tracked_attributes import track_attributes
from edakari.graph.trial_cuts import verify_by_cutting

__all__ = ["fixed_graph", "trace", "training_graph"]

_LOADED = rule_files  # importing them fills the table of rules

Names = tuple[str, ...] | None
Mode = Callable[[nn.Module], AbstractContextManager[None]]


def trace(model: nn.Module, example: Any, *, outputs: Outputs = None) -> Graph:
    """Trace a network to its graph: what can be pruned, what each operator costs, what is unprunable and why.

    The network runs once in evaluation mode on tensors without data; weights are neither read nor changed. A network
    whose code depends on values (it calls `.item()`, for example) runs on a copy on the CPU instead.

    Args:
        model: network; for a compiled or data-parallel one, the network inside is traced.
        example: input as the network takes it: a tensor, a tuple of positional arguments or a dict of keywords.
        outputs: outputs that must stay complete, by key, attribute or position, such as "logits", 0 or ["logits",
            "aux.0"]. The others may lose positions. The default is all. Plans store the choice.

    Raises:
        ModelError: the forward pass fails on the example, an output does not exist, or parameters are uninitialised; or
            `model` is no network, or cannot be unwrapped.
    """
    network = unwrapped(model, "trace(model, example)")
    refuse_uninitialised(network)
    chosen = output_names(outputs)
    return _where_it_runs(lambda device, why: _traced(network, example, chosen, device, why))


def fixed_graph(model: nn.Module, example: Any) -> Graph:
    """Trace a network that is not pruned: what each operator costs, without groups.

    Operators, module calls and costs are those of `trace`. No groups are searched and no cuts are tried, so this takes
    a fraction of the time. Use it to count the costs of a finished network.

    Args:
        model: network, see `trace`.
        example: input, see `trace`.

    Returns:
        A graph whose layouts are all fixed; its fingerprint differs from that of `trace`.

    Raises:
        ModelError: see `trace`.
    """
    network = unwrapped(model, "fixed_graph(model, example)")
    refuse_uninitialised(network)
    return _where_it_runs(lambda device, why: _fixed(network, example, device, why))


def training_graph(model: nn.Module, example: Any) -> Graph | None:
    """Trace the code for training of a network that is not pruned; see `fixed_graph`.

    Returns:
        The graph; None if this code does not run on the example, as that of a detector without targets.
    """
    network = unwrapped(model, "training_graph(model, example)")
    try:
        with torch.random.fork_rng([]):
            return _where_it_runs(lambda device, why: _fixed(network, example, device, why, training_code))
    except ModelError:
        return None


def _where_it_runs(follow: Callable[[str, str], Graph]) -> Graph:
    """Call `follow` on meta, or on the CPU if the network depends on values; the second argument is the reason."""
    with collecting_new_objects():
        try:
            return follow("meta", "")
        except ModelError as error:
            if not _needs_data(error):
                raise
            return follow("cpu", _first_line(error.__cause__))


def _fixed(model: nn.Module, example: Any, device: str, why: str, mode: Mode = eval_mode) -> Graph:
    shadow = shadow_of(model, device)
    dims: dict[str, Shape] = {name: list(tensor.shape) for name, tensor in stored_tensors(shadow).items()}
    with mode(shadow):
        tracer, _ = _follow(shadow, dims, tree_map(lambda value: _moved(value, device), example))
    parameters = parameters_of(shadow)
    registered = {*parameters, *buffers_of(shadow)}
    graph = finish(tracer, dims, parameters, registered, spec_of_inputs(example), device, why, ((), ()))
    return dc.replace(graph, stored=bytes_on_disk(shadow))


def _traced(model: nn.Module, example: Any, chosen: Names, device: str, why: str) -> Graph:
    shadow = shadow_of(model, device)
    track_attributes(shadow, model)
    stored = stored_tensors(shadow)
    dims = {name: [algebra.fresh(length) for length in tensor.shape] for name, tensor in stored.items()}
    moved = tree_map(lambda value: _moved(value, device), example)
    tracer, outputs = _follow(shadow, dims, moved)
    _pin_outputs(tracer, outputs, selected(outputs, chosen))
    parameters, inputs = parameters_of(shadow), with_outputs(spec_of_inputs(example), chosen)
    targets = isinstance(example, tuple | dict) and len(example) > 1  # one of several arguments may be for training
    joined = False
    if targets or not tracer.read.issuperset(parameters):
        joined = _join_training(tracer, shadow, dims, moved, chosen, retry=targets and device == "meta")
    tracer.hold_comparisons()
    # plain attributes that nothing reads are left alone, such as a stored attention map
    registered = {*parameters, *buffers_of(shadow)}
    for name in dims.keys() - registered - tracer.read:
        dims[name] = list(stored[name].shape)
    sides = branches_of(tracer)
    literals = tracer.sizes_by_literals()
    graph = verify_by_cutting(
        shadow, dims, lambda: finish(tracer, dims, parameters, registered, inputs, device, why, sides), literals
    )
    return dc.replace(graph, with_training=joined, stored=bytes_on_disk(shadow))


def _follow(shadow: nn.Module, dims: dict[str, Shape], example: Any) -> tuple[AxisTracer, Any]:
    """Trace one forward pass; return the tracer and the network's outputs."""
    stored = stored_tensors(shadow)
    tracer = AxisTracer(
        {id(tensor): dims[name] for name, tensor in stored.items()},
        {id(tensor): name for name, tensor in stored.items()},
        RULES,
        FUNCTIONS,
    )
    # a copy, so that what the pass leaves behind, such as a table that it creates and stores, is not in a cut network
    running = copied_as_is(shadow)
    with tracer.watching(running):
        outputs = run_on(running, example)
    return tracer, outputs


def _join_training(
    tracer: AxisTracer, shadow: nn.Module, dims: dict[str, Shape], example: Any, chosen: Names, *, retry: bool
) -> bool:
    """Trace the code for training too, such as auxiliary heads and losses, so that a pruned network can be trained.

    Returns:
        Whether it ran; a detector needs targets besides images.

    Raises:
        ModelError: it looks at values, and `retry` says that the caller traces again with data then.
    """
    try:
        with training_code(shadow), torch.random.fork_rng([]):  # detectors draw samples of boxes
            training, outputs = _follow(shadow, dims, example)
    except ModelError as error:
        if retry and _needs_data(error):
            raise
        return False
    try:
        counting = selected(outputs, chosen)
    except ModelError:
        counting = outputs  # it returns something else in training
    _pin_outputs(training, outputs, counting)
    tracer.read |= training.read
    for one, other in ((tracer, training), (training, tracer)):
        for attribute, dim in other.notes.items():
            one.notes.setdefault(attribute, dim)
    training.hold_comparisons()
    return True


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _needs_data(error: ModelError) -> bool:
    cause = error.__cause__
    return isinstance(cause, NotImplementedError) or "meta" in str(cause)


def _moved(value: Any, device: str) -> Any:
    """Copy a value to a device, as the network may write to its inputs."""
    if not isinstance(value, torch.Tensor):
        return value
    return torch.zeros_like(value, device=device) if value.device.type == "meta" else value.to(device, copy=True)


def _pin_outputs(tracer: AxisTracer, outputs: Any, counting: Any) -> None:
    """Pin the dimensions of the chosen outputs, and note which records made the outputs."""
    tracer.returned |= {info.index for info in map(tracer.info, tensors_in(outputs)) if info is not None}
    for tensor in tensors_in(counting):
        for dim in tracer.indexed_by(tensor):
            algebra.pin(dim, "the network returns indices of its positions")
        described: Shape = tracer.dims(tensor)
        for dim in described:
            algebra.pin(dim, "the network's output")
