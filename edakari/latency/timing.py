"""Latency, measured in the runtime that will serve the network; dense and pruned networks see the same noise.

A turn is a number of consecutive calls of one network. Networks are timed alternately, turn by turn.
"""

from __future__ import annotations

import dataclasses as dc
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

from edakari.core.modes import eval_mode
from edakari.core.settings import NonNegative, Positive, Whole, settings
from edakari.core.steady import STEADY
from edakari.cost.example import shapes_text
from edakari.errors import EdakariError, MeasurementError
from edakari.export.serving import served
from edakari.latency.runnable import require_runnable

if TYPE_CHECKING:
    from edakari.latency.layers import Layer

__all__ = [
    "WARMUP",
    "Clock",
    "LayerRuntime",
    "RunSettings",
    "Runtime",
    "Timing",
    "expected_seconds",
    "measure",
    "require_clock",
    "require_steady",
    "time_callables",
]


WARMUP = 3
"""Default number of calls before timing starts; it is a part of a table's key."""
TURNS = 10
"""Largest number of turns of each callable if no tolerance is given."""
MOST_TURNS = 60
"""Largest number of turns of each callable if their scatter exceeds the tolerance."""
CALLS = 5
"""Least number of timed calls in a turn."""
WARM_MS, TURN_MS = 20.0, 50.0
"""Least duration of the warm-up of a turn, and of its timed calls, ms: after other work, a processor takes milliseconds
to reach its speed and to fill its caches."""


@dc.dataclass(frozen=True, slots=True)
class Timing:
    """Latency of one call.

    Args:
        median_ms: median over the timed calls, ms.
        minimum_ms: fastest call, ms.
        spread: interquartile range of one turn, ms; the median over the turns.
        repeats: number of timed calls.
        ratio: ratio of a turn's median to that of the first callable's neighbouring turn, as the median over the turns.
            A drift of the machine's speed changes it less than the medians.
        uncertainty: standard error of `ratio` as a fraction of it, from the quartiles over the turns; that of
            `median_ms` for the first callable.
    """

    median_ms: Positive
    minimum_ms: float
    spread: NonNegative
    repeats: int
    ratio: Positive = 1.0
    uncertainty: float = 0.0


@settings
class RunSettings:
    """Settings with which a runtime runs a network; a part of the key of every table.

    Args:
        threads: CPU threads of one call; 0 leaves the choice to the runtime.
        precision: type of weights and activations.
        memory_format: order of the dimensions of images in memory, if the runtime leaves the choice.
        device: device on which layers are timed; a whole network is timed on the device of its weights.
        warmup: number of calls before timing starts.
    """

    threads: Whole = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    device: str = "cpu"
    warmup: Whole = WARMUP


class Clock(Protocol):
    """Times one layer, call after call."""

    def run(self) -> None:
        """Call the layer once and time it."""

    def times(self) -> list[float]:
        """Time of each call, ms, in order; `run` must not be called afterwards."""


class Runtime(Protocol):
    """A runtime for networks. A runtime that can also time single layers is a `LayerRuntime`."""

    @property
    def name(self) -> str:
        """Name in recipes and tables."""

    def versions(self) -> Mapping[str, str]:
        """Versions of the packages that determine its times.

        Raises:
            MeasurementError: the runtime is not installed; says how to install it.
        """

    def check(self, settings: RunSettings) -> None:
        """Refuse settings with which it cannot run any network here.

        Raises:
            MeasurementError: the runtime is not installed, or lacks what the settings ask for; says what to do.
        """

    def prepare(self, model: nn.Module, example: Any, settings: RunSettings) -> Callable[[], None]:
        """Return a callable that runs the network once and returns when its outputs are ready.

        Args:
            model: network to run, in evaluation mode.
            example: inputs of every call, [batch, ...]; or a tuple of positional arguments or a dict of keywords.
            settings: settings of the runtime.
        """


@runtime_checkable
class LayerRuntime(Runtime, Protocol):
    """A runtime that can also time single layers, so that the latency of any sub-network can be predicted.

    A runtime without these two members can only time whole networks. The closed loop alone then meets a latency budget,
    and measures more networks.
    """

    @property
    def kernels_only(self) -> bool:
        """Whether its clocks time kernels only, without the time that the runtime spends between them."""

    def clock(self, layer: Layer, widths: tuple[int, ...], settings: RunSettings) -> Clock:
        """Return a clock for one layer at given widths, with weights of its own.

        Args:
            layer: layer to time.
            widths: one width for each of the layer's axes.
            settings: settings of the runtime.
        """


def require_clock(runtime: Runtime) -> LayerRuntime:
    """Check that a runtime can time single layers, and return it.

    Raises:
        MeasurementError: the runtime only times whole networks.
    """
    if not isinstance(runtime, LayerRuntime):
        raise MeasurementError(
            f"the runtime {runtime.name!r} times whole networks only, so it has no table of layers to fill; give it "
            "`clock(layer, widths, settings)` and `kernels_only` to predict latencies, or set a latency budget, which "
            "is met by measuring whole networks"
        )
    return runtime


