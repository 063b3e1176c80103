"""State of the tokens of one forward pass, and the way for wrappers to request a strategy."""

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
"""How tokens are pruned: to a fixed number, by masks, or to a different number per image in three forms."""

Rule = Literal["count", "threshold", "sample"]
"""Which tokens are kept: the plan's number, those above a threshold, or sampled by score (in training)."""


@dc.dataclass(frozen=True, slots=True)
class Decision:
    """Decision of one selector for a batch.

    Args:
        block: dotted path of the block after the selector.
        kept: 1 for each kept patch of the network, float [B, N]; sampled decisions have a gradient.
        score: score of each patch, the logit of keeping it, [B, N]; -inf if it was pruned before.
        package: the package token, [B, C]; None without packages.
        weight: weight of each patch in the package if it is pruned, [B, N]; None without packages.
    """

    block: str
    kept: torch.Tensor
    score: torch.Tensor
    package: torch.Tensor | None = None
    weight: torch.Tensor | None = None


@dc.dataclass
class TokenState:
    """State of one forward pass, made by the first selector or by the wrapper that requests a strategy.

    Args:
        strategy: how tokens are pruned.
        rule: which tokens are kept.
        bias_floor: weight of masked keys instead of 0, so that its logarithm has a gradient; 0 in evaluation.
        alive: 1 or 0 for each token in the tensor, float [B, N]; None if all are present.
        index: index of each token in the dense network, -1 for packages, [B, N]; None if unchanged.
        origin: id of the token that represents each patch of the dense network (see `unmerging`), [B, patches]; None if
            each represents itself, or if patches are not unmerged.
        prefix: number of tokens at the front that are never pruned.
        packages: number of package tokens at the end.
        weight: total weight of the last package, [B].
        size: number of patches that each token represents, if attention uses it, [B or 1, N].
        merged: whether patches were merged, so that sizes differ between images.
        lengths: number of tokens of each image, if images are packed in one row.
        edges: for "bucketed", increasing limits on the number of tokens of an image.
        attended: query and key of the last attention, [batch, heads, tokens, channels].
        inside: whether a block is running.
        roles: roles of the reductions after the blocks; None until the last block has run.
        going: 1 or 0 for every position of a stage with a grid, [B, N]; None if all are kept.
        working: positions of such a stage that the MLPs run on, [B, K]; None for all positions.
        caps: for "padded", the largest number of patches per image after each block's selector.
        temperature: temperature of sampled decisions.
        record: whether decisions are recorded.
        learns: whether kept tokens carry the gradient of their scores, if the others are removed.
        decisions: decisions of all selectors that have run.
        tokens: tokens after the last block, if decisions are recorded.
    """

    strategy: Strategy = "topk"
    rule: Rule = "count"
    bias_floor: float = 0.0
    alive: torch.Tensor | None = None
    index: torch.Tensor | None = None
    origin: torch.Tensor | None = None
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
    learns: bool = False
    decisions: list[Decision] = dc.field(default_factory=list)
    tokens: torch.Tensor | None = None


_ASKED: ContextVar[TokenState | None] = ContextVar("edakari_tokens", default=None)
_LATEST: list[TokenState | None] = [None]
"""What `_ASKED` holds, for compiled networks: torch.compile of torch 2.11 cannot read a context variable."""
PASSES = 16
"""Number of forward passes whose blocks can still run again in a backward pass."""


@dc.dataclass
class Moment:
    """State of a gate on entry under gradient checkpointing, where its block will run again.

    Args:
        gate: the gate.
        region: id of the object that identifies the recomputed part of the network.
        heads: whether the gate is the first one in that part.
        state: state on entry.
        done: whether the block has run again.
        leaves: leaf tensors in place of the gate's results without gradients, to collect gradients; by field, or by
            the index of the decision and its field.
    """

    gate: object
    region: int
    heads: bool
    state: TokenState
    done: bool = False
    leaves: dict[str | tuple[int, str], torch.Tensor] = dc.field(default_factory=dict)


class Chain:
    """Shared state of a network's gates: the state of the running forward pass in each thread."""

    def __init__(self) -> None:
        self.states: dict[int, TokenState] = {}
        self.moments: list[list[Moment]] = []

    def __reduce__(self) -> tuple[type[Chain], tuple[()]]:
        """Copy without passes."""
        return Chain, ()

    def start(self) -> TokenState:
        """Return the state for a forward pass at its first gate."""
        state = self.states[_thread()] = _asked() or TokenState()
        if self.moments:
            open_passes = [noted for noted in self.moments if not all(each.done for each in noted if each.heads)]
            self.moments = [*open_passes[1 - PASSES :], []]
        return state

    def now(self) -> TokenState:
        """Return the state of the running forward pass."""
        state = self.states.get(_thread())
        return self.start() if state is None else state

    def again(self, state: TokenState) -> None:
        """Continue from a recorded state: blocks of an earlier pass run again."""
        self.states[_thread()] = state

    def note(self, gate: object, region: object, state: TokenState) -> Moment:
        """Record the state of a gate on entry, for when its block runs again."""
        self.moments = self.moments or [[]]
        noted = self.moments[-1]
        heads = not noted or noted[-1].region != id(region)
        noted.append(Moment(gate, id(region), heads, dc.replace(state, decisions=[])))
        return noted[-1]

    def moment(self, gate: object, region: object) -> Moment | None:
        """Return the recorded state of a gate from the first run of its block."""
        found = [each for noted in self.moments for each in noted if each.gate is gate and each.region == id(region)]
        return found[-1] if found else None

    @property
    def runs(self) -> bool:
        """Return whether a pass is running in this thread."""
        return _thread() in self.states

    def finish(self) -> None:
        """Discard the state of a forward pass that has left the last gate."""
        self.states.pop(_thread(), None)


@contextlib.contextmanager
def running(state: TokenState) -> Iterator[TokenState]:
    """Context in which a forward pass uses this state; each state serves one pass."""
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
