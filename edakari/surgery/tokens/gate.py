"""What stands around a block of a network whose tokens are pruned."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edakari.errors import PlanError
from edakari.surgery.tokens.attention import TokenAttention, additive
from edakari.surgery.tokens.rows import side_by_side
from edakari.surgery.tokens.state import Chain, TokenState

__all__ = ["GATE", "TokenGate"]

GATE = "token_gate"
"""Name under which a block holds its gate."""
MASK = "attn_mask"
"""What timm's blocks call that which they add to the logits of attention."""


class TokenGate(nn.Module):
    """Stands in for a block's forward: first its selector, if it has one, then the block among the tokens left.

    The block stays where it is, with its class and its parameters' names; its gate is one more child. `remove` gives
    the block back bit by bit.
    """

    def __init__(
        self,
        block: nn.Module,
        dense: int,
        step: nn.Module | None,
        chain: Chain,
        *,
        first: bool,
        last: bool,
        watches: bool,
        drops: bool = False,
    ) -> None:
        """Put a gate around a block.

        Args:
            block: of the network, changed in place.
            dense: tokens before any is pruned, prefix included.
            step: selector or merger; None where nothing is removed.
            chain: shared by the network's gates.
            first: of the network's gates.
            last: of the network's blocks.
            watches: its attention is looked at or biased even where nothing is masked.
            drops: packages end with it, for what follows reads each token as a patch.
        """
        super().__init__()
        if GATE in block._modules or "forward" in vars(block):
            raise PlanError(f"{type(block).__name__} has a gate or another forward already; take that off first")
        self.step, self.chain = step, chain
        self.dense, self.first, self.last, self.watches = dense, first, last, watches
        self.drops = drops
        self.takes_mask = MASK in inspect.signature(type(block).forward).parameters
        vars(self)["block"] = block  # not a child: the block holds the gate
        block.add_module(GATE, self)
        vars(block)["forward"] = self.run

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The block's outputs for the tokens that are left."""
        state = self.chain.start() if self.first else self.chain.now()
        if self.step is not None:
            args, kwargs = _with_tokens(self.step, state, args, kwargs)
        kwargs = {name: self._rotations(value, state) if name == "rope" else value for name, value in kwargs.items()}
        args = tuple(self._as_logits(value) for value in args)
        kwargs = {name: self._as_logits(value) for name, value in kwargs.items()}
        out = self._block(state, args, kwargs)
        if self.last:
            self.chain.finish()
            out = _spread(out, state)
            return _unpacked(out, state) if self.drops and state.packages else out
        return out

    def _block(self, state: TokenState, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        block = vars(self)["block"]
        forward = type(block).forward
        paired = any(self._is_pairs(value) for value in (*args, *kwargs.values()))
        if not self.watches and not paired and state.strategy == "topk":
            if state.size is None:
                return forward(block, *args, **kwargs)
            if self.takes_mask and len(args) == 1 and kwargs.get(MASK) is None:  # what compilers can follow
                bias = torch.log(state.size)[:, None, None, :].to(args[0].dtype)
                return forward(block, *args, **{**kwargs, MASK: bias})
        state.inside = True
        try:
            with TokenAttention(state, self.dense):
                return forward(block, *args, **kwargs)
        finally:
            state.inside = False

    def remove(self) -> None:
        """Give the block back as it was."""
        block = vars(self)["block"]
        del vars(block)["forward"], block._modules[GATE]

    def _is_pairs(self, value: Any) -> bool:
        """Whether it is a mask over pairs of tokens, which networks of transformers give to blocks when exported."""
        return isinstance(value, torch.Tensor) and value.dim() == 4 and value.shape[-2:] == (self.dense, self.dense)

    def _as_logits(self, value: Any) -> Any:
        # BEiT of transformers adds its bias to a mask of truths, which makes each true pair one larger
        truths = self._is_pairs(value) and value.dtype is torch.bool
        return additive(value, next(vars(self)["block"].parameters())) if truths else value

    def _rotations(self, table: Any, state: TokenState) -> Any:
        """The rows of a rotary table, [patches, sines and cosines], for the tokens that are there."""
        place = state.place
        patches = self.dense - state.prefix
        if place is None or not isinstance(table, torch.Tensor) or table.dim() != 2 or table.shape[0] != patches:
            return table
        # packages stand for no place: they are not rotated
        still = torch.cat([torch.zeros_like(table[:1, ::2]), torch.ones_like(table[:1, 1::2])], -1)
        row = place[:, state.prefix :] - state.prefix
        row = torch.where(row < 0, torch.full_like(row, patches), row)
        return torch.cat([table, still])[row][:, None]


def _with_tokens(
    step: nn.Module, state: TokenState, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A block's arguments with other tokens; they are its first tensor."""
    if args:
        return (step(args[0], state), *args[1:]), dict(kwargs)
    name = next(name for name, value in kwargs.items() if isinstance(value, torch.Tensor))
    return (), {**kwargs, name: step(kwargs[name], state)}


def _unpacked(out: Any, state: TokenState) -> Any:
    """The last block's tokens without packages."""
    tokens = out[0] if isinstance(out, tuple) else out
    end = tokens.shape[1] - state.packages
    state.alive = None if state.alive is None else state.alive[:, :end]
    state.place = None if state.place is None else state.place[:, :end]
    return (tokens[:, :end], *out[1:]) if isinstance(out, tuple) else tokens[:, :end]


def _spread(out: Any, state: TokenState) -> Any:
    """The last block's tokens with every image by itself again."""
    if state.lengths is None:
        return out
    lengths, packages = state.lengths, state.packages
    assert state.alive is not None
    assert state.place is not None
    state.alive = side_by_side(state.alive, lengths, packages)
    state.place = side_by_side(state.place, lengths, packages, -1)
    if state.size is not None:
        state.size = side_by_side(state.size, lengths, packages, 1.0)
    state.lengths = None
    if isinstance(out, tuple):
        return (side_by_side(out[0], lengths, packages), *out[1:])
    return side_by_side(out, lengths, packages)
