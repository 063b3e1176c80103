"""The moment of an optimizer step when gradients are there and weights have not changed yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["BeforeUpdate", "with_gradients"]

Removed = Callable[[], None]


def with_gradients(optimizer: torch.optim.Optimizer, call: Callable[[], None]) -> Removed:
    """Call a function in each step of an optimizer, after gradients are computed and before weights change.

    A loop may hand the optimizer a closure that computes the gradients, as Lightning does. The function is then called
    after the closure: torch's own hooks for optimizer steps would come too early.

    Args:
        optimizer: the optimizer.
        call: function that may read and change gradients and weights.

    Returns:
        Function that ends the calls.
    """

    def before_update(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # torch hands the optimizer itself over as the first argument of its method
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            call()
            return None

        def computed() -> Any:
            loss = closure()
            call()
            return loss

        if len(args) > 1:
            return (args[0], computed, *args[2:]), kwargs
        return args, {**kwargs, "closure": computed}

    return optimizer.register_step_pre_hook(before_update).remove


class BeforeUpdate:
    """Calls a function by `with_gradients` in the steps of one optimizer at a time; run state.

    A hook may be used in several trainings, each with an optimizer of its own.

    Args:
        call: function that may read and change gradients and weights.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.optimizer: torch.optim.Optimizer | None = None
        self._removed: Removed = lambda: None

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Watch an optimizer from now on, and no other one."""
        if optimizer is not self.optimizer:
            self._removed()
            self.optimizer, self._removed = optimizer, with_gradients(optimizer, self.call)
