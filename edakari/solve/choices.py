"""The multiple-choice knapsack: one choice from each class, of highest value within one or several capacities."""

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
    """Choose one entry of each class so that the sum of values is largest and the costs are within the capacity.

    Prices on the costs (a Lagrangian relaxation) give a bound and a first solution. Choices that lose more at these
    prices than the gap between the two cannot be in a better solution, and are removed (Dyer, Kayal & Walker 1984;
    Pisinger 1995). A dynamic programme over undominated states searches the rest, rarely more than a few choices per
    class.

    The result is optimal, unless a stage of the programme has more than `resolution` states; then only the most
    promising states are kept. With several terms this happens sooner, because states rarely dominate each other. The
    result never exceeds a capacity.

    Args:
        costs: cost of each choice, float [choices] by class; with several terms float [terms, choices].
        values: value of each choice, float [choices] by class.
        capacity: largest sum of costs; with several terms float [terms].
        resolution: largest number of states that a stage keeps; smaller if there are more than 64 stages.

    Returns:
        Index of the choice in each class.

    Raises:
        EdakariError: costs and values differ in shape, or are not finite.
        InfeasibleBudget: no choices within the capacity were found; the error gives the costs of the cheapest choices.
            With several terms, choices may exist that the search does not find.
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
        items = _undominated_items(tables, worths)
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


def _undominated_items(costs: Sequence[Array], values: Sequence[Array]) -> Items:
    """The undominated choices of all classes, with their costs above the cheapest choice of the class."""
    chosen = [_undominated(cost, value) for cost, value in zip(costs, values, strict=True)]
    return Items(
        np.concatenate(
            [cost[:, at] - cost.min(axis=1, keepdims=True) for cost, at in zip(costs, chosen, strict=True)], axis=1
        ),
        np.concatenate([value[at] for value, at in zip(values, chosen, strict=True)]),
        np.repeat(np.arange(len(chosen)), [len(at) for at in chosen]),
        np.concatenate(chosen),
    )


def _undominated(cost: Array, value: Array) -> Indices:
    """Indices of undominated choices by rising value; with several terms, only neighbours are compared."""
    order = np.lexsort((*cost[::-1], -value))
    falling = cost[:, order]
    rival = np.minimum.accumulate(falling[:, :-1], axis=1) if len(cost) == 1 else falling[:, :-1]
    cheaper = np.any(falling[:, 1:] < rival, axis=0)
    undominated: Indices = order[np.concatenate([[True], cheaper])][::-1]
    return undominated


def _figures(numbers: Array) -> str:
    return " and ".join(f"{number:g}" for number in numbers)
