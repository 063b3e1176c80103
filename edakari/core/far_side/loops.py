"""In which order networks and layers are called, and how often; the same here and on another device.

A turn is a number of consecutive calls of one network. Networks are timed alternately, turn by turn: networks called
one after the other would evict each other from the caches. That slows large and small networks differently, and no
served network runs like that. Where other work is to run between the calls, it runs before each of them.

Layers are called alternately, call by call, so that each finds its weights outside the caches, as in a network whose
other layers ran in between.
"""

from __future__ import annotations

import glob
import math
import re
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

__all__ = [
    "BATCH",
    "KINDS_OF_CALLS",
    "CallClock",
    "alternated",
    "before_calls",
    "ratios",
    "rounds_of",
    "run_alternately",
    "steady_samples",
    "timed_call",
    "uncertainty",
]

K = TypeVar("K", bound=Hashable)
Call = Callable[[], Any]
Turns = dict[str, list[list[float]]]

TURNS = 10
"""Largest number of turns of each network if no tolerance is given."""
MOST_TURNS = 60
"""Largest number of turns of each network if their scatter exceeds the tolerance."""
CALLS = 5
"""Least number of timed calls in a turn."""
WARM_MS, TURN_MS = 20.0, 50.0
"""Least duration of the warm-up of a turn, and of its timed calls, ms: after other work, a processor takes milliseconds
to reach its speed and to fill its caches."""

KINDS_OF_CALLS = ("steady", "cold", "stream")
"""How calls follow each other: at once; with flushed caches; with other work in between."""
UNKNOWN_CACHE, LARGEST_FLUSH, STREAM = 64 * 2**20, 256 * 2**20, 16 * 2**20
"""Bytes that flush a last-level cache of unknown size, that at most are used for it, and that other work uses."""
LINE = 64
"""Bytes in a line of a cache."""

BATCH = 24
"""Number of layers that are loaded at the same time."""
NOISY = 0.1
"""Interquartile range, as a fraction of the median, above which a layer is timed again."""
TICK = 0.003
"""Interquartile range that never counts as noise, ms: profiles count whole microseconds."""
AGAIN = 2
"""Number of times that a noisy layer is timed again."""


