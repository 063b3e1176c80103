"""Modules that replace those of a dropped residual branch or parallel path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from edakari.core.graph import Branch, Graph, OutputShape, Step
from edakari.core.layout import extent
from edakari.core.space import Sizes
from edakari.graph.output_shapes import stepped

__all__ = ["Passing", "ShapedZeros", "Zeros", "without"]

Length = int | tuple[int, int, tuple[Step, ...]]
"""Length of a dimension: fixed, or an input tensor and its dimension, with the steps that its length goes through."""


class Passing(nn.Module):
    """Returns its input.

    The residual sum reads the same tensor, so nothing may write to it in place. If remaining code does so, the module
    returns a copy. In training it always does, because code may run that the trace did not see (an in-place dropout).

    Args:
        returned: length of the returned tuple, with the tensor first and None after it; 0 returns the tensor alone.
        copies: whether to return a copy in evaluation mode too.
    """

    def __init__(self, returned: int = 0, copies: bool = False) -> None:
        super().__init__()
        self.returned = returned
        self.copies = copies

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the first tensor among the inputs."""
        x = _first(args, kwargs)
        return self._form(x.clone() if self.copies or self.training else x)

    def _form(self, x: torch.Tensor) -> Any:
        return x if self.returned == 0 else (x, *[None] * (self.returned - 1))

    def extra_repr(self) -> str:
        """Part of the network's printed form."""
        return "of a dropped branch"


class Zeros(Passing):
    """Returns zeros of its input's shape.

    All zeros are one number in memory unless code may write to them in place, as for `Passing`.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return zeros like the first tensor among the inputs."""
        x = _first(args, kwargs)
        return self._zeros(x, x.shape)

    def _zeros(self, x: torch.Tensor, shape: Sequence[int]) -> Any:
        zeros = x.new_zeros(()).expand(shape)
        return self._form(zeros.contiguous() if self.copies or self.training else zeros)


class ShapedZeros(Zeros):
    """Returns zeros of the shape that the replaced module would return.

    Args:
        lengths: lengths of the output's dimensions.
        returned: length of the returned tuple, see `Passing`.
        copies: whether remaining code writes to the zeros, see `Passing`.
    """

    def __init__(self, lengths: Sequence[Length], returned: int = 0, copies: bool = False) -> None:
        super().__init__(returned, copies)
        self.lengths = tuple(lengths)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return zeros for an input of any size."""
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        return self._zeros(tensors[0], [_length(each, tensors) for each in self.lengths])


def _length(length: Length, tensors: Sequence[torch.Tensor]) -> int:
    if isinstance(length, int):
        return length
    index, dim, steps = length
    return stepped(tensors[index].shape[dim], steps)


def _first(args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor:
    found = next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), None)
    if found is None:
        raise TypeError("the replacement of a dropped branch's module needs a tensor")
    return found


def without(model: nn.Module, branch: Branch, graph: Graph, sizes: Sizes) -> None:
    """Replace the modules of a branch or path; changes the network.

    Args:
        model: network, already cut.
        branch: the branch or path.
        graph: graph of the dense network.
        sizes: sizes of the groups that were cut.
    """
    for index, (path, count) in enumerate(zip((*branch.modules, branch.exit), branch.returned, strict=True)):
        parent, _, child = path.rpartition(".")
        home = model.get_submodule(parent)
        if branch.shapes:
            stand_in: Passing = ShapedZeros(_lengths(branch.shapes[index], graph, sizes), count, branch.copies)
        else:
            stand_in = (Zeros if path == branch.exit else Passing)(count, branch.copies)
        setattr(home, child, stand_in.train(home.training))


def _lengths(shape: OutputShape, graph: Graph, sizes: Sizes) -> tuple[Length, ...]:
    made = graph.operators[shape.operator].outputs[0]
    return tuple(int(extent(made[dim], sizes)) if rule is None else rule for dim, rule in enumerate(shape.dims))
