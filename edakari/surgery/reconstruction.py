"""Least-squares reconstruction of the layers that consume cut channels.

He, Zhang & Sun, Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017, section 3.1, equation 5. Layers
are refit in order from the input. With inputs X of the cut network and outputs Y of the dense network, the remaining
weights W change by dW = argmin |Y - X (W + dW)|² + r |dW|².
differs: the ridge r penalises the change, not the weights, so that no layer fits worse than before.
"""

from __future__ import annotations

import contextlib
import dataclasses as dc
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edakari.core.arguments import require, require_methods
from edakari.core.copying import copied
from edakari.core.feeding import feed
from edakari.core.graph import Graph
from edakari.core.layout import axes, kept
from edakari.core.modes import judging
from edakari.core.networks import unwrapped
from edakari.core.plan import KeepChannels, Plan
from edakari.core.processes import Processes
from edakari.core.protocols import Batch
from edakari.errors import DataError, PlanError
from edakari.surgery.applying import apply, checked
from edakari.surgery.origin import held_masks

__all__ = ["reconstruct"]

Run = Callable[[nn.Module, Batch], Any]
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


@dc.dataclass(frozen=True)
class _Consumer:
    """A layer to refit.

    Args:
        path: its dotted path.
        left: mask of its remaining outputs, bool [outputs].
        weights: mask of its remaining weights, bool of the cut weight's shape; None if all stay.
    """

    path: str
    left: torch.Tensor
    weights: torch.Tensor | None


def reconstruct(
    model: nn.Module,
    plan: Plan,
    batches: Iterable[Batch],
    *,
    small: nn.Module | None = None,
    graph: Graph | None = None,
    ridge: float = 1e-4,
    run: Run = feed,
) -> nn.Module:
    """Prune a network and refit its layers to the outputs of the dense network, without labels.

    Linear layers and convolutions (without groups) with cut inputs or masked weights are refit one after another from
    the input, with weights and biases. Masked weights stay zeros. Recalibrate batch normalisations
    afterwards (`edakari.recalibrate`).

    Args:
        model: the dense network; stays as it is.
        plan: how it is cut.
        batches: inputs as in evaluation, gone through once for each layer; labels beside them are not read. They should
            hold many more values than a layer has weights for each output: some hundred images. Under several
            processes each has its own; some may have none.
        small: the network as cut, if its weights are others than those that `apply` leaves; stays as it is.
        graph: graph of the dense network; None traces it.
        ridge: penalty of a change of weights, as a fraction of the mean square of the layer's inputs.
        run: calls a network with a batch; see `edakari.recalibrate`.

    Returns:
        A copy of the cut network with other weights, its modes those of the cut network.

    Raises:
        PlanError: the plan is of another network, or prunes tokens, for whose layers there is no such fit.
        DataError: there is no batch, or `batches` can be gone through only once.
    """
    call = "reconstruct(model, plan, batches)"
    network, graph = checked(plan, model, graph, call)
    require(call, batches=(batches, Iterable))
    require_methods(call, "run", run, ("__call__",))
    if plan.tokens():
        raise PlanError(f"{call}: the plan prunes tokens, which changes the inputs of layers; only cut channels")
    if iter(batches) is batches:
        raise DataError(f"{call}: batches can be iterated only once; pass a list or a loader")
    fitted = apply(network, plan, graph) if small is None else copied(unwrapped(small, call))
    with judging(network, fitted):
        for consumer in _consumers(fitted, plan, graph):
            _refit(network, fitted, consumer, batches, ridge, run)
    return fitted


def _consumers(small: nn.Module, plan: Plan, graph: Graph) -> Iterator[_Consumer]:
    """Yield the layers with cut inputs or masked weights, in the order of their calls."""
    masks, held = _masks(plan, graph), held_masks(small)
    modules = dict(small.named_modules())
    for path in dict.fromkeys(operator.module for operator in graph.operators):
        module, name = modules.get(path), f"{path}.weight" if path else "weight"
        if type(module) not in LAYERS or getattr(module, "groups", 1) != 1 or name not in graph.layouts:
            continue
        outputs, inputs = graph.layouts[name][:2]
        if any(axis.group in masks for axis in axes(inputs)) or name in held:
            yield _Consumer(path, torch.from_numpy(kept(outputs, masks)), held.get(name))


def _masks(plan: Plan, graph: Graph) -> Mapping[str, np.ndarray[Any, np.dtype[np.bool_]]]:
    masks = {}
    for edit in plan.edits:
        if isinstance(edit, KeepChannels):
            masks[edit.group] = np.isin(np.arange(graph[edit.group].size), edit.indices)
    return masks


