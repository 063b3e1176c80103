"""Records of what a forward pass makes of each patch."""

from __future__ import annotations

import contextlib
import dataclasses as dc
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from edakari.surgery.tokens.pooling import largest_over_tokens
from edakari.surgery.tokens.sites import TokenSite

__all__ = ["Patches", "patch_tokens", "patches_of"]


@dc.dataclass
class Patches:
    """Outputs of a forward pass for each patch.

    Args:
        tokens: tokens after the last block, [B, N, C].
        logits: the head's outputs per patch, [B, N, classes], if it has some.
    """

    tokens: torch.Tensor = dc.field(default_factory=lambda: torch.empty(0))
    logits: torch.Tensor | None = None


@contextlib.contextmanager
def patches_of(model: nn.Module, last: TokenSite) -> Iterator[Patches]:
    """Context manager that records the patches of the forward pass inside it; complete when it ends.

    Args:
        model: the network.
        last: its last block.
    """
    found, head = Patches(), _DenseHead()

    def note(module: nn.Module, args: Any, output: Any) -> None:
        # if tokens were removed, those that are left, and packages behind them
        found.tokens = patch_tokens(output[0] if isinstance(output, tuple) else output, last)
        head.logits.clear()

    handle = model.get_submodule(last.name).register_forward_hook(note)
    try:
        with head:
            yield found
    finally:
        handle.remove()
    for logits_BNK in head.logits:
        count = found.tokens.shape[1]
        if logits_BNK.shape[1] in (count, last.prefix + count):
            found.logits = logits_BNK[:, -count:]


def patch_tokens(tokens: torch.Tensor, last: TokenSite) -> torch.Tensor:
    """Return the patches among a block's tokens, [B, N, C]."""
    return tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])[:, last.prefix : last.prefix + last.patches]


class _DenseHead(TorchFunctionMode):
    """Records a head's outputs for every patch, [B, N, classes], if it then takes the maximum over patches."""

    def __init__(self) -> None:
        super().__init__()
        self.logits: list[torch.Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        logits = largest_over_tokens(func, args, kwargs)
        if logits is not None:
            self.logits.append(logits)
        return func(*args, **kwargs)
