"""What stands in for the modules of a residual branch that was dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edakari.core.graph import Branch

__all__ = ["Passing", "Zeros", "without"]


class Passing(nn.Module):
    """Returns what it gets.

    What it gets goes round the branch too, so nothing may write into it in place. Where code that stays does, and in
    training, where code may run that no trace saw (an in-place dropout), it returns a copy.

    Args:
        returned: length of the tuple that is returned, the tensor first and None after it; 0 returns the tensor alone.
        copies: returns a copy in evaluation mode too.
    """

    def __init__(self, returned: int = 0, copies: bool = False) -> None:
        super().__init__()
        self.returned = returned
        self.copies = copies

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The first tensor that comes in; others are left unread."""
        x = _first(args, kwargs)
        return self._form(x.clone() if self.copies or self.training else x)

    def _form(self, x: torch.Tensor) -> Any:
        return x if self.returned == 0 else (x, *[None] * (self.returned - 1))

    def extra_repr(self) -> str:
        """Part of the network's printed form."""
        return "of a dropped branch"


class Zeros(Passing):
    """Returns zeros in the form of what it gets."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Zeros like the first tensor that comes in."""
        return self._form(torch.zeros_like(_first(args, kwargs)))


def _first(args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor:
    found = next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), None)
    if found is None:
        raise TypeError("what stands in for a module of a dropped branch needs a tensor")
    return found


def without(model: nn.Module, branch: Branch) -> None:
    """Replace the modules of a branch in a network; changes the network."""
    for path, count in zip((*branch.modules, branch.exit), branch.returned, strict=True):
        parent, _, child = path.rpartition(".")
        home = model.get_submodule(parent)
        stand_in = (Zeros if path == branch.exit else Passing)(count, branch.copies)
        setattr(home, child, stand_in.train(home.training))
