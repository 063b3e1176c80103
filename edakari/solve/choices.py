"""The multiple-choice knapsack: one choice from each class, most value within a capacity."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edakari.errors import EdakariError, InfeasibleBudget

__all__ = ["solve_choices"]

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

WORK = 1 << 21
"""Most pairs of state and choice that one stage looks at; beyond it, states are thinned before."""


def solve_choices(
    costs: Sequence[Array], values: Sequence[Array], capacity: float, resolution: int = 4096
) -> list[int]:
    """Choose one entry of each class so that costs stay within the capacity and values add up to the most.

    A dynamic programme over undominated states (cost so far, value so far). Dominated choices go first; then those
    that cannot be in any best solution, because the Lagrangian relaxation loses more by them than lies between its
    bound and a greedy solution (Dyer, Kayal & Walker 1984; Pisinger 1995). States carry true costs, so the capacity
    is never broken. The result is a best one unless a stage has more than `resolution` states; then the best state of
    each of `resolution` equal cells of cost goes on, and the result is at least as good as the best one for a capacity
    smaller by one cell per class.

    Args:
        costs: cost of each choice, float [choices], by class.
        values: value of each choice, float [choices], by class.
        capacity: the largest sum of costs.
        resolution: number of cells.

    Returns:
        Index of the choice in each class.

    Raises:
        EdakariError: costs and values do not pair up, or are not finite.
        InfeasibleBudget: the cheapest choices are above the capacity.
    """
    _check(costs, values)
    classes = [_undominated(np.asarray(cost), np.asarray(value)) for cost, value in zip(costs, values, strict=True)]
    room = capacity - sum(float(entry.cost[0]) for entry in classes)
    tolerance = 1e-12 * max(1.0, abs(capacity))
    if room < -tolerance:
        raise InfeasibleBudget(f"the cheapest choices cost {capacity - room:g}, above the capacity {capacity:g}", {})
    extra = [dc.replace(entry, cost=entry.cost - entry.cost[0]) for entry in classes]
    relaxed = _relax(extra, room + tolerance)
    chosen = relaxed.chosen
    if relaxed.price > 0:
        found = _search([_promising(entry, relaxed) for entry in extra], room + tolerance, relaxed, resolution)
        chosen = max(chosen, found, key=lambda picks: _worth(values, picks)) if found else chosen
    return chosen


@dc.dataclass(slots=True)
class _Class:
    """The choices of one class, cost and value strictly rising; `index` is their place in the caller's arrays."""

    cost: Array
    value: Array
    index: Indices

    def only(self, mask: npt.NDArray[np.bool_]) -> _Class:
        return _Class(self.cost[mask], self.value[mask], self.index[mask])


@dc.dataclass(slots=True)
class _Relaxed:
    """A price per unit of cost, what lies between bound and greedy solution at it, and that solution."""

    price: float
    gap: float
    chosen: list[int]


def _check(costs: Sequence[Array], values: Sequence[Array]) -> None:
    if len(costs) != len(values):
        raise EdakariError(f"every class needs costs and values, but got {len(costs)} and {len(values)} arrays")
    for place, (cost, value) in enumerate(zip(costs, values, strict=True)):
        if np.shape(cost) != np.shape(value) or np.ndim(cost) != 1 or not len(cost):
            raise EdakariError(f"class {place}: costs {np.shape(cost)} and values {np.shape(value)} must pair up")
        if not (np.isfinite(cost).all() and np.isfinite(value).all()):
            raise EdakariError(f"class {place} has a cost or value that is not finite")


def _undominated(cost: Array, value: Array) -> _Class:
    order = np.lexsort((-value, cost))
    best = np.maximum.accumulate(value[order])
    first = np.concatenate([[True], best[1:] > best[:-1]])
    return _Class(cost[order][first].astype(np.float64), value[order][first].astype(np.float64), order[first])


