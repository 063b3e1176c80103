"""Finds the smallest budget whose network loses no more of a metric than is allowed.

Bisection over the budget with short trainings comes first. Then the network is trained as asked for. What the longer
training gains over the short one corrects the short trainings, so that one or two more long trainings settle the rest.
"""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edakari.errors import SweepError

__all__ = ["Attempt", "Found", "Search", "smallest"]

Try = Callable[[float, bool], float | None]
"""From a fraction of a cost, and whether to train as long as asked for, to what the metric loses; None if no network
has so small a cost."""


@dc.dataclass(frozen=True)
class Search:
    """How the smallest budget is searched.

    Args:
        limit: largest loss.
        short: number of short trainings at most; 0 if they would not be shorter.
        long: number of long trainings at most.
        tolerance: distance of two budgets, as a fraction of the larger, at which the search ends.
    """

    limit: float
    short: int = 7
    long: int = 6
    tolerance: float = 0.03


@dc.dataclass(frozen=True)
class Attempt:
    """One budget that was tried.

    Args:
        fraction: limit of the cost, as a fraction of the unpruned network's.
        loss: what the metric lost; None if no network has so small a cost.
        long: whether it was trained as long as asked for.
    """

    fraction: float
    loss: float | None
    long: bool


@dc.dataclass(frozen=True)
class Found:
    """Result of a search.

    Args:
        fraction: the smallest limit that keeps to the loss.
        attempts: all budgets that were tried, in order.
    """

    fraction: float
    attempts: tuple[Attempt, ...]


def smallest(search: Search, attempt: Try, most: float = 1.0) -> Found:
    """Find the smallest fraction of a cost whose long training loses no more than the limit.

    Args:
        search: how to search.
        attempt: function that trains a network.
        most: largest fraction to try.

    Raises:
        SweepError: no budget that was tried keeps to the limit; names the nearest.
    """
    tried: list[Attempt] = []

    def loss(fraction: float, long: bool) -> float:
        found = attempt(fraction, long)
        tried.append(Attempt(fraction, found, long))
        return math.inf if found is None else found

    guess = _by_short(search, loss, most)
    failed, passed = 0.0, math.inf
    for _ in range(search.long):
        found = loss(guess, True)
        failed, passed = (failed, min(passed, guess)) if found <= search.limit else (max(failed, guess), passed)
        if passed < math.inf and passed - failed <= search.tolerance * passed:
            break
        if passed == math.inf and failed >= most * (1 - search.tolerance):
            break
        guess = _next(search, tried, failed, min(passed, most))
    if passed == math.inf:
        raise SweepError(_unreached(search, tried))
    return Found(passed, tuple(tried))


def _by_short(search: Search, loss: Callable[[float, bool], float], most: float) -> float:
    """The smallest fraction whose short training keeps to the limit; half of the cost without short trainings."""
    low, high = 0.0, most
    if not search.short:
        return most / 2
    for _ in range(search.short):
        middle = (low + high) / 2
        low, high = (low, middle) if loss(middle, False) <= search.limit else (middle, high)
        if high - low <= 2 * search.tolerance * high:
            break
    return high if high < most else (low + high) / 2


def _next(search: Search, tried: Sequence[Attempt], failed: float, passed: float) -> float:
    """The next fraction to train long, between one that failed and one that passed, or is the largest to try.

    It is where the corrected losses meet the limit. Close to a fraction that is known, it is a little on that one's
    other side, so that both together end the search.
    """
    middle, aside = (failed + passed) / 2, 0.9 * search.tolerance
    guess = _meeting(search.limit, _corrected(tried), failed, passed)
    if guess is None:
        return middle
    if guess > passed * (1 - search.tolerance):
        guess = passed * (1 - aside)
    elif guess < failed * (1 + search.tolerance):
        guess = failed * (1 + aside)
    return guess if failed < guess < passed else middle


def _meeting(limit: float, curve: Mapping[float, float], failed: float, passed: float) -> float | None:
    """Where losses by fraction fall to a limit, by the line between the two fractions around it; None if unknown."""
    above = [fraction for fraction, loss in curve.items() if loss > limit and fraction < passed]
    if not above:
        return None
    over = max(above)
    under = min((fraction for fraction, loss in curve.items() if loss <= limit and fraction > over), default=None)
    if under is None or not math.isfinite(curve[over]):
        return None
    return max(under - (under - over) * (limit - curve[under]) / (curve[over] - curve[under]), failed)


def _corrected(tried: Sequence[Attempt]) -> Mapping[float, float]:
    """Losses by fraction: those of long trainings, and of short ones less what longer training gains about there."""
    long = {each.fraction: each.loss for each in tried if each.long and each.loss is not None}
    short = {each.fraction: each.loss for each in tried if not each.long and each.loss is not None}
    gains = [(fraction, _at(short, fraction) - loss) for fraction, loss in sorted(long.items()) if short]
    at, gained = zip(*gains, strict=True) if gains else ((0.0,), (0.0,))
    corrected = {fraction: loss - float(np.interp(fraction, at, gained)) for fraction, loss in short.items()}
    return dict(sorted((corrected | long).items()))


def _at(losses: Mapping[float, float], fraction: float) -> float:
    """A loss between those that are known."""
    known = sorted(losses.items())
    return float(np.interp(fraction, [each for each, _ in known], [loss for _, loss in known]))


def _unreached(search: Search, tried: Sequence[Attempt]) -> str:
    known = [each for each in tried if each.loss is not None]
    if not known:
        return "no network has so small a cost; allow more groups to be cut"
    nearest = min(known, key=lambda each: (not each.long, each.loss))
    return (
        f"no budget that was tried loses at most {search.limit:g}; the nearest is {nearest.fraction * 100:.1f} % of "
        f"the cost, which loses {nearest.loss:.3g}. Train longer (finetune.epochs), take another method, or allow more"
    )
