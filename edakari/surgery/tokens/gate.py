"""Gates: wrappers around the blocks of a network whose tokens are pruned."""

from __future__ import annotations

import dataclasses as dc
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edakari.core.stand_ins import has_stand_in, put_stand_in, take_stand_in_off
from edakari.errors import PlanError
from edakari.surgery.tokens.attention import TokenAttention
from edakari.surgery.tokens.biases import additive
from edakari.surgery.tokens.checkpointing import entered, left, own_checkpointing, without_own_checkpointing
from edakari.surgery.tokens.layout import MASK
from edakari.surgery.tokens.reductions import Role, Roles
from edakari.surgery.tokens.rotary import rotations
from edakari.surgery.tokens.rows import side_by_side
from edakari.surgery.tokens.selection import Selection
from edakari.surgery.tokens.selectors import begin_at
from edakari.surgery.tokens.state import Chain, TokenState
from edakari.surgery.tokens.unmerging import unmerged

__all__ = ["GATE", "GateSettings", "TokenGate", "refuse_gated"]

GATE = "token_gate"
"""Name of the child in which a block holds its gate."""


def refuse_gated(block: nn.Module, *inside: nn.Module) -> None:
    """Raise PlanError if a block already has a gate, or its forward or an inner module's forward was replaced."""
    if GATE in block._modules or any(map(has_stand_in, (block, *inside))):
        raise PlanError(f"{type(block).__name__} already has a gate or a replaced forward; remove it first")


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """Position and properties of a gate.

    Args:
        dense: number of tokens before pruning, including the prefix.
        first: whether it is the first of the network's gates.
        last: whether its block is the last of the network.
        watches: whether its block's attention is observed or biased even without masked tokens.
        takes_mask: whether its block passes an argument `attn_mask` to its attention.
        drops: whether packages are dropped after it, because later parts read each token as a patch.
        roles: roles of its block's reductions.
        behind: roles of the reductions after the last block.
    """

    dense: int
    first: bool
    last: bool
    watches: bool
    takes_mask: bool = False
    drops: bool = False
    roles: tuple[Role, ...] = ()
    behind: tuple[Role, ...] = ()


