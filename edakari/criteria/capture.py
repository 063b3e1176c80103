"""Hooks that show intermediate tensors while a network runs."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from edakari.core.modes import eval_mode
from edakari.graph.layer_outputs import LayerOutput

__all__ = ["watching"]


@contextlib.contextmanager
def watching(
    model: nn.Module, layer_outputs: Sequence[LayerOutput], take: Callable[[LayerOutput, torch.Tensor], None]
) -> Iterator[None]:
    """Context in which forward passes pass the tensors at layer outputs to a callback, without gradients.

    Args:
        model: the network; it runs in evaluation mode. Modes, hooks and random state are restored afterwards.
        layer_outputs: the layer outputs to watch.
        take: function that is called with each layer output and its tensor; it must not keep the tensor.
    """
    wanted: dict[str, list[LayerOutput]] = collections.defaultdict(list)
    for layer_output in layer_outputs:
        wanted[layer_output.module].append(layer_output)
    counts: collections.Counter[str] = collections.Counter()

    def tell(module: str, side: str, call: int, tree: Any) -> None:
        for layer_output in wanted[module]:
            if layer_output.side == side and layer_output.call == call:
                leaves = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
                take(layer_output, leaves[layer_output.index])

    def entering(path: str) -> Callable[[nn.Module, Any], None]:
        def enter(module: nn.Module, args: Any) -> None:
            tell(path, "inputs", counts[path], args)
            counts[path] += 1

        return enter

    def leaving(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def leave(module: nn.Module, args: Any, output: Any) -> None:
            tell(path, "outputs", counts[path] - 1, output)

        return leave

    handles = [model.register_forward_pre_hook(lambda module, args: counts.clear())]
    devices = sorted({each.device.index for each in model.parameters() if each.device.type == "cuda"})
    try:
        for path in wanted:
            handles.append(model.get_submodule(path).register_forward_pre_hook(entering(path)))
            handles.append(model.get_submodule(path).register_forward_hook(leaving(path)))
        with eval_mode(model), torch.random.fork_rng(devices), torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
