"""Recipes: a YAML file to a checked `Recipe`, with every problem named at its place."""

from __future__ import annotations

import dataclasses as dc
import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from edakari.core.arguments import found_as
from edakari.core.budget import Budget
from edakari.core.method import METHODS, Method
from edakari.core.protocols import Schedule
from edakari.core.settings import Seed
from edakari.cost import require_known
from edakari.criteria import CRITERIA
from edakari.errors import EdakariError, RecipeError, UntrustedCode
from edakari.export import EXPORTERS
from edakari.models import ModelSpec, check_code
from edakari.pipeline.problems import message
from edakari.pipeline.sections import Permit, Problem, check, unknown_key
from edakari.pipeline.settings import (
    FinetuneSettings,
    GroupSettings,
    LatencySettings,
    MeasureSettings,
    Recipe,
)
from edakari.pipeline.yaml_file import override, read_yaml
from edakari.tasks import DataSettings

__all__ = ["read_recipe", "recipe_from"]

importlib.import_module("edakari.methods")  # which makes the methods known


@dc.dataclass(frozen=True)
class _Top:
    """What stands at the top of a recipe beside the sections."""

    budget: str
    export: tuple[Annotated[str, EXPORTERS], ...] = ()
    seed: Seed = 0
    device: Literal["auto", "cpu"] = "auto"


SECTIONS = ("model", "data", "method", "latency", "groups", "finetune", "train", "measure")
KEYS = (
    *("model", "data", "method", "budget", "latency", "groups"),
    *("finetune", "train", "measure", "export", "seed", "device"),
)
ROUND_TO = 8
"""What group sizes are rounded to where the budget has a latency and the recipe is silent: runtimes work in eights."""


def read_recipe(path: str | Path, settings: Sequence[str] = (), *, trust_code: bool = False) -> Recipe:
    """A recipe from its file.

    Args:
        path: of a YAML file; `docs/reference/recipe.md` says what it may hold.
        settings: values to replace, as texts `dotted.key=value`.
        trust_code: whether to run the Python files that the recipe names: for its network, or for a criterion, task,
            cost and the like of your own.

    Raises:
        RecipeError: lists every problem with its line, key and found value.
        UntrustedCode: it names a Python file for something else than its network, and `trust_code` is not set.
    """
    content, lines = read_yaml(path)
    return recipe_from(override(content, settings), str(path), lines, trust_code=trust_code)


def recipe_from(
    content: Mapping[str, Any],
    where: str = "recipe",
    lines: Mapping[str, int] | None = None,
    *,
    trust_code: bool = True,
) -> Recipe:
    """A recipe from plain values.

    Args:
        content: as a recipe file holds it.
        where: what to call it in errors.
        lines: line of each dotted key, for errors.
        trust_code: whether to run Python files that it names. Values out of a program name what its author wants to
            run; pass False for values out of a file that may be somebody else's.

    Raises:
        RecipeError: lists every problem with its key and found value.
    """
    if not isinstance(content, Mapping):
        raise RecipeError(f"{where} is a mapping of keys such as 'model' and 'budget', but found {found_as(content)}")

    def permit(name: str, what: str) -> None:
        check_code(name, what, where, trust_code=trust_code)

    checker = _Checker(content, permit)
    recipe = checker.recipe()
    if recipe is None:
        raise RecipeError(message(checker.problems, where, lines or {}))
    return dc.replace(recipe, trust_code=trust_code, where=where, lines=dict(lines or {}))


