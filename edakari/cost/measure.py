"""Latency: measured in the runtime that will serve the network, dense and pruned under the same noise."""

from __future__ import annotations

import dataclasses as dc
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from torch import nn

from edakari.errors import EdakariError, MeasurementError

if TYPE_CHECKING:
    from edakari.cost.latency.layers import Layer

__all__ = ["WARMUP", "Clock", "RunSettings", "Runtime", "Timing", "measure", "require_steady", "time_callables"]


WARMUP = 3
"""Calls that are not timed, wherever nothing else is said; tables are told apart by it."""


@dc.dataclass(frozen=True, slots=True)
class Timing:
    """How long one call takes.

    Args:
        median_ms: median over the repeats, ms.
        minimum_ms: quickest repeat, ms.
        spread: distance between the quartiles of one window, ms; the median over the windows.
        repeats: calls that were timed.
        ratio: median over the rounds of its time to that of the first callable in the same round, which a machine that
            is busy now and then moves less than it moves the medians.
    """

    median_ms: float
    minimum_ms: float
    spread: float
    repeats: int
    ratio: float = 1.0


@dc.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a runtime runs a network; a part of the key of every table.

    Args:
        threads: CPU threads of one call; 0 leaves the runtime's own choice.
        precision: type of weights and activations.
        memory_format: order of the dimensions of images in memory, where the runtime leaves the choice.
        device: where layers are timed; a whole network is timed where its weights are.
        warmup: calls that are not timed.
    """

    threads: int = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    device: str = "cpu"
    warmup: int = WARMUP


class Clock(Protocol):
    """Times one layer, call after call."""

    def run(self) -> None:
        """Call the layer once."""

    def times(self) -> list[float]:
        """Time of each call, ms, in order; no call may follow."""


class Runtime(Protocol):
    """Something that runs networks and their layers."""

    @property
    def name(self) -> str:
        """Name in recipes and tables."""

    @property
    def kernels_only(self) -> bool:
        """Whether its clocks time kernels alone, without what the runtime spends between them."""

    def versions(self) -> Mapping[str, str]:
        """Versions of what decides its times.

        Raises:
            MeasurementError: it is not installed; says how to install it.
        """

    def prepare(self, model: nn.Module, example: torch.Tensor, settings: RunSettings) -> Callable[[], None]:
        """A callable that runs the network once and returns when its outputs are there.

        Args:
            model: to run, in evaluation mode.
            example: the inputs of every call, [batch, ...].
            settings: how to run it.
        """

    def clock(self, layer: Layer, widths: tuple[int, ...], settings: RunSettings) -> Clock:
        """A clock for one layer at given widths, with weights of its own.

        Args:
            layer: what to time.
            widths: one for each of the layer's axes.
            settings: how to run it.
        """


def time_callables(
    calls: Mapping[str, Callable[[], None]], warmup: int, repeats: int, windows: int = 1, pause: float = 0.0
) -> dict[str, Timing]:
    """Time callables in turns, so that a busy machine slows all of them alike.

    Args:
        calls: what to time, by name.
        warmup: rounds that are not timed.
        repeats: rounds of a window that are timed; in each, every callable runs once, and the first changes.
        windows: how often all of it is done, since a machine's speed drifts.
        pause: seconds between two windows.

    Raises:
        MeasurementError: `repeats` or `windows` is below 1, or `warmup` or `pause` below 0.
    """
    if repeats < 1 or windows < 1 or warmup < 0 or pause < 0:
        raise MeasurementError(
            f"cannot time {repeats} repeats after {warmup} warm-up rounds in {windows} windows {pause:g} s apart; ask "
            "for at least 1 repeat and window, and at least 0 of the others"
        )
    found = []
    for window in range(windows):
        time.sleep(pause if window else 0.0)
        found.append(_window(calls, warmup, repeats))
    first = next(iter(calls), "")
    return {name: _timing([each[name] for each in found], [each[first] for each in found]) for name in calls}


def _window(calls: Mapping[str, Callable[[], None]], warmup: int, repeats: int) -> dict[str, list[float]]:
    names = list(calls)
    elapsed: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warmup + repeats):
        first = turn % max(len(names), 1)
        for name in (*names[first:], *names[:first]):
            start = time.perf_counter_ns()
            calls[name]()
            stop = time.perf_counter_ns()
            if turn >= warmup:
                elapsed[name].append((stop - start) / 1e6)
    return elapsed


def measure(
    models: Mapping[str, nn.Module],
    example: torch.Tensor,
    runtime: Runtime,
    *,
    settings: RunSettings | None = None,
    repeats: int = 50,
    windows: int = 1,
    pause: float = 0.0,
) -> dict[str, Timing]:
    """Latency of networks on the same inputs in one runtime.

    Args:
        models: what to time, by name; left as found.
        example: inputs, [batch, ...].
        runtime: what runs them.
        settings: how it runs them; None is `RunSettings()`.
        repeats: rounds of a window that are timed.
        windows: see `time_callables`.
        pause: see `time_callables`.

    Raises:
        MeasurementError: a network does not run there; names the network and the runtime.
    """
    settings = settings or RunSettings()
    before, training = torch.get_num_threads(), {name: model.training for name, model in models.items()}
    calls: dict[str, Callable[[], None]] = {}
    try:
        for name, model in models.items():
            try:
                calls[name] = runtime.prepare(model, example, settings)
                calls[name]()
            except EdakariError as error:
                raise MeasurementError(f"cannot measure the {name} network in {runtime.name}: {error}") from error
            except Exception as error:
                raise MeasurementError(
                    f"the {name} network does not run in {runtime.name} with inputs of shape {tuple(example.shape)}: "
                    f"{type(error).__name__}: {error}. Choose another runtime in measure.runtimes."
                ) from error
        return time_callables(calls, settings.warmup, repeats, windows, pause)
    finally:
        torch.set_num_threads(before)
        for name, model in models.items():
            model.train(training[name])


def require_steady(timing: Timing, name: str, limit: float = 0.15) -> None:
    """Refuse a timing that is too noisy to be compared with a budget.

    Args:
        timing: of the network.
        name: what was timed, for the message.
        limit: largest distance between the quartiles, as a share of the median.

    Raises:
        MeasurementError: the machine is too noisy; says the spread.
    """
    if timing.spread > limit * timing.median_ms:
        raise MeasurementError(
            f"{name} is too noisy to measure: {timing.median_ms:.3g} ms with {timing.spread:.2g} ms between the "
            f"quartiles of {timing.repeats} calls, {timing.spread / timing.median_ms:.0%} where {limit:.0%} is "
            "allowed. Stop what else runs on this machine and measure again, or ask for more repeats."
        )


def _timing(windows: Sequence[Sequence[float]], first: Sequence[Sequence[float]]) -> Timing:
    times_WR = np.array(windows)
    low_W, high_W = np.percentile(times_WR, (25, 75), axis=1)
    ratio = np.median(times_WR / np.maximum(np.array(first), 1e-9))
    spread = np.median(high_W - low_W)
    return Timing(float(np.median(times_WR)), float(times_WR.min()), float(spread), times_WR.size, float(ratio))
