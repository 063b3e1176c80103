"""The multiple-choice knapsack: one choice from each class, most value within one capacity or several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edakari.errors import EdakariError, InfeasibleBudget
from edakari.solve.relax import Array, Indices, Items, relax
from edakari.solve.states import search

__all__ = ["solve_choices"]


def solve_choices(
    costs: Sequence[Array], values: Sequence[Array], capacity: float | Array, resolution: int = 4096
) -> list[int]:
    """Choose one entry of each class so that costs stay within the capacity and values add up to the most.

    Prices on the costs give a bound and a first solution; choices that lose more at these prices than lies between the
    two cannot be in a better solution and go (Dyer, Kayal & Walker 1984; Pisinger 1995). What is left, seldom more
    than a few choices per class, is searched by a dynamic programme over undominated states.

    The result is a best one, unless a stage of the programme has more than `resolution` states; then those that can
    lead furthest go on. Of several terms states seldom dominate each other, so that this happens sooner. Capacities
    are never broken.

    Args:
        costs: cost of each choice, float [choices] by class; of several terms float [terms, choices].
        values: value of each choice, float [choices] by class.
        capacity: the largest sum of costs; of several terms float [terms].
        resolution: most states that go on from a stage; fewer where there are more than 64 stages.

    Returns:
        Index of the choice in each class.

    Raises:
        EdakariError: costs and values do not pair up, or are not finite.
        InfeasibleBudget: no choices within the capacity, or of several terms, where a choice that is cheap in one may
            be dear in another, none were found; says what the cheapest ones cost.
    """
    room = np.atleast_1d(np.asarray(capacity, dtype=np.float64))
    tables = [np.atleast_2d(np.asarray(cost, dtype=np.float64)) for cost in costs]
    worths = [np.asarray(value, dtype=np.float64) for value in values]
    _check(tables, worths, len(room))
    if not tables:
        return []
    cheapest = np.sum([table.min(axis=1) for table in tables], axis=0)
    tolerance = 1e-12 * np.maximum(1.0, np.abs(room))
    found = None
    if (cheapest <= room + tolerance).all():
        items = _in_a_row(tables, worths)
        found = relax(items, room - cheapest + tolerance)
    if found is None:
        raise InfeasibleBudget(
            f"no choices found within {_figures(room)}; the cheapest of each class cost {_figures(cheapest)}",
            {},
        )
    return [int(index) for index in search(found, resolution)]


def _check(costs: Sequence[Array], values: Sequence[Array], terms: int) -> None:
    if len(costs) != len(values):
        raise EdakariError(f"every class needs costs and values, but got {len(costs)} and {len(values)} arrays")
    for index, (cost, value) in enumerate(zip(costs, values, strict=True)):
        if value.ndim != 1 or not len(value) or cost.shape != (terms, len(value)):
            raise EdakariError(
                f"class {index}: costs {cost.shape} and values {value.shape} must be [{terms}, choices] and [choices], "
                "with at least one choice"
            )
        if not (np.isfinite(cost).all() and np.isfinite(value).all()):
            raise EdakariError(f"class {index} has a cost or value that is not finite")


def _in_a_row(costs: Sequence[Array], values: Sequence[Array]) -> Items:
    """The choices that no other of their class dominates, with what they cost above the cheapest ones."""
    kept = [_undominated(cost, value) for cost, value in zip(costs, values, strict=True)]
    return Items(
        np.concatenate(
            [cost[:, keep] - cost.min(axis=1, keepdims=True) for cost, keep in zip(costs, kept, strict=True)], axis=1
        ),
        np.concatenate([value[keep] for value, keep in zip(values, kept, strict=True)]),
        np.repeat(np.arange(len(kept)), [len(keep) for keep in kept]),
        np.concatenate(kept),
    )


def _undominated(cost: Array, value: Array) -> Indices:
    """Indices of undominated choices by rising value; with several terms, only neighbours are compared."""
    order = np.lexsort((*cost[::-1], -value))
    falling = cost[:, order]
    rival = np.minimum.accumulate(falling[:, :-1], axis=1) if len(cost) == 1 else falling[:, :-1]
    cheaper = np.any(falling[:, 1:] < rival, axis=0)
    kept: Indices = order[np.concatenate([[True], cheaper])][::-1]
    return kept


def _figures(numbers: Array) -> str:
    return " and ".join(f"{number:g}" for number in numbers)
