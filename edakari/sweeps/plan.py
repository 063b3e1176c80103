"""The runs of a sweep: which there are, and the recipe of each."""

from __future__ import annotations

import dataclasses as dc
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from edakari.core.budget import Budget
from edakari.core.file_errors import file_errors
from edakari.core.processes import ALONE
from edakari.errors import EdakariError, RecipeError
from edakari.models.trust import check_command
from edakari.pipeline.load import check_weights
from edakari.pipeline.preflight import check_pruning
from edakari.pipeline.recipe import recipe_from
from edakari.pipeline.settings import Recipe
from edakari.sweeps.axes import SEED, Axis, Choices, Span, axes_of, combinations
from edakari.sweeps.settings import SweepSettings

__all__ = ["Point", "SweepPlan", "plan_of"]

LONGEST = 80
"""Characters of the readable part of a run folder's name."""
MOST = 10_000
"""Most runs of one sweep: more are a slip, and their queue would be slow."""


@dc.dataclass(frozen=True)
class Point:
    """Values of some axes.

    Args:
        labels: label of each list's value.
        numbers: value of each range.
    """

    labels: Mapping[str, str]
    numbers: Mapping[str, float] = dc.field(default_factory=dict)

    @property
    def text(self) -> str:
        """The point in words, for tables and errors."""
        every = {**self.labels, **{key: f"{value:.4g}" for key, value in self.numbers.items()}}
        return ", ".join(f"{key}={value}" for key, value in every.items()) or "the recipe"

    def with_label(self, key: str, name: str) -> Point:
        """Return the same point with one more label."""
        return dc.replace(self, labels={**self.labels, key: name})


@dc.dataclass(frozen=True)
class SweepPlan:
    """What a sweep runs.

    Args:
        settings: settings of the sweep.
        base: content of the recipe that the axes change.
        where: name of the recipe in errors.
        axes: axes of the sweep.
        trust_code: whether to run Python files that the recipe names.
    """

    settings: SweepSettings
    base: Mapping[str, Any]
    where: str
    axes: tuple[Axis, ...]
    trust_code: bool

    @property
    def name(self) -> str:
        """Name of the sweep."""
        return self.settings.name or "sweep"

    @property
    def spans(self) -> tuple[Span, ...]:
        """The ranges in which a sampler searches."""
        return tuple(axis for axis in self.axes if isinstance(axis, Span))

    @property
    def lists(self) -> dict[str, Choices]:
        """The axes of which every value is run, by key."""
        return {axis.key: axis for axis in self.axes if isinstance(axis, Choices)}

    @property
    def seeds(self) -> tuple[str, ...]:
        """Labels of the seeds of one trial of a search; empty without an axis of seeds."""
        return tuple(self.lists[SEED].values) if SEED in self.lists else ()

    def points(self) -> list[Point]:
        """All combinations of the lists; in a search, seeds belong to the trials and not to the combinations."""
        axes = [axis for axis in self.axes if not (self.spans and axis.key == SEED)]
        return [Point(labels) for labels in combinations(axes, self.settings.exclude, self.name)]

    def recipe(self, point: Point) -> Recipe:
        """Make the recipe of a point.

        Raises:
            RecipeError: the point makes no recipe, or its method refuses it.
        """
        from edakari.pipeline.yaml_file import replaced  # which needs an extra

        content = dict(self.base)
        for axis in self.axes:
            value = axis.values.get(point.labels.get(axis.key, "")) if isinstance(axis, Choices) else None
            found = point.numbers.get(axis.key, value)
            if axis.key in point.labels or axis.key in point.numbers:
                content = replaced(content, axis.key, found, f"axes.{axis.key}")
        tuning = content.get("finetune")
        if self.settings.equal_images and isinstance(tuning, Mapping):
            content["finetune"] = {"counts_method": True, **tuning}
        recipe = recipe_from(content, self.where, trust_code=self.trust_code)
        for text, what in recipe.programs.items():
            check_command(text, what, self.where, trust_code=self.trust_code)
        return recipe

    def folder_of(self, point: Point) -> str:
        """Name of the run folder of a point: readable, and unlike that of any other recipe."""
        words = re.sub(r"[^A-Za-z0-9.]+", "-", " ".join((*point.labels.values(),))).strip("-.")[:LONGEST] or "run"
        exact = json.dumps(self.recipe(point).content, sort_keys=True)
        return f"{words}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}"

    @property
    def content(self) -> dict[str, Any]:
        """The sweep as plain values, by which two sweeps of one name are told apart; without passwords of storages."""
        found = {name: value for name, value in dc.asdict(self.settings).items() if name != "storage"}
        plain: dict[str, Any] = json.loads(json.dumps({**found, "recipe": self.base}))
        return plain


