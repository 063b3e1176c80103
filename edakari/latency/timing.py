"""Latency: measured in the runtime that will serve the network, dense and pruned under the same noise."""

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
"""Calls that are not timed, wherever nothing else is said; tables are told apart by it."""
TURNS = 10
"""Turns that each callable has at most, where their scatter is of no concern."""
MOST_TURNS = 60
"""Turns that each callable has at most, where they scatter by more than is asked for."""
CALLS = 5
"""Timed calls that a turn has at least."""
WARM_MS, TURN_MS = 20.0, 50.0
"""How long at least a turn goes on before calls are timed, and while they are: a processor that was given something
else to do takes milliseconds to come to its speed, and caches to be filled."""


@dc.dataclass(frozen=True, slots=True)
class Timing:
    """How long one call takes.

    Args:
        median_ms: median over the repeats, ms.
        minimum_ms: quickest repeat, ms.
        spread: distance between the quartiles of one turn, ms; the median over the turns.
        repeats: calls that were timed.
        ratio: median over the turns of its median to that of the first callable's turn next to it, which a machine
            whose speed drifts moves less than it moves the medians.
        uncertainty: standard error of `ratio` as a fraction of it, from its quartiles over the turns; of `median_ms`
            for the first callable.
    """

    median_ms: Positive
    minimum_ms: float
    spread: NonNegative
    repeats: int
    ratio: Positive = 1.0
    uncertainty: float = 0.0


@settings
class RunSettings:
    """How a runtime runs a network; a part of the key of every table.

    Args:
        threads: CPU threads of one call; 0 leaves the runtime's own choice.
        precision: type of weights and activations.
        memory_format: order of the dimensions of images in memory, where the runtime leaves the choice.
        device: where layers are timed; a whole network is timed where its weights are.
        warmup: calls that are not timed.
    """

    threads: Whole = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    device: str = "cpu"
    warmup: Whole = WARMUP


class Clock(Protocol):
    """Times one layer, call after call."""

    def run(self) -> None:
        """Call the layer once."""

    def times(self) -> list[float]:
        """Time of each call, ms, in order; no call may follow."""


class Runtime(Protocol):
    """Something that runs networks. One that can also time single layers is a `LayerRuntime`."""

    @property
    def name(self) -> str:
        """Name in recipes and tables."""

    def versions(self) -> Mapping[str, str]:
        """Versions of what decides its times.

        Raises:
            MeasurementError: it is not installed; says how to install it.
        """

    def check(self, settings: RunSettings) -> None:
        """Refuse settings in which it cannot run networks here, whatever the network.

        Raises:
            MeasurementError: it is not installed, or does not have what is asked for; says what to do.
        """

    def prepare(self, model: nn.Module, example: Any, settings: RunSettings) -> Callable[[], None]:
        """A callable that runs the network once and returns when its outputs are there.

        Args:
            model: to run; the caller has put it in evaluation mode.
            example: the inputs of every call, [batch, ...]; or a tuple of positional arguments or a dict of keywords.
            settings: how to run it.
        """


@runtime_checkable
class LayerRuntime(Runtime, Protocol):
    """A runtime that also times single layers, from which the latency of any sub-network is predicted.

    Without these two members a runtime can only time whole networks. A latency budget is then met by the closed loop
    alone, which measures more networks.
    """

    @property
    def kernels_only(self) -> bool:
        """Whether its clocks time kernels alone, without what the runtime spends between them."""

    def clock(self, layer: Layer, widths: tuple[int, ...], settings: RunSettings) -> Clock:
        """A clock for one layer at given widths, with weights of its own.

        Args:
            layer: what to time.
            widths: one for each of the layer's axes.
            settings: how to run it.
        """


def require_clock(runtime: Runtime) -> LayerRuntime:
    """The runtime as one that times single layers.

    Raises:
        MeasurementError: it only times whole networks.
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

    The turns are long: called alternately, networks would drive each other out of the caches, which slows large ones
    and small ones differently, and none is served like that.

    Args:
        calls: what to time, by name.
        warmup: calls at the beginning of each turn that are not timed, at least.
        repeats: calls of each that are timed, at least, shared out among up to `TURNS` turns; in every round of turns
            another callable is first.
        tolerance: uncertainty of every ratio, or of the median of one that is timed alone, up to which turns go on
            beyond `TURNS`; never for more than `MOST_TURNS`, nor where fewer than `TURNS` are asked for.

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
    """How long `time_callables` takes where scatter is of no concern, s.

    Args:
        latencies_ms: of one call of each callable, ms.
        warmup: see `time_callables`.
        repeats: see `time_callables`.
    """
    rounds = _rounds(repeats)
    turns_ms = (max(warmup * each, WARM_MS) + max(repeats / rounds * each, TURN_MS) for each in latencies_ms)
    return rounds * sum(turns_ms) / 1e3


def _rounds(repeats: int) -> int:
    return max(1, min(TURNS, repeats // CALLS))


def _turn(call: Callable[[], None], least: int, least_ms: float) -> list[float]:
    """Times of so many calls, and of more until so much time has passed, ms."""
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
    """Latency of networks on the same inputs in one runtime.

    Args:
        models: what to time, by name; left as found.
        example: inputs, [batch, ...]; or a tuple of positional arguments or a dict of keywords with such tensors.
        runtime: what runs them.
        settings: how it runs them; None is `RunSettings()`.
        repeats: calls of each network that are timed, at least.
        tolerance: see `time_callables`.

    Raises:
        MeasurementError: a network does not run there (names it and the runtime), or nothing runs there as asked.
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
    """What runs a network once, tried."""
    try:
        call = runtime.prepare(model, example, settings)
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
        timing: of the network.
        name: what was timed, for the message.
        limit: largest distance between the quartiles, as a fraction of the median.

    Raises:
        MeasurementError: the machine is too noisy; says the spread.
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

    It is sqrt(pi / 2) standard deviations over the root of the count, and a normal distribution's quartiles lie 1.349
    standard deviations apart; they hold where some turns are outliers.
    """
    deviation = float(np.subtract(*np.percentile(values, (75, 25)))) / 1.349
    return math.sqrt(math.pi / 2 / len(values)) * deviation / max(float(np.median(values)), 1e-9)
