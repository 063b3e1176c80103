"""Detection of values that are not finite, with errors before anything uses them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from edakari.core.modes import judging
from edakari.errors import ModelError

__all__ = ["finite", "non_finite_tensor", "require_finite", "require_finite_figures"]

STATISTICS = ("running_mean", "running_var")


def finite(tree: Any) -> bool:
    """Return whether all floating values of all tensors in a tree are finite."""
    return all(_finite(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))


def non_finite_tensor(model: nn.Module) -> str | None:
    """Find the first parameter or buffer with a value that is not finite; None if all are finite.

    Buffers may hold infinities, as attention masks do; running statistics may not.
    """
    for name, parameter in model.named_parameters():
        if not _finite(parameter):
            return name
    for name, buffer in model.named_buffers():
        wrong = not _finite(buffer) if name.endswith(STATISTICS) else _has_nan(buffer)
        if wrong:
            return name
    return None


def require_finite(model: nn.Module, run: Callable[[], Any], what: str = "the network") -> None:
    """Raise an error for a network whose weights or outputs are not finite.

    Args:
        model: the network; it does not change.
        run: function that runs the network on an input and returns its outputs.
        what: name of the network, for the message.

    Raises:
        ModelError: a value is not finite; the message names the first parameter, buffer or module.
    """
    name = non_finite_tensor(model)
    if name is not None:
        raise ModelError(
            f"{what} has values that are not finite (NaN or infinite) in {name!r}; its training diverged or its "
            "weights are damaged. Give weights that are finite."
        )
    made: dict[str, bool] = {}
    handles = [
        module.register_forward_hook(lambda module, args, output, path=path: _note(made, path, output))
        for path, module in model.named_modules()
    ]
    try:
        with judging(model):
            outputs = run()
    finally:
        for handle in handles:
            handle.remove()
    if not finite(outputs):
        # infinities may be meant, NaN never is: the first NaN says more
        first = next((path for path, nan in made.items() if nan), next(iter(made), ""))
        where = f"from module {first!r} on" if first else "from its own code"
        raise ModelError(
            f"{what} gives outputs that are not finite (NaN or infinite) {where}, though its weights are finite. "
            "Look at that module (a negative running variance, an overflow), or check the input's range."
        )


def require_finite_figures(figures: Mapping[str, float], what: str, advice: str) -> None:
    """Raise an error for metrics that are not finite.

    Args:
        figures: metrics by name.
        what: source of the metrics, for the start of the message.
        advice: advice for the end of the message.

    Raises:
        ModelError: a metric is not finite; the message names the first.
    """
    for name, value in figures.items():
        if not math.isfinite(value):
            raise ModelError(f"{what}: {name} is {value}; {advice}")


def _note(made: dict[str, bool], path: str, output: Any) -> None:
    if path not in made and not finite(output):
        made[path] = any(_has_nan(leaf) for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor))


def _finite(tensor: torch.Tensor) -> bool:
    if tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    return bool(tensor.detach().isfinite().all())


def _has_nan(tensor: torch.Tensor) -> bool:
    if tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()):
        return False
    return bool(tensor.detach().isnan().any())
