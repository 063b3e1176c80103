"""The dynamic programme over the reduced problem of the relaxation."""

from __future__ import annotations

import dataclasses as dc

import numpy as np

from edakari.solve.relax import Array, Core, Indices

__all__ = ["search"]

STAGES = 64
"""Number of stages up to which each may keep the full number of states."""
FEWEST = 64
"""Smallest number of states that a stage may keep."""


@dc.dataclass(frozen=True, slots=True)
class _States:
    """Decisions for the classes so far, with the choices of the first solution in all other classes.

    Args:
        cost: cost above that of the first solution, float64 [terms, states].
        gain: value above that of the first solution, float64 [states].
        loss: loss of the classes so far against the best choices at the prices, float64 [states].
        parent: index of the state of the previous stage, int64 [states].
        pick: choice of this stage's class, int64 [states].
    """

    cost: Array
    gain: Array
    loss: Array
    parent: Indices
    pick: Indices

    def only(self, indices: Indices) -> _States:
        return _States(*(getattr(self, field.name)[..., indices] for field in dc.fields(self)))


def search(core: Core, resolution: int) -> Indices:
    """Return the best choices found, as indices into the caller's classes.

    Classes whose second-best choice loses least come first, because they matter most. A state that fits is itself a
    solution, and the best of these tightens the bound for all later stages.

    Args:
        core: the reduced problem.
        resolution: largest number of states that a stage keeps.
    """
    classes = _open_classes(core)
    states = max(FEWEST, min(resolution, resolution * STAGES // max(len(classes), 1)))
    least = _least_to_come(core, classes)
    gap = core.bound - float(core.items.value[core.chosen].sum()) + core.slack
    start = np.zeros(1, dtype=np.int64)
    front = _States(np.zeros((len(core.room), 1)), np.zeros(1), np.zeros(1), start, start)
    trail: list[_States] = []
    best, found = 0.0, None
    for stage, choices in enumerate(classes):
        front = _extended(core, front, choices)
        left = core.room[:, None] - front.cost
        hopeful = (front.loss <= gap - best) & (left >= least[:, stage + 1 : stage + 2]).all(axis=0)
        front = _undominated(front.only(np.flatnonzero(hopeful)))
        if not len(front.gain):
            break
        if len(front.gain) > states:
            front = front.only(np.argpartition(front.loss, states)[:states])
        gains = np.where((front.cost <= core.room[:, None]).all(axis=0), front.gain, -np.inf)
        trail.append(front)
        if gains.max() > best:
            best, found = float(gains.max()), (stage, int(gains.argmax()))
    return core.items.index[_traced(core.chosen, trail, found, core.items.owner)]


def _open_classes(core: Core) -> list[Indices]:
    """The choices of each class that has more than one, those of the smallest second-best loss first."""
    edges = np.flatnonzero(np.diff(core.items.owner)) + 1
    classes = [indices for indices in np.split(np.arange(len(core.loss)), edges) if len(indices) > 1]
    return sorted(classes, key=lambda indices: float(np.partition(core.loss[indices], 1)[1]))


def _least_to_come(core: Core, classes: list[Indices]) -> Array:
    """Smallest change of the costs in the classes from each stage on, float64 [terms, stages + 1]."""
    items, owner = core.items, core.items.owner
    least = [np.zeros(len(core.room))]
    for indices in reversed(classes):
        now = items.cost[:, core.chosen[owner[indices[0]]]]
        least.append(least[-1] + (items.cost[:, indices].min(axis=1) - now))
    return np.stack(least[::-1], axis=1)


def _extended(core: Core, front: _States, choices: Indices) -> _States:
    """Every state with every choice of one more class."""
    now = core.chosen[core.items.owner[choices[0]]]
    cost = core.items.cost[:, choices] - core.items.cost[:, now : now + 1]
    gain = core.items.value[choices] - core.items.value[now]
    return _States(
        (front.cost[:, :, None] + cost[:, None]).reshape(len(cost), -1),
        (front.gain[:, None] + gain).ravel(),
        (front.loss[:, None] + core.loss[choices]).ravel(),
        np.repeat(np.arange(len(front.gain)), len(choices)),
        np.tile(choices, len(front.gain)),
    )


def _undominated(front: _States) -> _States:
    """States that no other dominates; with several terms all states, because domination is rare."""
    if len(front.cost) > 1:
        return front
    order = np.lexsort((-front.gain, front.cost[0]))
    most = np.maximum.accumulate(front.gain[order])
    return front.only(order[np.concatenate([[True], most[1:] > most[:-1]])[: len(order)]])


def _traced(chosen: Indices, trail: list[_States], found: tuple[int, int] | None, owner: Indices) -> Indices:
    """The first solution with the choices that lead to a state, or unchanged if no better state was found."""
    chosen = chosen.copy()
    if found is not None:
        last, state = found
        for front in reversed(trail[: last + 1]):
            pick = front.pick[state]
            chosen[owner[pick]] = pick
            state = int(front.parent[state])
    return chosen
