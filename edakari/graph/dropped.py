"""Modules that replace those of a dropped residual branch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edakari.core.graph import Branch

__all__ = ["Passing", "Zeros", "without"]


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
    """Returns zeros of its input's shape."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return zeros like the first tensor among the inputs."""
        return self._form(torch.zeros_like(_first(args, kwargs)))


def _first(args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor:
    found = next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), None)
    if found is None:
        raise TypeError("the replacement of a dropped branch's module needs a tensor")
    return found


def without(model: nn.Module, branch: Branch) -> None:
    """Replace the modules of a branch; changes the network."""
    for path, count in zip((*branch.modules, branch.exit), branch.returned, strict=True):
        parent, _, child = path.rpartition(".")
        home = model.get_submodule(parent)
        stand_in = (Zeros if path == branch.exit else Passing)(count, branch.copies)
        setattr(home, child, stand_in.train(home.training))