def _relax(classes: Sequence[_Class], room: float) -> _Relaxed:
    """Bisect the price at which the best choices, each for itself, fit; then spend the rest greedily."""
    widest = max((len(entry.cost) for entry in classes), default=1)
    cost = np.zeros((len(classes), widest))
    value = np.full((len(classes), widest), -np.inf)
    for row, entry in enumerate(classes):
        cost[row, : len(entry.cost)], value[row, : len(entry.cost)] = entry.cost, entry.value
    rows = np.arange(len(classes))

    def named(picks: Indices) -> list[int]:
        return [int(entry.index[pick]) for entry, pick in zip(classes, picks, strict=True)]

    def at(price: float) -> tuple[Indices, float, float]:
        net = value - price * cost
        picks = net.argmax(axis=1)
        return picks, float(cost[rows, picks].sum()), float(net[rows, picks].sum()) + price * room

    low, high = 0.0, 1.0
    picks, spent, bound = at(low)
    if spent <= room:
        return _Relaxed(0.0, 0.0, named(picks))
    while at(high)[1] > room:
        low, high = high, high * 4
    price, (picks, spent, least) = high, at(high)
    bound = min(bound, least)
    for _ in range(100):
        middle = (low + high) / 2
        there, used, above = at(middle)
        if above <= bound:
            bound, price = above, middle
        if used <= room:
            high, picks, spent = middle, there, used
        else:
            low = middle
        if high - low <= 1e-15 * high:
            break
    picks = _greedy(cost, value, picks, room)
    worth = float(value[rows, picks].sum())
    gap = bound - worth + 1e-9 * (1.0 + abs(worth))
    return _Relaxed(price, gap, named(picks))


def _greedy(cost: Array, value: Array, picks: Indices, room: float) -> Indices:
    """Raise one choice after the other by the most that fits."""
    rows = np.arange(len(picks))
    picks = picks.copy()
    while True:
        left = room - cost[rows, picks].sum()
        gain = value - value[rows, picks][:, None]
        gain[cost - cost[rows, picks][:, None] > left] = -np.inf
        row, column = divmod(int(gain.argmax()), gain.shape[1])
        if not gain[row, column] > 0:
            return picks
        picks[row] = column


def _promising(entry: _Class, relaxed: _Relaxed) -> _Class:
    net = entry.value - relaxed.price * entry.cost
    return entry.only(net.max() - net <= relaxed.gap)


def _search(classes: Sequence[_Class], room: float, relaxed: _Relaxed, resolution: int) -> list[int] | None:
    """The dynamic programme; None where nothing is better than what the relaxation found."""
    least = np.cumsum([0.0] + [float(entry.cost[0]) for entry in reversed(classes)])[::-1]
    cost, value = np.zeros(1), np.zeros(1)
    trail: list[tuple[Indices, Indices]] = []
    most = 0.0
    for place, entry in enumerate(classes):
        thin = _thinned(cost, max(64, min(resolution, WORK // len(entry.cost))), room)
        sums = (cost[thin][:, None] + entry.cost).ravel()
        worth = (value[thin][:, None] + entry.value).ravel()
        most += float((entry.value - relaxed.price * entry.cost).max())
        lost = most - (worth - relaxed.price * sums)
        fitting = np.flatnonzero((sums + least[place + 1] <= room) & (lost <= relaxed.gap))
        if not len(fitting):
            return None
        order = fitting[np.lexsort((-worth[fitting], sums[fitting]))]
        best = np.maximum.accumulate(worth[order])
        order = order[np.concatenate([[True], best[1:] > best[:-1]])]
        cost, value = sums[order], worth[order]
        parents, picks = np.divmod(order, len(entry.cost))
        trail.append((thin[parents], entry.index[picks]))
    state = len(value) - 1
    chosen = []
    for parents, picks in reversed(trail):
        chosen.append(int(picks[state]))
        state = int(parents[state])
    return chosen[::-1]


def _thinned(cost: Array, cells: int, room: float) -> Indices:
    """The last, hence best, state of each cell of cost; all of them where they are few."""
    if len(cost) <= cells:
        return np.arange(len(cost))
    cell = np.floor(cost * (cells / max(room, 1e-300)))
    return np.flatnonzero(np.concatenate([cell[1:] != cell[:-1], [True]]))


def _worth(values: Sequence[Array], picks: Sequence[int]) -> float:
    return float(sum(value[pick] for value, pick in zip(values, picks, strict=True)))