class TokenGate(nn.Module):
    """Replaces a block's forward: runs the selector, if any, and then the block on the remaining tokens.

    The block keeps its position, class and parameter names; its gate is an additional child. `remove` restores the
    block exactly.
    """

    def __init__(self, block: nn.Module, step: nn.Module | None, chain: Chain, settings: GateSettings) -> None:
        """Attach a gate to a block.

        Args:
            block: block of the network, changed in place.
            step: selector or merger; None if no token is removed.
            chain: the chain that all gates of the network share.
            settings: see `GateSettings`.
        """
        super().__init__()
        refuse_gated(block)
        self.step, self.chain = step, chain
        self.settings = settings
        vars(self)["block"] = block  # not a child: the block holds the gate
        block.add_module(GATE, self)
        put_stand_in(block, self.run)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the block's outputs for the remaining tokens."""
        through = own_checkpointing(vars(self)["block"])
        if through is None:
            return self._run(*args, **kwargs)
        return through(functools.partial(self._run_once, **kwargs), *args)

    def _run_once(self, *args: Any, **kwargs: Any) -> Any:
        with without_own_checkpointing(vars(self)["block"]):
            return self._run(*args, **kwargs)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        entry = entered(self.chain, self, self.settings.first)
        state = entry.state
        if self.step is not None:
            state.inside = True  # a selector's computations are not the network's pooling
            args, kwargs = _with_tokens(self.step, state, args, kwargs)
            state.inside = False
        args, kwargs = rotations(args, kwargs, state, self.settings.dense)
        args = tuple(self._as_logits(value) for value in args)
        kwargs = {name: self._as_logits(value) for name, value in kwargs.items()}
        out = self._block(state, args, kwargs)
        if self.settings.last:
            self.chain.finish()
            state.roles = Roles(self.settings.behind)
            out = _spread(out, state)
            if state.origin is not None:
                out = _unmerged(out, state, self.settings.dense)
            out = _unpacked(out, state) if self.settings.drops and state.packages else out
            if state.record:
                state.tokens = out[0] if isinstance(out, tuple) else out
        return (left(entry, out[0]), *out[1:]) if isinstance(out, tuple) else left(entry, out)

    def _block(self, state: TokenState, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        block = vars(self)["block"]
        forward = type(block).forward
        paired = any(self._is_pairs(value) for value in (*args, *kwargs.values()))
        if not self.settings.watches and not paired and state.strategy == "topk":
            if state.size is None:
                return forward(block, *args, **kwargs)
            if self.settings.takes_mask and len(args) == 1 and kwargs.get(MASK) is None:  # what compilers can follow
                bias = torch.log(state.size)[:, None, None, :].to(args[0].dtype)
                return forward(block, *args, **{**kwargs, MASK: bias})
        state.inside, state.attended = True, None
        try:
            with TokenAttention(state, self.settings.dense, self.settings.roles):
                return forward(block, *args, **kwargs)
        finally:
            state.inside = False

    def begin_at_target(self) -> None:
        """Shift the scores of a new selector, so that sampled decisions keep about the planned number of tokens."""
        if isinstance(self.step, Selection):
            begin_at(self.step.selector, self.step.settings.count / self.step.settings.entering)

    def remove(self) -> None:
        """Remove the gate and restore the block."""
        block = vars(self)["block"]
        take_stand_in_off(block)
        del block._modules[GATE]

    def _is_pairs(self, value: Any) -> bool:
        """Return whether a value is a mask over pairs of tokens, which exported transformers models pass to blocks."""
        return (
            isinstance(value, torch.Tensor)
            and value.dim() == 4
            and value.shape[-2:] == (self.settings.dense, self.settings.dense)
        )

    def _as_logits(self, value: Any) -> Any:
        # transformers' BEiT adds its bias to a boolean mask, which adds 1 to each true pair
        truths = self._is_pairs(value) and value.dtype is torch.bool
        return additive(value, next(vars(self)["block"].parameters())) if truths else value


def _with_tokens(
    step: nn.Module, state: TokenState, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a block's arguments with new tokens in place of the first tensor."""
    if args:
        return (step(args[0], state), *args[1:]), dict(kwargs)
    name = next(name for name, value in kwargs.items() if isinstance(value, torch.Tensor))
    return (), {**kwargs, name: step(kwargs[name], state)}


def _unpacked(out: Any, state: TokenState) -> Any:
    """Return the last block's tokens without packages."""
    tokens = out[0] if isinstance(out, tuple) else out
    end = tokens.shape[1] - state.packages
    state.alive = None if state.alive is None else state.alive[:, :end]
    state.index = None if state.index is None else state.index[:, :end]
    return (tokens[:, :end], *out[1:]) if isinstance(out, tuple) else tokens[:, :end]


def _unmerged(out: Any, state: TokenState, dense: int) -> Any:
    """Return the last block's outputs with all tokens of the dense network, none of which is masked."""
    tokens = unmerged(out[0] if isinstance(out, tuple) else out, state, dense)
    state.alive = state.size = state.index = state.origin = None
    state.packages = 0
    return (tokens, *out[1:]) if isinstance(out, tuple) else tokens


def _spread(out: Any, state: TokenState) -> Any:
    """Return the last block's tokens with images separated again."""
    if state.lengths is None:
        return out
    lengths, packages = state.lengths, state.packages
    assert state.alive is not None
    assert state.index is not None
    state.alive = side_by_side(state.alive, lengths, packages)
    state.index = side_by_side(state.index, lengths, packages, -1)
    if state.size is not None:
        state.size = side_by_side(state.size, lengths, packages, 1.0)
    state.lengths = None
    if isinstance(out, tuple):
        return (side_by_side(out[0], lengths, packages), *out[1:])
    return side_by_side(out, lengths, packages)
