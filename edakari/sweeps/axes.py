"""The axes of a sweep: lists of values, and ranges to search in."""

from __future__ import annotations

import dataclasses as dc
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from edakari.core.files import json_text
from edakari.errors import RecipeError, UnknownName
from edakari.pipeline.recipe import KEYS

__all__ = ["Choices", "Span", "Suggest", "axes_of", "combinations", "label"]

SEED = "seed"
SPAN_KEYS = ("low", "high", "log", "step")


class Suggest(Protocol):
    """What an axis asks for its value: a trial of optuna."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Choose one of some values."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        """Choose a number."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """Choose a whole number."""


@dc.dataclass(frozen=True)
class Choices:
    """An axis of which every value is run.

    Args:
        key: dotted key of the recipe.
        values: the values, by their labels.
    """

    key: str
    values: Mapping[str, Any]


@dc.dataclass(frozen=True)
class Span:
    """An axis in which a sampler searches.

    Args:
        key: dotted key of the recipe.
        low: smallest value.
        high: largest value.
        log: whether values are drawn by their logarithm.
        step: distance of values; None is 1 for whole numbers, and none for others.
    """

    key: str
    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def suggest(self, trial: Suggest) -> float:
        """Draw a value."""
        if self.whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)


Axis = Choices | Span


def axes_of(content: Mapping[str, Any], where: str) -> tuple[Axis, ...]:
    """Read the axes of a sweep; keys above others come first, so that `method` is set before `method.epochs`.

    Args:
        content: values by dotted key.
        where: name of the sweep in errors.

    Raises:
        RecipeError: an axis has no values, or a range has wrong keys.
        UnknownName: an axis is no key of a recipe; names the nearest.
    """
    return tuple(_axis(key, content[key], where) for key in sorted(content, key=lambda key: key.count(".")))


def _axis(key: str, content: Any, where: str) -> Axis:
    top = key.partition(".")[0]
    if top not in KEYS:
        raise UnknownName("key of a recipe", top, KEYS, advice=f"{where}: axes.{key} names it.")
    if isinstance(content, Mapping):
        return _span(key, content, f"{where}: axes.{key}")
    if not isinstance(content, list | tuple) or not content:
        raise RecipeError(
            f"{where}: axes.{key} takes a list of values, such as [1, 2], or a range, such as {{low: 1, high: 2}}, "
            f"found {content!r}"
        )
    values = {label(value): value for value in content}
    if len(values) < len(content):
        raise RecipeError(f"{where}: axes.{key} has a value twice: {list(content)}")
    if key == SEED and not all(isinstance(value, int) and not isinstance(value, bool) for value in content):
        raise RecipeError(f"{where}: axes.seed takes whole numbers, found {list(content)}")
    return Choices(key, values)


def _span(key: str, content: Mapping[str, Any], where: str) -> Span:
    wrong = [name for name in content if name not in SPAN_KEYS]
    low, high, log, step = (content.get(name) for name in SPAN_KEYS)
    numbers = [value for value in (low, high) if isinstance(value, int | float) and not isinstance(value, bool)]
    if wrong or len(numbers) < 2 or not all(map(math.isfinite, numbers)) or numbers[0] >= numbers[1]:
        raise RecipeError(
            f"{where} is a range, with low below high, and perhaps log or step, found {dict(content)!r}; a list "
            "holds single values"
        )
    if log and (numbers[0] <= 0 or step is not None):
        raise RecipeError(f"{where}: log needs low above 0 and no step, found {dict(content)!r}")
    if step is not None and (not isinstance(step, int | float) or step <= 0):
        raise RecipeError(f"{where}: step must be a number above 0, found {step!r}")
    return Span(key, numbers[0], numbers[1], bool(log), step)


def combinations(axes: Sequence[Axis], exclude: Sequence[Mapping[str, Any]], where: str) -> Iterator[dict[str, str]]:
    """Yield the labels of all combinations of the lists, without those that are left out.

    Args:
        axes: axes of the sweep; ranges do not count.
        exclude: combinations to leave out, each a mapping of some axes to a value.
        where: name of the sweep in errors.

    Raises:
        RecipeError: `exclude` names something that no axis holds.
    """
    lists = [axis for axis in axes if isinstance(axis, Choices)]
    known = {axis.key: axis.values for axis in lists}
    left_out = [{key: label(value) for key, value in each.items()} for each in exclude]
    for each in left_out:
        for key, name in each.items():
            if name not in known.get(key, {}):
                raise RecipeError(f"{where}: exclude names {key}: {name}, but no axis holds that value")
    for values in itertools.product(*(axis.values for axis in lists)):
        found = dict(zip(known, values, strict=True))
        if not any(each.items() <= found.items() for each in left_out):
            yield found


def label(value: Any) -> str:
    """Name a value for tables, and for the queue: texts are their own label, a section of a recipe goes by its name."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        rest = {name: below for name, below in value.items() if name != "name"}
        return f"{value['name']} {_compact(rest)}" if rest else value["name"]
    return _compact(value)


def _compact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_compact(below)}" for name, below in value.items())
    return value if isinstance(value, str) else json_text(value, "an axis", ensure_ascii=False)