@file_errors()
def plan_of(settings: SweepSettings, where: str, *, trust_code: bool) -> SweepPlan:
    """Read the recipe of a sweep, and check every combination before anything runs.

    Args:
        settings: settings of the sweep.
        where: name of the sweep in errors.
        trust_code: whether to run Python files that the recipe names.

    Raises:
        RecipeError: lists all combinations that make no recipe, or that a method refuses.
        UnknownName: an axis is no key of a recipe.
    """
    from edakari.pipeline.yaml_file import read_yaml  # which needs an extra

    named = isinstance(settings.recipe, str)
    base = read_yaml(str(settings.recipe))[0] if isinstance(settings.recipe, str) else dict(settings.recipe)
    axes = axes_of(settings.axes, where)
    origin = str(settings.recipe) if named else f"{where}: recipe"
    plan = SweepPlan(settings, _asked(base, settings), origin, axes, trust_code)
    _require_sampler(plan, where)
    points = plan.points()
    if not points or len(points) > MOST:
        raise RecipeError(f"{where}: the axes make {len(points)} runs; 1 to {MOST} are possible")
    _require_possible(plan, points, where)
    return plan


def _asked(base: Mapping[str, Any], settings: SweepSettings) -> dict[str, Any]:
    """The recipe with the limits of the goal as its budget."""
    goal, content = settings.goal, dict(base)
    if goal is None or goal.subject_to is None or "budget" in settings.axes:
        return content
    smallest = goal.minimize is not None and Budget.parse(goal.subject_to).drop is not None
    return {**content, "budget": f"{goal.minimize}<=100%, {goal.subject_to}" if smallest else goal.subject_to}


def _require_sampler(plan: SweepPlan, where: str) -> None:
    asked, searching = plan.settings.sampler, bool(plan.spans)
    if searching and asked == "grid":
        raise RecipeError(f"{where}: sampler 'grid' runs lists; axes.{plan.spans[0].key} is a range, so name another")
    if not searching and asked not in (None, "grid"):
        raise RecipeError(
            f"{where}: sampler {asked!r} searches in ranges, such as {{low: 1, high: 2}}; no axis has one"
        )
    goal = plan.settings.goal
    if plan.settings.pruner != "none" and (not searching or (goal is not None and goal.minimize is not None)):
        found = "a front" if searching else "in no range"
        raise RecipeError(
            f"{where}: pruner {plan.settings.pruner!r} ends trials of a search for the best metric; this sweep "
            f"searches {found}, so leave it out"
        )


def _require_possible(plan: SweepPlan, points: list[Point], where: str) -> None:
    ends = [{axis.key: value for axis, value in zip(plan.spans, values, strict=True)} for values in _ends(plan.spans)]
    refused: dict[str, str] = {}
    for point in points:
        for numbers in ends:
            found = dc.replace(point, numbers=numbers)
            try:
                recipe = plan.recipe(found)
                check_weights(recipe)
                check_pruning(recipe, ALONE, lambda stage: False)
            except EdakariError as error:
                refused.setdefault(found.text, str(error).removeprefix(f"{plan.where}: "))
    if refused:
        lines = "\n  ".join(f"{name}: {text}" for name, text in refused.items())
        raise RecipeError(
            f"{where}: {len(refused)} of {len(points) * len(ends)} combinations cannot be run; change the axes, or "
            f"leave some out by `exclude`:\n  {lines}"
        )


def _ends(spans: tuple[Span, ...]) -> list[tuple[float, ...]]:
    """Both ends of all ranges at once: a recipe that takes both takes what lies between."""
    return [tuple(span.low for span in spans), tuple(span.high for span in spans)] if spans else [()]
