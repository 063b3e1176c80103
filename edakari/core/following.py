"""What follows a network that is cut in place: objects that hold tensors of its parameters' shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

__all__ = ["CutTensor", "Follower"]


class CutTensor(Protocol):
    """A parameter or buffer before and after a cut; `edakari.surgery.counterparts.Counterpart` is one."""

    @property
    def name(self) -> str:
        """Its name before the cut."""

    @property
    def new_name(self) -> str:
        """Its name after the cut; empty if it was removed."""

    @property
    def before(self) -> torch.Tensor:
        """The tensor before the cut."""

    @property
    def after(self) -> torch.Tensor | None:
        """The tensor after the cut: the same object if nothing of it was removed, None if all of it was."""

    def cut(self, value: torch.Tensor) -> torch.Tensor:
        """Cut a tensor of the shape before the cut; only if `after` is not None."""


class Follower(Protocol):
    """Holds tensors of the parameters' shapes, such as masks, and follows a cut of the network."""

    def follow(self, pairs: Sequence[CutTensor]) -> None:
        """Cut what is held. The network has been cut already, so this must not fail.

        Args:
            pairs: all parameters and buffers before and after the cut.
        """