def time_callables(
    calls: Mapping[str, Callable[[], None]], warmup: int, repeats: int, tolerance: float = math.inf
) -> dict[str, Timing]:
    """Time callables alternately, so that a busy machine slows all of them alike.

    Turns are long: networks called one after the other would evict each other from the caches. That slows large and
    small networks differently, and no served network runs like that.

    Args:
        calls: callables to time, by name.
        warmup: least number of calls at the beginning of each turn that are not timed.
        repeats: least number of timed calls of each callable, divided among at most `TURNS` turns. Each round of turns
            begins with another callable.
        tolerance: largest uncertainty of every ratio, or of the median if there is one callable. Turns continue beyond
            `TURNS` until it is reached, up to `MOST_TURNS`; not if `repeats` gives fewer than `TURNS` turns.

    Raises:
        MeasurementError: `repeats` is below 1 or `warmup` below 0.
    """
    if repeats < 1 or warmup < 0:
        raise MeasurementError(
            f"cannot time {repeats} repeats after {warmup} warm-up calls; ask for at least 1 and at least 0"
        )
    names = list(calls)
    turns: dict[str, list[list[float]]] = {name: [] for name in names}
    rounds = _rounds(repeats)
    most = rounds if rounds < TURNS else MOST_TURNS
    timings: dict[str, Timing] = {}
    for number in range(most if names else 0):
        first, least = number % len(names), -(-(repeats - number % rounds) // rounds)
        for name in (*names[first:], *names[:first]):
            _turn(calls[name], warmup, WARM_MS)
            turns[name].append(_turn(calls[name], least, TURN_MS))
        if number + 1 < rounds:
            continue
        timings = {name: _timing(turns[name], turns[names[0]]) for name in names}
        if max(timings[name].uncertainty for name in names[1:] or names) <= tolerance:
            break
    return timings


def expected_seconds(latencies_ms: Iterable[float], warmup: int, repeats: int) -> float:
    """Estimate how long `time_callables` takes without a tolerance, s.

    Args:
        latencies_ms: latency of one call of each callable, ms.
        warmup: see `time_callables`.
        repeats: see `time_callables`.
    """
    rounds = _rounds(repeats)
    turns_ms = (max(warmup * each, WARM_MS) + max(repeats / rounds * each, TURN_MS) for each in latencies_ms)
    return rounds * sum(turns_ms) / 1e3


def _rounds(repeats: int) -> int:
    return max(1, min(TURNS, repeats // CALLS))


def _turn(call: Callable[[], None], least: int, least_ms: float) -> list[float]:
    """Time a number of calls, and more until a duration has passed; return the times, ms."""
    elapsed: list[float] = []
    while len(elapsed) < least or (least and sum(elapsed) < least_ms):
        start = time.perf_counter_ns()
        call()
        elapsed.append((time.perf_counter_ns() - start) / 1e6)
    return elapsed


def measure(
    models: Mapping[str, nn.Module],
    example: Any,
    runtime: Runtime,
    *,
    settings: RunSettings | None = None,
    repeats: int = 50,
    tolerance: float = math.inf,
) -> dict[str, Timing]:
    """Time networks on the same inputs in one runtime.

    Args:
        models: networks to time, by name; they do not change. Detectors are timed without their post-processing: see
            `edakari.export.served`.
        example: inputs of every call, [batch, ...]; or a tuple of positional arguments or a dict of keywords with such
            tensors.
        runtime: runtime that runs the networks.
        settings: settings of the runtime; None selects `RunSettings()`.
        repeats: least number of timed calls of each network.
        tolerance: see `time_callables`.

    Raises:
        MeasurementError: a network does not run there (the message names it and the runtime), or the settings do not.
    """
    settings = settings or RunSettings()
    require_runnable(runtime, settings)
    before = torch.get_num_threads()
    try:
        with eval_mode(*models.values()):
            calls = {name: _prepared(name, model, example, runtime, settings) for name, model in models.items()}
            return time_callables(calls, settings.warmup, repeats, tolerance)
    finally:
        torch.set_num_threads(before)


def _prepared(name: str, model: nn.Module, example: Any, runtime: Runtime, settings: RunSettings) -> Callable[[], None]:
    """Return a callable that runs a network once, after one trial call."""
    try:
        call = runtime.prepare(served(model), example, settings)
        call()
    except EdakariError as error:
        raise MeasurementError(f"cannot measure the {name} network in {runtime.name}: {error}") from error
    except Exception as error:
        raise MeasurementError(
            f"the {name} network does not run in {runtime.name} with inputs of shape {shapes_text(example)}: "
            f"{type(error).__name__}: {error}. Choose another runtime in measure.runtimes."
        ) from error
    return call


def require_steady(timing: Timing, name: str, limit: float = STEADY) -> None:
    """Refuse a timing that is too noisy to be compared with a budget.

    Args:
        timing: timing of the network.
        name: name of the network, for the message.
        limit: largest interquartile range, as a fraction of the median.

    Raises:
        MeasurementError: the machine is too noisy; states the spread.
    """
    if timing.spread > limit * timing.median_ms:
        raise MeasurementError(
            f"{name} is too noisy to measure: {timing.median_ms:.3g} ms with {timing.spread:.2g} ms between the "
            f"quartiles of {timing.repeats} calls, {timing.spread / timing.median_ms:.0%} where {limit:.0%} is "
            "allowed. Close other programs and measure again, or ask for more repeats."
        )


def _timing(turns: Sequence[Sequence[float]], first: Sequence[Sequence[float]]) -> Timing:
    times, medians = np.concatenate(turns), np.array([np.median(turn) for turn in turns])
    spreads = [np.subtract(*np.percentile(turn, (75, 25))) for turn in turns]
    ratios = medians / np.maximum([np.median(turn) for turn in first], 1e-9)
    return Timing(
        float(np.median(times)),
        float(times.min()),
        float(np.median(spreads)),
        len(times),
        float(np.median(ratios)),
        _uncertainty(medians if turns is first else ratios),
    )


def _uncertainty(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """Standard error of a median, as a fraction of it.

    It is sqrt(pi / 2) standard deviations over the root of the count. The quartiles of a normal distribution lie 1.349
    standard deviations apart; they are robust to outlying turns.
    """
    deviation = float(np.subtract(*np.percentile(values, (75, 25)))) / 1.349
    return math.sqrt(math.pi / 2 / len(values)) * deviation / max(float(np.median(values)), 1e-9)
