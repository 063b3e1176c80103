"""Latency: measured in the runtime that will serve the network, dense and pruned under the same noise."""

from __future__ import annotations

import dataclasses as dc
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import nn

from edakari.errors import EdakariError, MeasurementError

__all__ = ["Runtime", "Timing", "measure", "time_callables"]


@dc.dataclass(frozen=True, slots=True)
class Timing:
    """How long one call takes.

    Args:
        median_ms: median over the repeats, ms.
        minimum_ms: quickest repeat, ms.
        spread: distance between the quartiles, ms.
        repeats: calls that were timed.
    """

    median_ms: float
    minimum_ms: float
    spread: float
    repeats: int


class Runtime(Protocol):
    """Something that runs a network."""

    @property
    def name(self) -> str:
        """Name in recipes and tables."""

    def prepare(self, model: nn.Module, example: torch.Tensor, threads: int) -> Callable[[], None]:
        """A callable that runs the network once and returns when its outputs are there.

        Args:
            model: to run, in evaluation mode.
            example: the inputs of every call, [batch, ...].
            threads: CPU threads of one call; 0 leaves the runtime's own choice.
        """


def time_callables(calls: Mapping[str, Callable[[], None]], warmup: int, repeats: int) -> dict[str, Timing]:
    """Time callables in turns, so that a busy machine slows all of them alike.

    Args:
        calls: what to time, by name.
        warmup: rounds that are not timed.
        repeats: rounds that are timed; in each, every callable runs once, and the first changes.

    Raises:
        MeasurementError: `repeats` is below 1 or `warmup` below 0.
    """
    if repeats < 1 or warmup < 0:
        raise MeasurementError(
            f"cannot time {repeats} repeats after {warmup} warm-up rounds; ask for at least 1 and at least 0"
        )
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
    return {name: _timing(values) for name, values in elapsed.items()}


def measure(
    models: Mapping[str, nn.Module],
    example: torch.Tensor,
    runtime: Runtime,
    *,
    threads: int = 0,
    warmup: int = 5,
    repeats: int = 50,
) -> dict[str, Timing]:
    """Latency of networks on the same inputs in one runtime.

    Args:
        models: what to time, by name; left as found.
        example: inputs, [batch, ...].
        runtime: what runs them.
        threads: CPU threads of one call; 0 leaves the runtime's own choice.
        warmup: rounds that are not timed.
        repeats: rounds that are timed.

    Raises:
        MeasurementError: a network does not run there; names the network and the runtime.
    """
    before, training = torch.get_num_threads(), {name: model.training for name, model in models.items()}
    calls: dict[str, Callable[[], None]] = {}
    try:
        for name, model in models.items():
            try:
                calls[name] = runtime.prepare(model, example, threads)
                calls[name]()
            except EdakariError as error:
                raise MeasurementError(f"cannot measure the {name} network in {runtime.name}: {error}") from error
            except Exception as error:
                raise MeasurementError(
                    f"the {name} network does not run in {runtime.name} with inputs of shape {tuple(example.shape)}: "
                    f"{type(error).__name__}: {error}. Choose another runtime in measure.runtimes."
                ) from error
        return time_callables(calls, warmup, repeats)
    finally:
        torch.set_num_threads(before)
        for name, model in models.items():
            model.train(training[name])


def _timing(values: list[float]) -> Timing:
    low, median, high = np.percentile(values, (25, 50, 75))
    return Timing(float(median), min(values), float(high - low), len(values))
