"""Trained gates: one logit per channel, from which open and closed gates are sampled at every step.

Ganjdanesh et al., ECCV 2022, section 3: Gumbel noise is added to a logit, and the gate is open if the sum is positive.
The gradient is that of a sigmoid of the sum. The sum is positive with probability 1 - exp(-exp(logit)).
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

__all__ = ["Draw", "FreeLogits", "GateMode", "Gumbel", "HyperLogits", "LogitStart", "drawn", "gumbel", "likely_open"]

GateMode = Literal["hard", "soft"]
LogitStart = Literal["normal", "zeros"]

INPUTS, HIDDEN = 64, 128
"""Widths of the fixed inputs and of the recurrent layer of the hyper-network."""


class FreeLogits(nn.Module):
    """One free logit per channel.

    Args:
        groups: groups that get gates.
        offset: offset that is added to the trained values, so that gates start open.
        start: initial values: "normal" samples them from N(0, 1), "zeros" sets them to 0.
        seed: seed of the initial values.
    """

    def __init__(self, groups: Sequence[Group], offset: float, start: LogitStart, seed: int) -> None:
        super().__init__()
        size = sum(group.size for group in groups)
        theta = torch.randn(size, generator=torch.Generator().manual_seed(seed))
        # as a row: weight decay acts on tensors of two dimensions
        self.offset, self.theta = offset, nn.Parameter((theta if start == "normal" else torch.zeros(size))[None])

    def forward(self) -> torch.Tensor:
        """Float [channels]."""
        return self.theta[0] + self.offset


class HyperLogits(nn.Module):
    """Logits of a recurrent network that reads a fixed input for each group, so that the groups' logits interact.

    Args:
        groups: groups that get gates, in the order of the network.
        offset: offset that is added to the trained values, so that gates start open.
        seed: seed of the inputs and of the weights.
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
    """Samples the noise of every step, the same on all processes and in a run that is resumed.

    Args:
        size: number of noise values per step.
        seed: seed of the noise.
        take: function that receives the noise before the step, float [size] on the CPU.
    """

    def __init__(self, size: int, seed: int, take: Callable[[torch.Tensor], None]) -> None:
        self.size, self.seed, self.take = size, seed, take

    def before_step(self, state: StepState) -> None:
        """See `Hook`."""
        self.take(gumbel(self.size, self.seed, state.step))


def gumbel(size: int, seed: int, step: int) -> torch.Tensor:
    """Sample the standard Gumbel noise of a step.

    Args:
        size: number of noise values.
        seed: seed of the noise.
        step: index of the step.

    Returns:
        float32 [size] on the CPU.
    """
    state = int(np.random.SeedSequence((seed, step)).generate_state(1)[0])
    uniform = torch.rand(size, generator=torch.Generator().manual_seed(state)).clamp(min=1e-20)
    return -torch.log(-torch.log(uniform))


@dc.dataclass(frozen=True)
class Draw:
    """Sampled gates.

    Args:
        soft: gates between 0 and 1, float [channels].
        hard: gates of 0 or 1 with the gradient of `soft`, float [channels].
    """

    soft: torch.Tensor
    hard: torch.Tensor


def likely_open(logits: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Return whether gates are open with a probability of at least 1/2, bool [channels].

    These are the gates of logit log(log 2) = -0.3665 and more, and always the one with the largest logit of each group.

    Args:
        logits: logits of the gates, float [channels].
        sizes: sizes of the groups, in the order of the channels.
    """
    median = -torch.log(torch.log(torch.full_like(logits, 2.0)))
    return drawn(logits, median, 1.0, sizes).hard > 0.5


def drawn(logits: torch.Tensor, noise: torch.Tensor, temperature: float, sizes: Sequence[int]) -> Draw:
    """Sample gates from their logits; the gate with the largest logit of each group is always open.

    Args:
        logits: logits of the gates, float [channels].
        noise: Gumbel noise, float [channels].
        temperature: temperature of the sigmoid.
        sizes: sizes of the groups, in the order of the channels.
    """
    logits = logits.float()
    soft = torch.sigmoid((logits + noise.to(logits)) / temperature)
    starts = itertools.accumulate(sizes[:-1], initial=0)
    parts = zip(starts, torch.split(logits.detach(), list(sizes)), strict=True)
    largest = torch.stack([start + part.argmax() for start, part in parts])
    opened = (soft.detach() >= 0.5).to(soft).index_fill(0, largest, 1.0)
    return Draw(soft, soft - soft.detach() + opened)
