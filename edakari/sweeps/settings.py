"""The settings of a sweep: a recipe, axes, and what is asked of the runs."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from edakari.core.budget import Budget
from edakari.core.settings import Count, Seed, settings
from edakari.errors import RecipeError, SettingsError
from edakari.pipeline.problems import message
from edakari.pipeline.sections import check

__all__ = ["GoalSettings", "SweepSettings", "read_sweep", "sweep_from"]

Sampler = Literal["grid", "random", "tpe", "nsga2"]
Pruner = Literal["none", "median", "halving"]


@settings
class GoalSettings:
    """What the runs of a sweep are to reach.

    Args:
        maximize: metric to maximise; None is the task's main metric.
        minimize: cost to minimise, such as "macs" or "latency"; None minimises none.
        subject_to: limits that must hold, such as "latency<=12ms" or "top1_drop<=1"; None is none.
    """

    maximize: str | None = None
    minimize: str | None = None
    subject_to: str | None = None

    def __post_init__(self) -> None:
        if self.subject_to is not None:
            Budget.parse(self.subject_to)


@settings
class SweepSettings:
    """A recipe, and the values of its keys to run it with.

    Args:
        recipe: path of a recipe file, or the content of one.
        axes: values of each dotted key of the recipe: a list, every value of which is run, or a range to search in,
            such as `{low: 0.001, high: 0.1, log: true}`.
        name: name of the sweep; None is the name of its file.
        sampler: how ranges are searched: "random", "tpe" or "nsga2"; "grid" without ranges. None is "grid" without
            ranges, "nsga2" for a metric and a cost at once, and else "tpe".
        trials: number of trials in the ranges, for each combination of the lists; seeds are no trials of their own.
        pruner: which fine-tunings of a search end early: "none", those whose metric lies below the "median" of the
            others after the same epoch, or by successive "halving".
        goal: what the runs are to reach; None compares them.
        exclude: combinations that are left out, each a mapping of some axes to a value.
        equal_images: whether the fine-tuning gets fewer epochs after a method that trains itself, so that all runs
            see the same number of images.
        storage: storage of the queue of runs: a path of a journal file, or a URL such as "sqlite:///sweep.db" or
            "postgresql+psycopg://user@host/name"; None is a journal file in the folder.
        seed: seed of the sampler.
    """

    recipe: str | Mapping[str, Any]
    axes: Mapping[str, Any] = dc.field(default_factory=dict)
    name: str | None = None
    sampler: Sampler | None = None
    trials: Count = 20
    pruner: Pruner = "none"
    goal: GoalSettings | None = None
    exclude: tuple[Mapping[str, Any], ...] = ()
    equal_images: bool = True
    storage: str | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        if not self.axes and self.goal is None:
            raise SettingsError("a sweep needs axes, such as {seed: [0, 1, 2]}, or a goal; found neither")


def read_sweep(path: str | Path, changes: Sequence[str] = ()) -> SweepSettings:
    """Read a sweep from its file; a recipe that it names by a path is sought beside it.

    Args:
        path: path of a YAML file.
        changes: values to replace, each in the form `dotted.key=value`.

    Raises:
        RecipeError: the file cannot be read, or has wrong keys or values; lists all of them with their lines.
    """
    from edakari.pipeline.yaml_file import override, read_yaml  # which needs an extra

    content, lines = read_yaml(path)
    content = override(content, changes)
    recipe = content.get("recipe")
    if isinstance(recipe, str) and not Path(recipe).is_absolute():
        content["recipe"] = str(Path(path).parent / recipe)
    content.setdefault("name", Path(path).stem)
    return sweep_from(content, str(path), lines)


def sweep_from(
    content: Mapping[str, Any], where: str = "sweep", lines: Mapping[str, int] | None = None
) -> SweepSettings:
    """Make the settings of a sweep from plain values.

    Args:
        content: content of a file of a sweep.
        where: name of the sweep in errors.
        lines: line of each dotted key, for errors.

    Raises:
        RecipeError: lists every problem with its key and found value.
    """
    found, problems = check(SweepSettings, content, "")
    if found is None:
        raise RecipeError(message(problems, where, lines or {}))
    return found
