"""The Lagrangian relaxation of the multiple-choice knapsack: a bound, a solution, and the choices that remain."""

from __future__ import annotations

import dataclasses as dc

import numpy as np
import numpy.typing as npt

from edakari.solve.prices import Array, Prices

__all__ = ["Array", "Core", "Indices", "Items", "relax"]

Indices = npt.NDArray[np.int64]

ROUNDS = 60


@dc.dataclass(frozen=True, slots=True)
class Items:
    """The choices of all classes, concatenated by class.

    Args:
        cost: cost of each choice above the cheapest one of its class, float64 [terms, choices].
        value: value of each choice, float64 [choices].
        owner: class of each choice, int64 [choices].
        index: index of each choice within the caller's class, int64 [choices].
    """

    cost: Array
    value: Array
    owner: Indices
    index: Indices

    def only(self, mask: npt.NDArray[np.bool_]) -> Items:
        """Return the choices that a mask selects, bool [choices]."""
        return Items(self.cost[:, mask], self.value[mask], self.owner[mask], self.index[mask])

    def best(self, net: Array) -> tuple[Indices, Array]:
        """Return the index of the best choice of each class (the first of equal ones), and its net value.

        Args:
            net: net value of each choice, float64 [choices].
        """
        starts = np.flatnonzero(np.concatenate([[True], self.owner[1:] != self.owner[:-1]]))
        tops = np.maximum.reduceat(net, starts)
        hits = np.flatnonzero(net == tops[self.owner])
        return hits[np.searchsorted(self.owner[hits], np.arange(len(starts)))], tops


@dc.dataclass(frozen=True, slots=True)
class Core:
    """The reduced problem after the relaxation.

    Args:
        items: choices that a better solution may contain.
        loss: loss of each choice against the best of its class at the prices, float64 [choices].
        bound: upper bound on the value of a solution.
        slack: rounding error of the bound.
        chosen: a feasible solution: the index of one item for each class, int64 [classes].
        room: capacities that the solution leaves unused, float64 [terms].
    """

    items: Items
    loss: Array
    bound: float
    slack: float
    chosen: Indices
    room: Array


def relax(items: Items, room: Array) -> Core | None:
    """Find prices of the costs at which the best choice of each class comes close to the capacities.

    Args:
        items: choices of all classes.
        room: capacities above the costs of the cheapest choices, float64 [terms].

    Returns:
        The reduced problem; None if no feasible solution was found.
    """
    dearest, tops = items.best(items.value)
    if (items.cost[:, dearest].sum(axis=1) <= room).all():
        mask = np.zeros(len(items.value), dtype=np.bool_)
        mask[dearest] = True
        return _core(items.only(mask), np.zeros(len(room)), np.arange(len(dearest)), room)
    span = np.stack([items.best(cost)[1].sum() for cost in items.cost])
    chosen, _ = items.best(-(items.cost / np.maximum(span, 1e-300)[:, None]).sum(axis=0))
    prices = Prices.start(float((tops + items.best(-items.value)[1]).sum()), span)
    feasible, least, best = _within(items, chosen, room), np.inf, prices.now
    for _ in range(ROUNDS):
        net = items.value - prices.now @ items.cost
        picks, tops = items.best(net)
        over = items.cost[:, picks].sum(axis=1) > room
        if not over.any() and (not feasible or items.value[picks].sum() > items.value[chosen].sum()):
            chosen, feasible = picks, True
        bound = float(tops.sum() + prices.now @ room)
        if bound < least:
            least, best = bound, prices.now
        if feasible:
            gap = bound - items.value[chosen].sum() + _slack(tops, prices.now, room)
            mask = tops[items.owner] - net <= gap
            if 2 * np.count_nonzero(mask) < len(mask):
                items, chosen = items.only(mask), np.cumsum(mask)[chosen] - 1
        prices = prices.after(over)
    return _core(items, best, chosen, room) if feasible else None


def _core(items: Items, prices: Array, chosen: Indices, room: Array) -> Core:
    """Improve a solution greedily, and drop the choices whose loss at the prices exceeds the gap to the bound."""
    net = items.value - prices @ items.cost
    _, tops = items.best(net)
    loss, bound, slack = tops[items.owner] - net, float(tops.sum() + prices @ room), _slack(tops, prices, room)
    chosen = _raised(items, chosen, room)
    mask = loss <= bound - items.value[chosen].sum() + slack
    chosen = np.cumsum(mask)[chosen] - 1
    items, loss = items.only(mask), loss[mask]
    return Core(items, loss, bound, slack, chosen, room - items.cost[:, chosen].sum(axis=1))


def _raised(items: Items, chosen: Indices, room: Array) -> Indices:
    """Repeatedly exchange the choice that fits and gains most."""
    chosen = chosen.copy()
    while True:
        now = chosen[items.owner]
        left = room - items.cost[:, chosen].sum(axis=1)
        fits = (items.cost - items.cost[:, now] <= left[:, None]).all(axis=0)
        gain = np.where(fits, items.value - items.value[now], -np.inf)
        best = int(gain.argmax())
        if not gain[best] > 0:
            return chosen
        chosen[items.owner[best]] = best


def _within(items: Items, picks: Indices, room: Array) -> bool:
    return bool((items.cost[:, picks].sum(axis=1) <= room).all())


def _slack(tops: Array, prices: Array, room: Array) -> float:
    """Rounding error of a bound, overestimated, so that no choice is dropped because of it."""
    return float(1e-12 * (np.abs(tops).sum() + prices @ np.abs(room)))
