"""Latency, measured in the runtime that will serve the network; dense and pruned networks see the same noise.

A turn is a number of consecutive calls of one network. Networks are timed alternately, turn by turn: see
`edakari.core.far_side.loops`.
"""

from __future__ import annotations

import dataclasses as dc
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from edakari.core.far_side.loops import (
    KINDS_OF_CALLS,
    TURN_MS,
    WARM_MS,
    alternated,
    before_calls,
    ratios,
    rounds_of,
    timed_call,
    uncertainty,
)
from edakari.core.modes import eval_mode
from edakari.core.settings import NonNegative, Positive, Whole, settings
from edakari.core.steady import STEADY
from edakari.core.watching import Steps
from edakari.cost.example import shapes_text
from edakari.errors import EdakariError, MeasurementError
from edakari.export.serving import served
from edakari.latency.runnable import require_runnable
from edakari.latency.runtime_protocols import Clock, LayerRuntime, LocalRuntime, RemoteRuntime, Runtime

__all__ = [
    "WARMUP",
    "Calls",
    "Clock",
    "LayerRuntime",
    "LocalRuntime",
    "RemoteRuntime",
    "RunSettings",
    "Runtime",
    "Timing",
    "expected_seconds",
    "measure",
    "other_calls",
    "require_steady",
    "time_callables",
    "timings_of",
]


Calls = Literal["steady", "cold", "stream"]
"""How calls of networks follow each other; see `edakari.core.far_side.loops.before_calls`."""
FEW, CHEAP_MS = 25, 100.0
"""Number of calls by which other kinds of calls are compared, and longest other work before each of them, ms."""
WARMUP = 3
"""Default number of calls before timing starts; it is a part of a table's key."""


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
        exclude: modules that stay in fp32 where the precision is int8, as paths or patterns.
        memory_format: order of the dimensions of images in memory, if the runtime leaves the choice.
        device: device on which layers are timed; a whole network is timed on the device of its weights.
        warmup: number of calls before timing starts.
        calls: how calls of networks follow each other: at once ("steady"), with flushed caches ("cold"), or with other
            work in between ("stream").
    """

    threads: Whole = 1
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"
    exclude: tuple[str, ...] = ()
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    device: str = "cpu"
    warmup: Whole = WARMUP
    calls: Calls = "steady"


def time_callables(
    calls: Mapping[str, Callable[[], float | None]],
    warmup: int,
    repeats: int,
    tolerance: float = math.inf,
    kind: Calls = "steady",
) -> dict[str, Timing]:
    """Time callables alternately, so that a busy machine slows all of them alike.

    Turns are long: networks called one after the other would evict each other from the caches. That slows large and
    small networks differently, and no served network runs like that.

    Args:
        calls: callables to time, by name; one that returns a float has timed itself, in ms.
        warmup: least number of calls at the beginning of each turn that are not timed.
        repeats: least number of timed calls of each callable, divided among at most `TURNS` turns. Each round of turns
            begins with another callable.
        tolerance: largest uncertainty of every ratio, or of the median if there is one callable. Turns continue beyond
            `TURNS` until it is reached, up to `MOST_TURNS`; not if `repeats` gives fewer than `TURNS` turns.
        kind: how calls follow each other.

    Raises:
        MeasurementError: `repeats` is below 1 or `warmup` below 0.
    """
    if repeats < 1 or warmup < 0:
        raise MeasurementError(
            f"cannot time {repeats} repeats after {warmup} warm-up calls; ask for at least 1 and at least 0"
        )
    steps = Steps("timing", rounds_of(repeats))

    def told(done: int, most: int) -> None:
        steps.whole = most
        steps.at(done)

    turns = alternated(calls, warmup, repeats, tolerance, lambda: time.perf_counter_ns(), told, before_calls(kind))
    return timings_of(turns)


def timings_of(turns: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Timing]:
    """Return the timings of networks that were called alternately.

    Args:
        turns: times of the calls of each turn, ms, by network; ratios are those to the first network.
    """
    first = next(iter(turns.values()), ())
    return {name: _timing(each, first) for name, each in turns.items()}


def expected_seconds(latencies_ms: Iterable[float], warmup: int, repeats: int) -> float:
    """Estimate how long `time_callables` takes without a tolerance, s.

    Args:
        latencies_ms: latency of one call of each callable, ms.
        warmup: see `time_callables`.
        repeats: see `time_callables`.
    """
    rounds = rounds_of(repeats)
    turns_ms = (max(warmup * each, WARM_MS) + max(repeats / rounds * each, TURN_MS) for each in latencies_ms)
    return rounds * sum(turns_ms) / 1e3


def measure(
    models: Mapping[str, nn.Module],
    example: Any,
    runtime: Runtime,
    *,
    settings: RunSettings | None = None,
    repeats: int = 50,
    tolerance: float = math.inf,
    loaded: Callable[[float], None] = lambda seconds: None,
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
        loaded: callback that takes how long all networks take until they can be called, s, once two of them are
            loaded: a file that is resized takes less than the first one. A runtime on another device does not call it.

    Raises:
        MeasurementError: a network does not run there (the message names it and the runtime), or the settings do not.
    """
    settings = settings or RunSettings()
    require_runnable(runtime, settings)
    before = torch.get_num_threads()
    try:
        with eval_mode(*models.values()):
            if isinstance(runtime, RemoteRuntime):
                sent = {name: served(model) for name, model in models.items()}
                return runtime.time_networks(sent, example, settings, repeats, tolerance)
            calls = _loaded(models, example, runtime, settings, loaded)
            return time_callables(calls, settings.warmup, repeats, tolerance, settings.calls)
    finally:
        torch.set_num_threads(before)


