"""An exported network as a module, so that a task can judge it."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from edakari.core.modes import judging
from edakari.cost.example import arguments, mapped, named_tensors
from edakari.export.about import PLAIN, About
from edakari.export.calibration import named_as, pieces
from edakari.export.onnx_model import feeds, open_onnx

__all__ = ["OnnxNetwork"]


class OnnxNetwork(nn.Module):
    """An ONNX model that is called like the module that it was exported from.

    Args:
        content: content of the ONNX file.
        model: module that was exported; it gives the form of the outputs.
        example: input with which it was exported; its batch size is that of each call of ONNX Runtime.
        about: names with which it was exported.
    """

    def __init__(self, content: bytes, model: nn.Module, example: Any, about: About = PLAIN) -> None:
        super().__init__()
        self.example = example
        self.session = open_onnx(content)
        self.names = list(about.named(example))
        self.size = next((len(tensor) for tensor in named_tensors(example).values() if tensor.dim()), 1)
        self.placeholder = nn.Parameter(torch.empty(0), requires_grad=False)  # loops ask parameters for the device
        args, kwargs = arguments(example)
        with judging(model):
            leaves, self.form = tree_flatten(model(*args, **kwargs))
        self.indices = [index for index, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
        self.plain = [None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]

        @functools.wraps(model.forward)  # loops look at the names of its arguments
        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._run(kwargs if kwargs else args[0] if len(args) == 1 else args)

        self.forward = forward

    def _run(self, given: Any) -> Any:
        inputs = named_as(given, self.example)
        count = next((len(tensor) for tensor in inputs.values() if tensor.dim()), 1)
        calls = [self._call(piece) for piece in pieces(mapped(inputs, torch.Tensor.cpu), self.size)]
        leaves = list(self.plain)
        for index, parts in zip(self.indices, zip(*calls, strict=True), strict=True):
            leaves[index] = _joined(parts, count)
        return tree_unflatten(leaves, self.form)

    def _call(self, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        named = dict(zip(self.names, inputs.values(), strict=True))
        found = self.session.run(None, feeds(self.session, named))
        return [torch.from_numpy(value) for value in found]


def _joined(parts: tuple[torch.Tensor, ...], count: int) -> torch.Tensor:
    """The outputs of all images; the last piece may hold images of the piece before it, which come first."""
    if len(parts) == 1:
        return parts[0][:count] if parts[0].dim() else parts[0]
    size = len(parts[0])
    extra = len(parts) * size - count
    return torch.cat([*parts[:-1], parts[-1][extra:]])