class _Checker:
    """Goes through the sections and gathers what is wrong."""

    def __init__(self, content: Mapping[str, Any], permit: Permit) -> None:
        self.permit = permit
        self.content = {key: value for key, value in content.items() if value is not None or key not in SECTIONS}
        self.problems = [Problem(str(key), unknown_key(str(key), list(KEYS))) for key in content if key not in KEYS]

    def recipe(self) -> Recipe | None:
        """The recipe, or None where there are problems."""
        top = self._check(
            _Top, {key: self.content[key] for key in KEYS if key in self.content and key not in SECTIONS}, ""
        )
        model = self._check(ModelSpec, self._named("model"), "model")
        data = self._check(DataSettings, self.content.get("data", {}), "data")
        method = self._method()
        finetune = self._optional(FinetuneSettings, "finetune")
        train = self._optional(Schedule, "train")
        measure = self._optional(MeasureSettings, "measure")
        budget = self._budget(top.budget) if top else None
        timed = budget is not None and any(term.cost == "latency" for term in budget.terms)
        latency = self._check(LatencySettings, self.content.get("latency", {}), "latency")
        groups = self._groups(timed)
        self._numbered(data, finetune)
        if model:
            self.problems += _not_plain(model.options, "model.options")
        if self.problems or not (top and model and latency and data and groups and method and budget):
            return None
        return Recipe(
            model=model,
            data=data,
            method=method,
            budget=budget,
            latency=latency if timed else None,
            groups=groups,
            finetune=finetune,
            train=train,
            measure=measure,
            export=top.export,
            seed=top.seed,
            device=top.device,
        )

    def _check(self, cls: type[Any], content: Any, key: str, *also: str) -> Any:
        value, problems = check(cls, content, key, also, self.permit)
        self.problems.extend(problems)
        return value

    def _optional(self, cls: type[Any], key: str) -> Any:
        return self._check(cls, self.content[key], key) if key in self.content else None

    def _groups(self, timed: bool) -> GroupSettings | None:
        content = self.content.get("groups", {})
        if timed and isinstance(content, Mapping):
            content = {"round_to": ROUND_TO, **content}
        found: GroupSettings | None = self._check(GroupSettings, content, "groups")
        return found

    def _named(self, key: str) -> Any:
        value = self.content.get(key, {})
        return {"name": value} if isinstance(value, str) else value

    def _method(self) -> Method | None:
        content = self._named("method")
        if not isinstance(content, Mapping) or not isinstance(content.get("name"), str):
            known = ", ".join(METHODS.choices())
            self.problems.append(Problem("method.name", f"must name a method ({known}), found {content!r}"))
            return None
        self.permit(content["name"], "method")
        try:
            content = METHODS.expanded(content)
            cls = METHODS.named(content["name"])
        except EdakariError as error:
            self.problems.append(Problem("method.name", str(error)))
            return None
        content = self._without_misplaced(self._named("method")["name"], content, cls)
        rest = {key: value for key, value in content.items() if key != "name"}
        method: Method | None = self._check(cls, rest, "method", "name")
        return method

    def _without_misplaced(self, short: str, content: Mapping[str, Any], cls: type[Any]) -> dict[str, Any]:
        """The settings without those of the criterion whose name stands for the method with it."""
        thing: Any = CRITERIA[short] if short != content["name"] else None
        nested = {field.name for field in dc.fields(thing)} if dc.is_dataclass(thing) else set()
        misplaced = [key for key in content if key in nested - {field.name for field in dc.fields(cls)}]
        for key in misplaced:
            text = f"is a setting of the criterion; write criterion: {{{key}: {content[key]}}}"
            self.problems.append(Problem(f"method.{key}", f"unknown key; {text}"))
        return {key: value for key, value in content.items() if key not in misplaced}

    def _numbered(self, data: DataSettings | None, tuning: FinetuneSettings | None) -> None:
        """What a memory bank and views need of the task: classes, and examples that have numbers."""
        if data is None or tuning is None or data.task == "classification":
            return
        for key, asked in (("views", tuning.views > 1), ("teacher", tuning.teacher == "bank")):
            if asked:
                found = getattr(tuning, key)
                self.problems.append(
                    Problem(f"finetune.{key}", f"{found!r} needs data.task 'classification', found {data.task!r}")
                )

    def _budget(self, text: str) -> Budget | None:
        try:
            budget = Budget.parse(text)
            for term in budget.terms:
                self.permit(term.cost, "cost")
                require_known(term.cost)
        except UntrustedCode:
            raise
        except EdakariError as error:
            self.problems.append(Problem("budget", str(error)))
            return None
        return budget


def _not_plain(value: Any, key: str) -> Iterator[Problem]:
    """What JSON cannot hold, so that no run folder could say how the network is built."""
    if isinstance(value, Mapping):
        for name, below in value.items():
            if not isinstance(name, str):
                yield Problem(key, f"its keys must be texts, found {name!r}")
            yield from _not_plain(below, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for index, below in enumerate(value):
            yield from _not_plain(below, f"{key}[{index}]")
    elif not (value is None or isinstance(value, str | bool | int | float)) or value in (math.inf, -math.inf):
        yield Problem(
            key, f"is no text, number, flag, list or mapping, so it cannot be stored as JSON, found {value!r}"
        )
    elif value != value:
        yield Problem(key, "is not a number, which cannot be stored as JSON")
