"""Reads a YAML file as a checked `Recipe`; names every problem and its line."""

from __future__ import annotations

import dataclasses as dc
import importlib
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edakari.core.arguments import found_as
from edakari.core.budget import Budget
from edakari.core.method import METHODS, Method
from edakari.core.settings import named_parts
from edakari.cost import require_known
from edakari.criteria import CRITERIA
from edakari.errors import EdakariError, RecipeError, UntrustedCode
from edakari.models.trust import check_code, check_command
from edakari.pipeline.latency_settings import unmatched
from edakari.pipeline.problems import Problem, message
from edakari.pipeline.sections import Permit, check
from edakari.pipeline.settings import Recipe
from edakari.pipeline.suiting import unsuited

__all__ = ["KEYS", "read_recipe", "recipe_from"]

importlib.import_module("edakari.methods")  # registers the methods


KEYS = Recipe.keys()
"""Keys of a recipe file: the fields of a `Recipe`."""


def read_recipe(path: str | Path, settings: Sequence[str] = (), *, trust_code: bool = False) -> Recipe:
    """Read a recipe from its file.

    Args:
        path: path of a YAML file; `docs/reference/recipe.md` says what it may hold.
        settings: values to replace, each in the form `dotted.key=value`.
        trust_code: whether to run the Python files that the recipe names: for its network, or for your own criterion,
            task, cost and the like.

    Raises:
        RecipeError: lists every problem with its line, key and found value.
        UntrustedCode: the recipe names a Python file for something other than its network, a command or a library, and
            `trust_code` is not set.
    """
    from edakari.pipeline.yaml_file import override, read_yaml  # which needs an extra

    content, lines = read_yaml(path)
    recipe = recipe_from(override(content, settings), str(path), lines, trust_code=trust_code)
    for text, what in recipe.programs.items():
        check_command(text, what, path, trust_code=trust_code)
    return recipe


def recipe_from(
    content: Mapping[str, Any],
    where: str = "recipe",
    lines: Mapping[str, int] | None = None,
    *,
    trust_code: bool = True,
) -> Recipe:
    """Make a recipe from plain values.

    Args:
        content: content of a recipe file.
        where: name of the recipe in errors.
        lines: line of each dotted key, for errors.
        trust_code: whether to run Python files that it names. Values in a program name what its author wants to run;
            pass False for values from a file that may come from somebody else.

    Raises:
        RecipeError: lists every problem with its key and found value.
    """
    if not isinstance(content, Mapping):
        raise RecipeError(f"{where} is a mapping of keys such as 'model' and 'budget', but found {found_as(content)}")

    def permit(name: str, what: str) -> None:
        check_code(name, what, where, trust_code=trust_code)

    recipe, problems = _read(content, permit)
    if recipe is None or problems:
        raise RecipeError(message(problems, where, lines or {}))
    return dc.replace(recipe, trust_code=trust_code, where=where, lines=dict(lines or {}))


def _read(content: Mapping[str, Any], permit: Permit) -> tuple[Recipe | None, list[Problem]]:
    """The recipe, and all problems in it.

    `Recipe` is the schema: every field is read by its annotation. Two fields are read here: the method, whose name
    selects its class, and the budget, which is text. A recipe with `train` may omit both: it only trains.
    """
    trains = content.get("train") is not None and content.get("method") is None and content.get("budget") is None
    method, wrong = _method("magnitude" if trains else content.get("method"), permit)
    budget, more = (Budget(()), list[Problem]()) if trains else _budget(content.get("budget"), permit)
    rest = {str(key): value for key, value in content.items() if key not in ("method", "budget")}
    if budget is not None:
        unmatched = _unmatched(budget, content.get("latency"))
        more, budget = [*more, *unmatched], None if unmatched else budget
    recipe, others = check(Recipe, rest, "", permit=permit, made={"method": method, "budget": budget})
    problems = [*wrong, *more, *others]
    if recipe is not None:
        for text in (recipe.data.source, *recipe.data.train, *((recipe.data.val,) if recipe.data.val else ())):
            permit(text, "source of data")
        if recipe.finetune is not None and recipe.finetune.teacher is not None:
            permit(recipe.finetune.teacher, "teacher")
        problems += [*unsuited(recipe), *_not_plain(recipe.model.options, "model.options")]
    return recipe, problems


def _method(content: Any, permit: Permit) -> tuple[Method | None, list[Problem]]:
    content = {"name": content} if isinstance(content, str) else content
    if not isinstance(content, Mapping) or not isinstance(content.get("name"), str):
        known = ", ".join(METHODS.choices())
        return None, [Problem("method.name", f"must name a method ({known}), found {content!r}")]
    short = content["name"]
    permit(short, "method")
    try:
        content = METHODS.expanded(content)
        cls = METHODS.named(content["name"])
    except EdakariError as error:
        return None, [Problem("method.name", str(error))]
    misplaced = _misplaced(short, content, cls)
    rest = {key: value for key, value in content.items() if key != "name" and key not in misplaced}
    method, problems = check(cls, rest, "method", ("name",), permit)
    for key in misplaced:
        text = f"unknown key; is a setting of the criterion; write criterion: {{{key}: {content[key]}}}"
        problems.append(Problem(f"method.{key}", text))
    return method, problems


def _misplaced(short: str, content: Mapping[str, Any], cls: type[Any]) -> list[str]:
    """Keys next to a method's settings that belong to its criterion, whose name stands for the method too."""
    thing: Any = CRITERIA[short] if short != content["name"] else None
    nested = {field.name for field in dc.fields(thing)} if dc.is_dataclass(thing) else set()
    return [key for key in content if key in nested - {field.name for field in dc.fields(cls)}]


def _budget(text: Any, permit: Permit) -> tuple[Budget | None, list[Problem]]:
    if text is None:
        return None, [Problem("budget", "is missing")]
    try:
        budget = Budget.parse(text)
        for term in budget.terms:
            permit(term.cost, "cost")
            require_known(term.cost)
    except UntrustedCode:
        raise
    except EdakariError as error:
        return None, [Problem("budget", str(error))]
    return budget, []


def _unmatched(budget: Budget, latency: Any) -> list[Problem]:
    """Problems with the names of latencies: in the budget without settings, or the other way round."""
    several = named_parts(typing.get_type_hints(Recipe)["latency"], latency)
    found = unmatched(budget, [str(name) for name in latency] if several else None)
    return [Problem(key, text) for key, text in found.items()]


def _not_plain(value: Any, key: str) -> Iterator[Problem]:
    """Problems with values that JSON cannot hold: a run folder could not say how the network is built."""
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
