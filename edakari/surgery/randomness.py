"""Random operations of networks in training mode: networks of other widths draw other numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from edakari.graph.meta import operator_name
from edakari.graph.operator_mode import OperatorMode

__all__ = ["drawn_shapes", "without_dropout"]

DROPOUTS: Mapping[Callable[..., Any], tuple[str, int]] = {
    **dict.fromkeys(
        (
            *(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout),
            *(torch.dropout, torch.dropout_, torch.feature_dropout, torch.feature_dropout_),
            *(torch.alpha_dropout, torch.alpha_dropout_, torch.feature_alpha_dropout, torch.feature_alpha_dropout_),
        ),
        ("p", 1),
    ),
    F.scaled_dot_product_attention: ("dropout_p", 4),
    F.multi_head_attention_forward: ("dropout_p", 10),
}
"""Functions with dropout; name and position of its probability."""


@contextmanager
def without_dropout() -> Iterator[None]:
    """Context in which functions drop nothing; modules of dropout do not either in evaluation mode."""
    with _WithoutDropout():
        yield


@contextmanager
def drawn_shapes() -> Iterator[list[tuple[str, torch.Size]]]:
    """Context that collects the operators that draw random numbers, with the shapes of what they return."""
    found: list[tuple[str, torch.Size]] = []

    def noted(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        out = func(*args, **kwargs)
        name = operator_name(func)
        # attention has this tag for its dropout
        if torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()) and "attention" not in name:
            found.extend((name, leaf.shape) for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))
        return out

    with OperatorMode(noted):
        yield found


class _WithoutDropout(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in DROPOUTS:
            name, position = DROPOUTS[func]
            if len(args) > position:
                args = (*args[:position], 0.0, *args[position + 1 :])
            else:
                kwargs[name] = 0.0
        return func(*args, **kwargs)
