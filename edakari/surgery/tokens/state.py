"""What one forward pass knows of its tokens, and how a wrapper asks for another way of running."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Literal

import torch

from edakari.surgery.tokens.reductions import Roles

__all__ = ["PASSES", "Chain", "Decision", "Moment", "Rule", "Strategy", "TokenState", "running"]

Strategy = Literal["topk", "mask", "padded", "packed", "bucketed"]
"""Tokens are removed to a fixed number, masked, or removed to a number of each image's own, in three forms."""

Rule = Literal["count", "threshold", "sample"]
"""Which tokens stay: as many as the plan says, those above a threshold, or drawn by their scores (in training)."""


@dc.dataclass(frozen=True, slots=True)
class Decision:
    """What one selector decided for a batch.

    Args:
        block: dotted path of the block in front of which it stands.
        kept: for each patch of the network, 1 where it goes on, float [B, N]; with a gradient where it was sampled.
        score: its score, a logit to stay, [B, N]; -inf where it was gone before.
        package: the package token that it made, [B, C]; None where it makes none.
        weight: weight of each patch in the package if it goes, [B, N]; None where none is made.
    """

    block: str
    kept: torch.Tensor
    score: torch.Tensor
    package: torch.Tensor | None = None
    weight: torch.Tensor | None = None


@dc.dataclass
class TokenState:
    """State of one forward pass: made anew by the first selector, or by the wrapper that asks for a strategy.

    Args:
        strategy: how tokens go.
        rule: which go.
        bias_floor: what masked keys get in place of 0, so that its logarithm has a gradient; 0 in evaluation.
        alive: for each token now there, 1 or 0, float [B, N]; None where all are.
        index: for each token now there, its place among the dense network's, -1 for packages, [B, N]; None where
            unchanged.
        prefix: tokens at the front that are never pruned.
        packages: tokens at the end that stand for pruned ones.
        weight: total weight that the last package stands for, [B].
        size: patches that each token stands for, where that counts in attention, [B or 1, N].
        merged: whether patches were merged, so that sizes are each image's own.
        lengths: tokens of each image, where they lie behind each other in one row.
        edges: most tokens of an image under "bucketed", rising.
        attended: query and key of the last attention, [batch, heads, tokens, channels].
        inside: whether a block is running.
        roles: of the reductions that follow the blocks; None before the last block is left.
        going: in a stage with a grid, 1 or 0 for every position, [B, N]; None where all go on.
        working: in such a stage, positions that the MLPs work on, [B, K]; None where they work on all.
        caps: most patches of an image behind the selector of a block, under "padded".
        temperature: of sampled decisions.
        record: whether decisions are noted.
        decisions: of each selector that ran.
        tokens: behind the last block, where decisions are noted.
    """

    strategy: Strategy = "topk"
    rule: Rule = "count"
    bias_floor: float = 0.0
    alive: torch.Tensor | None = None
    index: torch.Tensor | None = None
    prefix: int = 0
    packages: int = 0
    weight: torch.Tensor | None = None
    size: torch.Tensor | None = None
    merged: bool = False
    lengths: list[int] | None = None
    edges: tuple[int, ...] = ()
    attended: tuple[torch.Tensor, torch.Tensor] | None = None
    inside: bool = False
    roles: Roles | None = None
    going: torch.Tensor | None = None
    working: torch.Tensor | None = None
    caps: Mapping[str, int] = dc.field(default_factory=dict)
    temperature: float = 1.0
    record: bool = False
    decisions: list[Decision] = dc.field(default_factory=list)
    tokens: torch.Tensor | None = None


_ASKED: ContextVar[TokenState | None] = ContextVar("edakari_tokens", default=None)
_LATEST: list[TokenState | None] = [None]
"""What `_ASKED` holds, for compiled networks: torch.compile of torch 2.11 cannot read a context variable."""
PASSES = 16
"""Forward passes whose blocks may still run again in a backward pass."""


@dc.dataclass
class Moment:
    """What a gate knew when it was entered inside of gradient checkpointing, where its block will run once more.

    Args:
        gate: that was entered.
        region: number of the object that stands for the part of the network that is computed again.
        heads: whether the gate is the first one in that part.
        state: as it was then.
        done: whether the block ran again.
        leaves: in place of what the gate computed without gradient, so that theirs is caught; by field, or by the
            number of the decision and its field.
    """

    gate: object
    region: int
    heads: bool
    state: TokenState
    done: bool = False
    leaves: dict[str | tuple[int, str], torch.Tensor] = dc.field(default_factory=dict)


class Chain:
    """What the gates of one network share: the state of the forward pass that is running, in each thread."""

    def __init__(self) -> None:
        self.states: dict[int, TokenState] = {}
        self.moments: list[list[Moment]] = []

    def __reduce__(self) -> tuple[type[Chain], tuple[()]]:
        """Copies begin without passes."""
        return Chain, ()

    def start(self) -> TokenState:
        """The state for a forward pass that comes to its first gate."""
        state = self.states[_thread()] = _asked() or TokenState()
        if self.moments:
            open_passes = [noted for noted in self.moments if not all(each.done for each in noted if each.heads)]
            self.moments = [*open_passes[1 - PASSES :], []]
        return state

    def now(self) -> TokenState:
        """The state of the forward pass that is running."""
        state = self.states.get(_thread())
        return self.start() if state is None else state

    def again(self, state: TokenState) -> None:
        """Go on from a state that was noted: blocks of an earlier pass run once more."""
        self.states[_thread()] = state

    def note(self, gate: object, region: object, state: TokenState) -> Moment:
        """Remember what a gate knows as it is entered, for the time when its block runs again."""
        self.moments = self.moments or [[]]
        noted = self.moments[-1]
        heads = not noted or noted[-1].region != id(region)
        noted.append(Moment(gate, id(region), heads, dc.replace(state, decisions=[])))
        return noted[-1]

    def moment(self, gate: object, region: object) -> Moment | None:
        """What a gate knew when its block ran first."""
        found = [each for noted in self.moments for each in noted if each.gate is gate and each.region == id(region)]
        return found[-1] if found else None

    @property
    def runs(self) -> bool:
        """Whether a pass is running in this thread."""
        return _thread() in self.states

    def finish(self) -> None:
        """Forget the state of a forward pass that has left the last gate."""
        self.states.pop(_thread(), None)


@contextlib.contextmanager
def running(state: TokenState) -> Iterator[TokenState]:
    """Forward passes in the block use this state; one pass to a state."""
    token, latest = _ASKED.set(state), _LATEST[0]
    _LATEST[0] = state
    try:
        yield state
    finally:
        _ASKED.reset(token)
        _LATEST[0] = latest


def _asked() -> TokenState | None:
    return _LATEST[0] if torch.compiler.is_compiling() else _ASKED.get()


def _thread() -> int:
    return 0 if torch.compiler.is_compiling() else threading.get_ident()
