"""`trace`: the graph of a network from one forward pass on meta tensors."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from edakari.core.graph import Graph, InputSpec
from edakari.errors import ModelError
from edakari.graph import axes, rules_compute, rules_elementwise, rules_shape, rules_spatial
from edakari.graph.copying import copied
from edakari.graph.flow import Dims, Flow
from edakari.graph.groups import finish
from edakari.graph.rules import FUNCTIONS, RULES
from edakari.graph.ties import tie

__all__ = ["call", "example_for", "example_of", "graph_of", "shadow_of", "spec_of_inputs", "stored_tensors", "trace"]

_LOADED = (rules_compute, rules_elementwise, rules_shape, rules_spatial)  # importing them fills the table

_SEEN: weakref.WeakKeyDictionary[nn.Module, list[Graph]] = weakref.WeakKeyDictionary()


def trace(model: nn.Module, example: Any) -> Graph:
    """The graph of a network: what can be pruned, what each operator costs, what was refused and why.

    Runs the network once in evaluation mode on tensors without data; weights are neither read nor changed. A network
    that looks at values (it calls `.item()`, say) runs on a copy on the CPU instead.

    Args:
        model: the network.
        example: an input as the network takes it: a tensor, a tuple of positional arguments or a dict of keywords.

    Raises:
        ModelError: the forward pass fails on the example.
    """
    try:
        graph = _traced(model, example, "meta")
    except ModelError as error:
        if not _needs_data(error):
            raise
        graph = _traced(model, example, "cpu")
    _SEEN[model] = [graph, *(other for other in _SEEN.get(model, ()) if other.inputs != graph.inputs)]
    return graph


def _traced(model: nn.Module, example: Any, device: str) -> Graph:
    shadow = shadow_of(model, device)
    stored = stored_tensors(shadow)
    dims = {name: [axes.fresh(length) for length in tensor.shape] for name, tensor in stored.items()}
    flow = Flow(
        {id(tensor): dims[name] for name, tensor in stored.items()},
        {id(tensor): name for name, tensor in stored.items()},
        RULES,
        FUNCTIONS,
    )
    with flow.watching(shadow):
        outputs = call(shadow, tree_map(lambda value: _moved(value, device), example))
    _pin_outputs(flow, outputs)
    tie(shadow, dims)
    return finish(flow, dims, dict(shadow.named_parameters()), spec_of_inputs(example), device)


def _needs_data(error: ModelError) -> bool:
    cause = error.__cause__
    return isinstance(cause, NotImplementedError) or "meta" in str(cause)


def graph_of(model: nn.Module, inputs: InputSpec) -> Graph:
    """The graph of a network that was perhaps traced before on such inputs.

    Args:
        model: the network.
        inputs: example as in `Graph.inputs`.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in stored_tensors(model).items()}
    for graph in _SEEN.get(model, ()):
        if graph.inputs == inputs and shapes == {
            name: tuple(_dense(dim) for dim in dims) for name, dims in graph.layouts.items()
        }:
            return graph
    return trace(model, example_for(model, inputs))


def example_for(model: nn.Module, inputs: InputSpec, device: str = "meta") -> Any:
    """The described example in the floating type that the network has now."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)

    def fit(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    return tree_map(fit, example_of(inputs, device))


def _dense(dim: Any) -> int:
    from edakari.core.layout import extent

    return int(extent(dim, {}))


def stored_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer by its first name, parameters first; shared ones once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def shadow_of(model: nn.Module, device: str) -> nn.Module:
    """A copy of a network in evaluation mode to run forward passes on; on "meta" no data is copied."""
    tensors: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for value in (*module._parameters.values(), *module._buffers.values(), *vars(module).values()):
            if isinstance(value, torch.Tensor) and id(value) not in tensors:
                moved = value.detach().to(device, copy=True)
                tensors[id(value)] = nn.Parameter(moved, False) if isinstance(value, nn.Parameter) else moved
    return copied(model, tensors).eval()


def call(model: nn.Module, example: Any) -> Any:
    """Run a network on an example.

    Args:
        model: the network.
        example: a tensor, a tuple of positional arguments or a dict of keywords.

    Raises:
        ModelError: the forward pass fails.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused kernel would hide the projections
    try:
        with torch.no_grad():
            if isinstance(example, dict):
                return model(**example)
            return model(*example) if isinstance(example, tuple) else model(example)
    except (RuntimeError, TypeError, ValueError, AssertionError, IndexError, AttributeError, KeyError) as error:
        shapes = [tuple(leaf.shape) for leaf in tree_leaves(example) if isinstance(leaf, torch.Tensor)]
        raise ModelError(
            f"the forward pass of {type(model).__name__} fails on an example of shape "
            f"{', '.join(map(str, shapes)) or repr(example)}: {type(error).__name__}: {error} "
            "Check that the example is what the network takes, batch dimension included."
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def spec_of_inputs(example: Any) -> InputSpec:
    """An example as JSON: shapes and dtypes, no values.

    Raises:
        ModelError: the example holds what is neither a tensor nor plain data.
    """
    if isinstance(example, torch.Tensor):
        return {"tensor": [list(example.shape), str(example.dtype).removeprefix("torch.")]}
    if isinstance(example, tuple | list):
        return {type(example).__name__: [spec_of_inputs(item) for item in example]}
    if isinstance(example, dict):
        return {"dict": {str(key): spec_of_inputs(value) for key, value in example.items()}}
    if example is None or isinstance(example, bool | int | float | str):
        return {"value": example}
    raise ModelError(f"an example is made of tensors and plain values, but holds a {type(example).__name__}")


def example_of(inputs: InputSpec, device: str = "meta") -> Any:
    """The inverse of `spec_of_inputs`, with zeros on a device.

    Raises:
        ModelError: not such a description.
    """
    match inputs:
        case {"tensor": [list(shape), str(dtype)]}:
            return torch.zeros(shape, dtype=getattr(torch, dtype), device=device)
        case {"tuple": list(items)}:
            return tuple(example_of(item, device) for item in items)
        case {"list": list(items)}:
            return [example_of(item, device) for item in items]
        case {"dict": dict(items)}:
            return {key: example_of(value, device) for key, value in items.items()}
        case {"value": value}:
            return value
    raise ModelError(f"not the description of an example: {inputs!r}")


def _moved(value: Any, device: str) -> Any:
    if isinstance(value, torch.Tensor) and value.device.type != device:
        return torch.zeros_like(value, device=device) if value.device.type == "meta" else value.to(device)
    return value


def _pin_outputs(flow: Flow, outputs: Any) -> None:
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, torch.Tensor):
            described: Dims = flow.dims(leaf)
            for dim in described:
                axes.pin(dim, "the network's output")