def _refit(
    dense: nn.Module, small: nn.Module, consumer: _Consumer, batches: Iterable[Batch], ridge: float, run: Run
) -> None:
    """Change the weights and bias of one layer in place."""
    layer: Any = small.get_submodule(consumer.path)
    outputs_left, weight = int(consumer.left.sum()), layer.weight
    width = weight[0].numel() + (layer.bias is not None)
    gram = torch.zeros(width, width, dtype=torch.float64, device=weight.device)
    cross, count = gram.new_zeros(width, outputs_left), 0
    for batch in batches:
        aims = [outputs for _, outputs in _seen(dense, consumer.path, batch, run)]
        for (inputs, outputs), aim in zip(_seen(small, consumer.path, batch, run), aims, strict=True):
            rows = _rows(layer, inputs).double()
            error = _flat(layer, aim).double()[:, consumer.left.to(aim.device)] - _flat(layer, outputs).double()
            gram, cross = gram + rows.T @ rows, cross + rows.T @ error
            count += len(rows)
    here = Processes.here()
    if not here.reduced(torch.tensor(count)):
        raise DataError("reconstruct(model, plan, batches): there is no batch, or the network did not call a layer")
    gram, cross = here.reduced(gram), here.reduced(cross)
    left = consumer.weights
    change = _solved(gram, cross, ridge) if left is None else _masked(gram, cross, ridge, left)
    if layer.bias is not None:
        change, shift = change[:-1], change[-1]
        layer.bias.add_(shift.to(layer.bias))
    layer.weight.add_(change.T.reshape(layer.weight.shape).to(layer.weight))


def _masked(gram: torch.Tensor, cross: torch.Tensor, ridge: float, weights: torch.Tensor) -> torch.Tensor:
    """The solution of `_solved` in which masked weights do not change, output by output."""
    change = torch.zeros_like(cross)
    for output, row in enumerate(weights.flatten(1).to(cross.device)):
        # a bias, if there is one, is the last input and always stays
        free = torch.cat([row, row.new_ones(len(gram) - len(row))]).nonzero().flatten()
        if len(free):
            change[free, output] = _solved(gram[free][:, free], cross[free, output : output + 1], ridge)[:, 0]
    return change


def _solved(gram: torch.Tensor, cross: torch.Tensor, ridge: float) -> torch.Tensor:
    """The smallest least-squares solution of `gram @ change = cross`, with a penalty on changes."""
    penalised = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, failed = torch.linalg.cholesky_ex(penalised)
    if ridge and not failed:
        return torch.cholesky_solve(cross, factor)
    solution: torch.Tensor = torch.linalg.pinv(penalised, hermitian=True) @ cross
    return solution


def _rows(layer: Any, inputs: torch.Tensor) -> torch.Tensor:
    """The inputs that each output of a layer sums, [values, weights of an output (plus one for a bias)]."""
    if isinstance(layer, nn.Linear):
        rows = inputs.flatten(0, -2)
    else:
        flat = not isinstance(layer, nn.Conv2d)
        image = _padded(layer, inputs if inputs.ndim == (3 if flat else 4) else inputs[None])
        image = image[:, :, None] if flat else image
        spread = [(1, each[0]) if flat else each for each in (layer.kernel_size, layer.dilation, layer.stride)]
        rows = functional.unfold(image, spread[0], spread[1], 0, spread[2]).transpose(1, 2).flatten(0, 1)
    return rows if layer.bias is None else torch.cat([rows, rows.new_ones(len(rows), 1)], 1)


def _padded(layer: Any, image: torch.Tensor) -> torch.Tensor:
    """An image with the layer's padding around it, in its mode."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    around = layer._reversed_padding_repeated_twice
    return functional.pad(image, around, mode) if any(around) else image


def _flat(layer: Any, outputs: torch.Tensor) -> torch.Tensor:
    """Outputs of a layer as [values, outputs], in the order of `_rows`."""
    if isinstance(layer, nn.Linear):
        return outputs.flatten(0, -2)
    batched = outputs if outputs.ndim == (4 if isinstance(layer, nn.Conv2d) else 3) else outputs[None]
    return batched.flatten(2).transpose(1, 2).flatten(0, 1)


def _seen(model: nn.Module, path: str, batch: Batch, run: Run) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and outputs of each call of a layer."""
    found = []
    layer = model.get_submodule(path)
    with contextlib.closing(_Watching(layer, lambda inputs, outputs: found.append((inputs, outputs)))):
        run(model, batch)
    return found


class _Watching:
    """Records a layer's inputs and outputs until it is closed."""

    def __init__(self, layer: nn.Module, told: Callable[[torch.Tensor, torch.Tensor], None]) -> None:
        self.handle = layer.register_forward_hook(lambda module, inputs, outputs: told(inputs[0], outputs))

    def close(self) -> None:
        """Stop recording."""
        self.handle.remove()
