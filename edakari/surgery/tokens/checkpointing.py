"""Selectors with gradient checkpointing, which runs blocks again in the backward pass.

Gates exchange state that is not part of the tokens, so checkpointing does not save it. A gate therefore records its
state on entry, and restores the state when its block runs again. Reentrant checkpointing runs the forward pass without
gradients. There, a gate's results become leaves that collect gradients from later parts. These gradients are added when
the block runs again.
"""

from __future__ import annotations

import contextlib
import dataclasses as dc
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from edakari.errors import ModelError
from edakari.surgery.tokens.regions import forward_region, repeated_region
from edakari.surgery.tokens.state import PASSES, Chain, Moment, TokenState

__all__ = ["Entry", "entered", "left", "own_checkpointing", "without_own_checkpointing"]

FIELDS = ("alive", "weight", "size", "going", "tokens")
SWITCH = "gradient_checkpointing"
"""Name of the attribute that switches checkpointing in layers of the transformers library."""
DECIDED = ("kept", "score", "package", "weight")


@dc.dataclass(frozen=True)
class Entry:
    """Entry into a gate.

    Args:
        state: state of the pass.
        moment: recorded state; None outside gradient checkpointing.
        again: whether the block runs again, in a backward pass.
        before: values of the state on entry.
        decisions: number of decisions in the state on entry.
    """

    state: TokenState
    moment: Moment | None
    again: bool
    before: dict[str, torch.Tensor | None]
    decisions: int


def entered(chain: Chain, gate: object, first: bool) -> Entry:
    """Return the state for a gate.

    Args:
        chain: the chain of the network's gates.
        gate: the gate.
        first: whether it is the first of the network's gates.

    Raises:
        ModelError: a backward pass runs the block again, but its state was not recorded.
    """
    if torch.compiler.is_compiling():
        return _entry(chain.start() if first else chain.now(), None, False)
    again = torch._C._current_graph_task_id() != -1
    if not again:
        state = chain.start() if first else chain.now()
        region = forward_region()
        return _entry(state, None if region is None else chain.note(gate, region, state), False)
    region = repeated_region()
    moment = None if region is None else chain.moment(gate, region)
    if moment is None and (region is not None or not (first or chain.runs)):
        raise ModelError(
            "a block of a network with token selectors runs again in a backward pass, but the decisions of its "
            f"selectors are lost: only {PASSES} forward passes of torch.utils.checkpoint are stored. Run backward "
            "more often, or disable gradient checkpointing"
        )
    if moment is not None and moment.heads:
        moment.done = True
        chain.again(dc.replace(moment.state, decisions=[]))
    elif moment is None and first:
        chain.start()
    return _entry(chain.now(), moment, True)


def _entry(state: TokenState, moment: Moment | None, again: bool) -> Entry:
    return Entry(state, moment, again, {name: getattr(state, name) for name in FIELDS}, len(state.decisions))


def left(entry: Entry, tokens: torch.Tensor) -> torch.Tensor:
    """Return the output tokens of a gate.

    Args:
        entry: the entry into the gate.
        tokens: output of the gate's block.
    """
    if entry.moment is None:
        return tokens
    leaves = entry.moment.leaves
    if not entry.again:
        if not torch.is_grad_enabled():
            leaves.update(_made_leaves(entry))
        return tokens
    found = dict(_computed(entry))
    caught = [(found[name], leaf.grad) for name, leaf in leaves.items() if leaf.grad is not None]
    for leaf in leaves.values():
        leaf.grad = None
    caught = [(value, grad) for value, grad in caught if value.requires_grad]
    if not caught:
        return tokens
    out: torch.Tensor = _Joined.apply(tokens, *(part for pair in zip(*caught, strict=True) for part in pair))
    return out


def _computed(entry: Entry) -> Iterator[tuple[str | tuple[int, str], torch.Tensor]]:
    """Yield the tensors that the gate computed and later parts read."""
    for name, before in entry.before.items():
        value = getattr(entry.state, name)
        if value is not None and value is not before:
            yield name, value
    for index, decision in enumerate(entry.state.decisions[entry.decisions :]):
        for name in DECIDED:
            if getattr(decision, name) is not None:
                yield (index, name), getattr(decision, name)
    for index, value in enumerate(entry.state.attended or ()):
        yield (index, "attended"), value


def _made_leaves(entry: Entry) -> dict[str | tuple[int, str], torch.Tensor]:
    state = entry.state
    leaves = {name: value.detach().requires_grad_() for name, value in _computed(entry)}
    for name in FIELDS:
        if name in leaves:
            setattr(state, name, leaves[name])
    for index, decision in enumerate(state.decisions[entry.decisions :]):
        own: dict[str, Any] = {name: leaves[index, name] for name in DECIDED if (index, name) in leaves}
        state.decisions[entry.decisions + index] = dc.replace(decision, **own)
    if state.attended is not None:
        state.attended = (leaves[0, "attended"], leaves[1, "attended"])
    return leaves


def own_checkpointing(block: nn.Module) -> Callable[..., Any] | None:
    """Return the checkpoint function of a block of the transformers library, if its own checkpointing is on.

    Args:
        block: a block whose class checkpoints inside `forward`; selectors must run inside the checkpoint.
    """
    on = getattr(block, SWITCH, False) is True and block.training and torch.is_grad_enabled()
    if not on or torch.compiler.is_compiling() or torch._C._current_graph_task_id() != -1:
        return None
    through = getattr(block, "_gradient_checkpointing_func", None)
    return through if callable(through) and forward_region() is None else None


@contextlib.contextmanager
def without_own_checkpointing(block: nn.Module) -> Iterator[None]:
    """Context in which a block runs without its own checkpointing."""
    vars(block)[SWITCH], before = False, vars(block).get(SWITCH)
    try:
        yield
    finally:
        del vars(block)[SWITCH]
        if before is not None:
            vars(block)[SWITCH] = before


class _Joined(torch.autograd.Function):
    """Identity on tokens; the backward pass adds the collected gradients."""

    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, *parts: torch.Tensor) -> torch.Tensor:
        """Args: tokens, then all values, then the gradient of each."""
        ctx.save_for_backward(*parts[len(parts) // 2 :])
        return tokens.view_as(tokens)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradients of tokens and values; what was caught has none."""
        caught = ctx.saved_tensors
        return (*grads, *caught, *(None for _ in caught))
