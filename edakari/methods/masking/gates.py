"""Gates that are learnt: one logit per channel, from which open and closed gates are drawn at every step.

Ganjdanesh et al., ECCV 2022, section 3: Gumbel noise is added to a logit, and where the sum is positive the gate is
open. The gradient is that of a sigmoid of the sum. The sum is positive with probability 1 - exp(-exp(logit)).
"""

from __future__ import annotations

import dataclasses as dc
import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn

from edakari.core.protocols import Hook, StepState
from edakari.core.space import Group

__all__ = ["Draw", "FreeLogits", "GateMode", "Gumbel", "HyperLogits", "LogitStart", "drawn", "gumbel"]

GateMode = Literal["hard", "soft"]
LogitStart = Literal["normal", "zeros"]

INPUTS, HIDDEN = 64, 128
"""Widths of the hyper-network: of its fixed inputs, and of its recurrent layer."""


class FreeLogits(nn.Module):
    """A logit for each channel.

    Args:
        groups: that are gated.
        offset: added to what is learnt, so that gates start open.
        start: "normal" draws what is learnt from N(0, 1), "zeros" does not.
        seed: of the draw.
    """

    def __init__(self, groups: Sequence[Group], offset: float, start: LogitStart, seed: int) -> None:
        super().__init__()
        size = sum(group.size for group in groups)
        theta = torch.randn(size, generator=torch.Generator().manual_seed(seed))
        self.offset, self.theta = offset, nn.Parameter(theta if start == "normal" else torch.zeros(size))

    def forward(self) -> torch.Tensor:
        """Float [channels]."""
        return self.theta + self.offset


class HyperLogits(nn.Module):
    """Logits from a recurrent network that reads a fixed input for each group, so that groups know of each other.

    Args:
        groups: that are gated, in the order of the network.
        offset: added to what is learnt, so that gates start open.
        seed: of the inputs and of the weights.
    """

    inputs: torch.Tensor

    def __init__(self, groups: Sequence[Group], offset: float, seed: int) -> None:
        super().__init__()
        self.offset = offset
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.register_buffer("inputs", nn.init.orthogonal_(torch.empty(len(groups), INPUTS))[:, None])
            self.recurrent = nn.GRU(INPUTS, HIDDEN, bidirectional=True)
            self.norm = nn.LayerNorm(2 * HIDDEN)
            self.outputs = nn.ModuleList(
                nn.utils.parametrizations.weight_norm(nn.Linear(2 * HIDDEN, group.size)) for group in groups
            )

    def forward(self) -> torch.Tensor:
        """Float [channels]."""
        states_G1H, _ = self.recurrent(self.inputs)
        states_GH = torch.relu(self.norm(states_G1H[:, 0]))
        logits = torch.cat([layer(state) for layer, state in zip(self.outputs, states_GH, strict=True)])
        return logits + self.offset


class Gumbel(Hook):
    """Draws the noise of every step, the same on all processes and in a run that goes on.

    Args:
        size: numbers per step.
        seed: of the noise.
        take: gets it, float [size] on the CPU, before the step.
    """

    def __init__(self, size: int, seed: int, take: Callable[[torch.Tensor], None]) -> None:
        self.size, self.seed, self.take = size, seed, take

    def before_step(self, state: StepState) -> None:
        """See `Hook`."""
        self.take(gumbel(self.size, self.seed, state.step))


def gumbel(size: int, seed: int, step: int) -> torch.Tensor:
    """Standard Gumbel noise of a step, float32 [size]."""
    state = int(np.random.SeedSequence((seed, step)).generate_state(1)[0])
    uniform = torch.rand(size, generator=torch.Generator().manual_seed(state)).clamp(min=1e-20)
    return -torch.log(-torch.log(uniform))


@dc.dataclass(frozen=True)
class Draw:
    """Gates of one draw, float [channels]: `soft` between 0 and 1; `hard` 0 or 1, with the gradient of `soft`."""

    soft: torch.Tensor
    hard: torch.Tensor


def drawn(logits: torch.Tensor, noise: torch.Tensor, temperature: float, sizes: Sequence[int]) -> Draw:
    """Gates drawn from their logits.

    Args:
        logits: float [channels].
        noise: Gumbel noise, float [channels].
        temperature: of the sigmoid.
        sizes: of the groups, in the order of the channels; the largest logit of each is open in any case.
    """
    logits = logits.float()
    soft = torch.sigmoid((logits + noise.to(logits)) / temperature)
    starts = itertools.accumulate(sizes[:-1], initial=0)
    parts = zip(starts, torch.split(logits.detach(), list(sizes)), strict=True)
    largest = torch.stack([start + part.argmax() for start, part in parts])
    opened = (soft.detach() >= 0.5).to(soft).index_fill(0, largest, 1.0)
    return Draw(soft, soft - soft.detach() + opened)
