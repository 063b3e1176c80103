"""Parameters that are tokens or positions: class token, distillation token, registers and position embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from edakari.graph import call, quick_meta, shadow_of
from edakari.graph.module_calls import told_of_calls

__all__ = ["embedding_names"]

LAYERS = frozenset(
    {
        *(F.linear, F.bilinear, F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d),
        *(F.layer_norm, F.batch_norm, F.group_norm, F.instance_norm, F.multi_head_attention_forward),
        *(torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.einsum),
    }
)
"""Functions whose parameters are weights of a layer."""
SUMS = frozenset({torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.__radd__, torch.Tensor.__iadd__})


def embedding_names(model: nn.Module, example: Any, first: str) -> frozenset[str]:
    """Find the parameters that become tokens, or are added to tokens, before the first block.

    Such a parameter is used by a module with submodules and is not the weight of a layer, is the table of an
    `nn.Embedding`, or is a table that a module without submodules adds.

    Args:
        model: the network; it does not change.
        example: an example input of the network.
        first: dotted path of the first block.

    Returns:
        Names as in `named_parameters`.
    """
    shadow = shadow_of(model, "meta")
    watch = _Uses(shadow, first)
    meta = tree_map(lambda x: x.to("meta") if isinstance(x, torch.Tensor) else x, example)
    with told_of_calls(shadow, watch.entered, lambda path, output: None), quick_meta(), torch.no_grad(), watch:
        call(shadow, meta)
    return frozenset(watch.found)


class _Uses(TorchFunctionMode):
    """Records the parameters that functions take directly, until the first block begins."""

    def __init__(self, shadow: nn.Module, first: str) -> None:
        super().__init__()
        self.first, self.reached = first, False
        self.found: set[str] = set()
        self.names = {id(parameter): name for name, parameter in shadow.named_parameters()}
        self.outer = {path for path, module in shadow.named_modules() if any(True for _ in module.children())}

    def entered(self, path: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Note the call of a module that begins now."""
        self.reached = self.reached or path == self.first

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.reached and func not in LAYERS:
            for leaf in tree_leaves((args, kwargs)):
                name = self.names.get(id(leaf))
                if name is not None and self._is_embedding(func, name, leaf):
                    self.found.add(name)
        return func(*args, **kwargs)

    def _is_embedding(self, func: Any, name: str, parameter: torch.Tensor) -> bool:
        if name.rpartition(".")[0] in self.outer or func is F.embedding:
            return True
        return func in SUMS and parameter.dim() > 1