def _loaded(
    models: Mapping[str, nn.Module],
    example: Any,
    runtime: Runtime,
    settings: RunSettings,
    loaded: Callable[[float], None],
) -> dict[str, Callable[[], float | None]]:
    """Return a callable for each network; reports how far the loading is."""
    calls: dict[str, Callable[[], float | None]] = {}
    steps, ends = Steps(f"loading in {runtime.name}", len(models)), [time.perf_counter_ns()]
    for name, model in models.items():
        calls[name] = _prepared(name, model, example, runtime, settings)
        steps.at(len(calls))
        ends.append(time.perf_counter_ns())
        if len(calls) == min(2, len(models)):
            loaded((ends[-1] - ends[0] + (ends[-1] - ends[-2]) * (len(models) - len(calls))) / 1e9)
    return calls


def other_calls(
    models: Mapping[str, nn.Module], example: Any, runtime: LocalRuntime, settings: RunSettings
) -> dict[str, float]:
    """Measure how the ratio of two networks depends on how calls follow each other, with few calls.

    Args:
        models: two networks by name; they do not change.
        example: see `measure`.
        runtime: runtime that runs the networks, on the CPU.
        settings: settings of the runtime.

    Returns:
        Latency of the second network as a fraction of the first one's, by the other kinds of calls; a kind whose other
        work takes long is left out.
    """
    found = {}
    before = torch.get_num_threads()
    try:
        with eval_mode(*models.values()):
            calls = {name: _prepared(name, model, example, runtime, settings) for name, model in models.items()}
            for kind in (kind for kind in KINDS_OF_CALLS if kind != settings.calls):
                work = before_calls(kind)
                if work is None or timed_call(work) <= CHEAP_MS:
                    turns = alternated(calls, 1, FEW, clock=lambda: time.perf_counter_ns(), before=work)
                    found[kind] = list(timings_of(turns).values())[-1].ratio
    finally:
        torch.set_num_threads(before)
    return found


def _prepared(
    name: str, model: nn.Module, example: Any, runtime: Runtime, settings: RunSettings
) -> Callable[[], float | None]:
    """Return a callable that runs a network once, after one trial call."""
    if not isinstance(runtime, LocalRuntime):
        raise MeasurementError(
            f"the runtime {runtime.name!r} has no `prepare`, so that it cannot run the {name} network"
        )
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
    compared = ratios(turns, first)
    return Timing(
        float(np.median(times)),
        float(times.min()),
        float(np.median(spreads)),
        len(times),
        float(np.median(compared)),
        uncertainty(medians if turns is first else compared),
    )