def alternated(
    calls: Mapping[str, Call],
    warmup: int,
    repeats: int,
    tolerance: float = math.inf,
    clock: Callable[[], int] = time.perf_counter_ns,
    told: Callable[[int, int], None] = lambda done, most: None,
    before: Call | None = None,
) -> Turns:
    """Call functions alternately, turn by turn; return the times of the calls of each turn, ms.

    Args:
        calls: functions by name; one that returns a number has timed itself, in ms.
        warmup: least number of calls at the beginning of each turn that are not timed.
        repeats: least number of timed calls of each function, divided among at most `TURNS` turns. Each round of turns
            begins with another function.
        tolerance: largest uncertainty of every ratio to the first function, or of the median if there is one function.
            Turns continue beyond `TURNS` until it is reached, up to `MOST_TURNS`.
        clock: function that returns a time, ns.
        told: callback that takes the number of finished rounds, and of all rounds if more are not needed.
        before: function that runs before each call and is not timed; see `before_calls`. Turns then have no least
            duration, because it keeps the processor at its speed.
    """
    names = list(calls)
    turns: Turns = {name: [] for name in names}
    rounds = rounds_of(repeats)
    most = rounds if rounds < TURNS else MOST_TURNS
    for number in range(most if names else 0):
        first, least = number % len(names), -(-(repeats - number % rounds) // rounds)
        for name in (*names[first:], *names[:first]):
            _turn(calls[name], warmup, WARM_MS, clock, before)
            turns[name].append(_turn(calls[name], least, TURN_MS, clock, before))
        told(number + 1, max(rounds, number + 1))
        if number + 1 < rounds:
            continue
        if max(_uncertainty_of(turns, name) for name in names[1:] or names) <= tolerance:
            break
    return turns


def rounds_of(repeats: int) -> int:
    """Number of turns into which so many calls are divided."""
    return max(1, min(TURNS, repeats // CALLS))


def timed_call(call: Call, clock: Callable[[], int] = time.perf_counter_ns) -> float:
    """Return the time of a call, ms: what it returns if that is a number, or else what the clock shows."""
    start = clock()
    own = call()
    return float(own) if isinstance(own, float) else (clock() - start) / 1e6


def before_calls(kind: str) -> Call | None:
    """Return what runs before each call, or None if nothing does.

    Args:
        kind: one of `KINDS_OF_CALLS`. "cold" reads and writes a buffer larger than the last-level cache, up to
            `LARGEST_FLUSH`; "stream" does so with one of `STREAM` bytes, as other work would.
    """
    if kind == "steady":
        return None
    size = min(flush_bytes(), LARGEST_FLUSH) if kind == "cold" else STREAM
    lines = np.zeros(size // 8, np.int64).reshape(-1, LINE // 8)[:, 0]

    def touch() -> None:
        np.add(lines, 1, out=lines)

    touch()  # so that the memory is there
    return touch


def flush_bytes() -> int:
    """Bytes that are more than the last-level cache of this machine holds."""
    sizes = [0]
    for path in glob.glob("/sys/devices/system/cpu/cpu0/cache/index*/size"):
        try:
            with open(path, encoding="utf-8") as file:
                found = re.fullmatch(r"(\d+)([KM]?)", file.read().strip())
        except OSError:
            continue
        if found:
            sizes.append(int(found.group(1)) * {"": 1, "K": 2**10, "M": 2**20}[found.group(2)])
    return max(sizes) * 5 // 4 // LINE * LINE or UNKNOWN_CACHE


def _turn(call: Call, least: int, least_ms: float, clock: Callable[[], int], before: Call | None = None) -> list[float]:
    """Time a number of calls, and more until a duration has passed; return the times, ms."""
    elapsed: list[float] = []
    while len(elapsed) < least or (least and before is None and sum(elapsed) < least_ms):
        if before is not None:
            before()
        elapsed.append(timed_call(call, clock))
    return elapsed


def _uncertainty_of(turns: Turns, name: str) -> float:
    first = turns[next(iter(turns))]
    medians = np.array([np.median(turn) for turn in turns[name]])
    return uncertainty(medians if turns[name] is first else ratios(turns[name], first))


def ratios(turns: Sequence[Sequence[float]], first: Sequence[Sequence[float]]) -> Any:
    """Ratio of the median of each turn to that of the neighbouring turn of the first function, float64 [turns]."""
    return np.array([np.median(turn) for turn in turns]) / np.maximum([np.median(turn) for turn in first], 1e-9)


def uncertainty(values: Any) -> float:
    """Standard error of a median, as a fraction of it.

    It is sqrt(pi / 2) standard deviations over the root of the count. The quartiles of a normal distribution lie 1.349
    standard deviations apart; they are robust to outlying turns.

    Args:
        values: values whose median is meant, float64 [count].
    """
    deviation = float(np.subtract(*np.percentile(values, (75, 25)))) / 1.349
    return math.sqrt(math.pi / 2 / len(values)) * deviation / max(float(np.median(values)), 1e-9)


def steady_samples(names: Sequence[K], opened: Callable[[K], Any], warmup: int, repeats: int) -> dict[K, list[float]]:
    """Time layers alternately, call by call; time those again whose calls differ much.

    Args:
        names: layers, few enough to be loaded at the same time.
        opened: function that returns a clock for a layer.
        warmup: number of calls before the timing.
        repeats: number of calls of each layer that count.

    Returns:
        Times of the calls of each layer, ms.
    """
    elapsed: dict[K, list[float]] = {name: [] for name in names}
    left = list(names)
    for _ in range(1 + AGAIN):
        clocks = [opened(name) for name in left]
        run_alternately(clocks, warmup + repeats)
        for index, clock in enumerate(clocks):
            elapsed[left[index]] += clock.times()[warmup:]
        left = [name for name in left if _noisy(elapsed[name])]
        if not left:
            break
    return elapsed


def run_alternately(clocks: Sequence[Any], rounds: int) -> None:
    """Run clocks alternately; each round begins with the next one."""
    for turn in range(rounds):
        first = turn % max(len(clocks), 1)
        for clock in (*clocks[first:], *clocks[:first]):
            clock.run()


def _noisy(times: Sequence[float]) -> bool:
    low, median, high = np.percentile(times, (25, 50, 75))
    return bool(high - low > max(NOISY * median, TICK))


class CallClock:
    """Times whole calls."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.elapsed: list[float] = []

    def run(self) -> None:
        """Call once and time it."""
        self.elapsed.append(timed_call(self.call))

    def times(self) -> list[float]:
        """Time of each call, ms, in order."""
        return self.elapsed
