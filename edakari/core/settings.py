"""Settings know their own ranges: a frozen dataclass whose fields say what they accept, checked when it is made.

A recipe is checked against the same declarations, so that a range stands in one place:

    @settings
    class Pruning:
        epochs: Annotated[int, Ge(0)] = 10
        lr: PositiveFloat = 0.1
        runtime: Annotated[str, RUNTIMES] = "torch"
        criterion: Annotated[Criterion, CRITERIA] = Magnitude()

A registry beside a text says that the text names something in it; beside another type, that the field holds such a
thing, which a recipe names, alone or with settings of its own: `criterion: taylor`, or
`criterion: {name: taylor, max_batches: 4}`. A field may be a dataclass of settings itself.
"""

from __future__ import annotations

import dataclasses as dc
import math
import numbers
import operator
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, dataclass_transform

from annotated_types import Ge, Gt, Interval, Le, Lt

from edakari.core.registry import Registry
from edakari.errors import SettingsError, nearest

__all__ = [
    "BelowOne",
    "Count",
    "Fraction",
    "LearningRate",
    "NonNegative",
    "OpenFraction",
    "Positive",
    "PositiveFraction",
    "Seed",
    "Whole",
    "check_settings",
    "dataclass_of",
    "holds_part",
    "named_parts",
    "registry_of",
    "require_ordered",
    "settings",
]

T = TypeVar("T")

Count = Annotated[int, Ge(1)]
"""A whole number from 1 on."""
Whole = Annotated[int, Ge(0)]
"""A whole number from 0 on."""
Seed = Annotated[int, Interval(ge=0, lt=2**32)]
"""A seed that every generator of random numbers takes."""
Positive = Annotated[float, Gt(0)]
"""A finite number above 0."""
LearningRate = Annotated[float, Interval(gt=0, lt=1e38)]
"""Above 0, and a number that weights of 32 bits can be multiplied by."""
NonNegative = Annotated[float, Ge(0)]
"""A finite number from 0 on."""
Fraction = Annotated[float, Interval(ge=0, le=1)]
"""From 0 to 1, both included."""
PositiveFraction = Annotated[float, Interval(gt=0, le=1)]
"""Above 0, up to 1."""
BelowOne = Annotated[float, Interval(ge=0, lt=1)]
"""From 0 on, below 1."""
OpenFraction = Annotated[float, Interval(gt=0, lt=1)]
"""Between 0 and 1, neither included."""

BOUNDS: Mapping[str, tuple[Callable[[Any, Any], bool], str]] = {
    "gt": (operator.gt, "above"),
    "ge": (operator.ge, "at least"),
    "lt": (operator.lt, "below"),
    "le": (operator.le, "at most"),
}
NAMES: Mapping[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dc.field,))
def settings(cls: type[T]) -> type[T]:
    """Make a frozen keyword-only dataclass that rejects values outside its annotations.

    Numbers must be finite. `Annotated[int, Ge(1)]` and the names of this module say ranges. A `__post_init__` of the
    class runs after this check, and may compare fields with each other.

    Args:
        cls: a class with annotated fields.
    """
    own = getattr(cls, "__post_init__", None)  # perhaps of the settings that it adds to

    def checked(self: T) -> None:
        _make_parts(self)
        check_settings(self)
        if own is not None:
            own(self)

    cls.__post_init__ = checked  # type: ignore[attr-defined]
    return dc.dataclass(frozen=True, kw_only=True)(cls)


def require_ordered(made: Any, *names: str) -> None:
    """Raise an error unless some fields of settings hold a smallest and a largest value; None is left out.

    Args:
        made: settings.
        names: names of the fields.

    Raises:
        SettingsError: a field has another number of values, or the first is larger.
    """
    for name in names:
        value = getattr(made, name)
        if value is not None and (len(value) != 2 or value[0] > value[1]):
            raise SettingsError(
                f"{type(made).__name__}: {name} takes two numbers, the smaller one first, found {list(value)}"
            )


def registry_of(hint: Any) -> Registry[Any] | None:
    """Return the registry in an annotation; None if there is none.

    Args:
        hint: an annotation with its metadata, such as `Annotated[str, RUNTIMES]`.
    """
    if typing.get_origin(hint) is not Annotated:
        return None
    return next((each for each in typing.get_args(hint)[1:] if isinstance(each, Registry)), None)


def dataclass_of(hint: Any) -> Any:
    """Return the dataclass of an annotation, which may also allow None; None for other types."""
    choices = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((each for each in choices if isinstance(each, type) and dc.is_dataclass(each)), None)


def holds_part(hint: Any) -> bool:
    """Return whether a field with this annotation holds an object of a registry, not only its name."""
    return registry_of(hint) is not None and typing.get_args(hint)[0] is not str


def named_parts(hint: Any, content: Any) -> bool:
    """Return whether a value holds several settings by their names, where an annotation allows that or one of them.

    Args:
        hint: an annotation, such as `X | Mapping[str, X]`, where X is a dataclass of settings.
        content: value of the field: the mapping's values are settings, or mappings of their fields.
    """
    nested = dataclass_of(hint)
    choices = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    if nested is None or not any(typing.get_args(each) == (str, nested) for each in choices):
        return False
    known = {field.name for field in dc.fields(nested)}
    if not isinstance(content, Mapping) or not content or known & content.keys():
        return False
    return all(each is None or isinstance(each, Mapping | nested) for each in content.values())


def _make_parts(value: Any) -> None:
    """Make objects that a program gives by name, or as a mapping of settings, and tuples of lists."""
    for name, hint in typing.get_type_hints(type(value), include_extras=True).items():
        registry, given = registry_of(hint), getattr(value, name, None)
        if isinstance(given, Mapping) and named_parts(hint, given):
            object.__setattr__(value, name, _several(f"{type(value).__name__}: {name}", dataclass_of(hint), given))
        elif isinstance(given, Mapping) and (nested := dataclass_of(hint)) is not None:
            default = getattr(type(value), name, None)  # what is not given is as the field has it
            _require_known(f"{type(value).__name__}: {name}", nested, given)
            made = dc.replace(default, **given) if isinstance(default, nested) else nested(**given)
            object.__setattr__(value, name, made)
        elif registry is not None and holds_part(hint) and isinstance(given, str | Mapping):
            content = {"name": given} if isinstance(given, str) else dict(given)
            thing = registry.named(content.pop("name", ""))
            _require_known(f"{type(value).__name__}: {name}", thing, content)
            object.__setattr__(value, name, thing(**content) if content or registry.makes(thing) else thing)
        elif isinstance(given, list):
            object.__setattr__(value, name, _as_tuple(hint, given))


def _several(where: str, nested: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Make settings of the mappings among some settings, which have names."""
    for name, each in given.items():
        if isinstance(each, Mapping):
            _require_known(f"{where}.{name}", nested, each)
    return {name: each if isinstance(each, nested) else nested(**(each or {})) for name, each in given.items()}


def _require_known(where: str, thing: Any, given: Mapping[str, Any]) -> None:
    """Refuse settings that a dataclass has not.

    Raises:
        SettingsError: there is one; says which, and the nearest that there is.
    """
    known = [field.name for field in dc.fields(thing)] if dc.is_dataclass(thing) else list(given)
    for name in given:
        if name not in known:
            close = nearest(str(name), known)
            hint = f"; did you mean {close!r}?" if close else "."
            raise SettingsError(f"{where} has no setting {name!r}{hint} Known: {', '.join(known) or 'none'}")


def _as_tuple(hint: Any, value: Any) -> Any:
    """Convert a list to a tuple where the annotation asks for one, also inside of it."""
    hint = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    choices = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    wanted = next((each for each in choices if typing.get_origin(each) is tuple), None)
    if wanted is None or not isinstance(value, list):
        return value
    first = typing.get_args(wanted)[:1]
    return tuple(_as_tuple(first[0], item) for item in value) if first else tuple(value)


def check_settings(value: Any) -> None:
    """Check the fields of a dataclass against their annotations.

    Args:
        value: the dataclass.

    Raises:
        SettingsError: a value is invalid; the message names the class, the field, the accepted values and the value.
    """
    hints = typing.get_type_hints(type(value), include_extras=True)
    for field in dc.fields(value):
        found = getattr(value, field.name)
        wanted = _mismatch(hints[field.name], found)
        if wanted is not None:
            raise SettingsError(f"{type(value).__name__}: {field.name} must be {wanted}, found {found!r}")


def _mismatch(hint: Any, value: Any) -> str | None:
    """Describe what a value should be; None if the value is valid."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        registry = registry_of(hint)
        if registry is not None:
            return _no_part(registry, arguments[0], value)
        return _mismatch(arguments[0], value) or _out_of_range(arguments[1:], value)
    if origin in (Union, types.UnionType):
        wanted = [_mismatch(each, value) for each in arguments]
        return None if None in wanted else _joined([text for text in wanted if text])
    if origin is Literal:
        return None if value in arguments else _one_of(arguments, value)
    if origin is tuple:
        return _mismatch_of_items(arguments, value)
    if hint is type(None):
        return None if value is None else "None"
    if hint in (int, float):
        return _mismatch_of_number(hint, value)
    if hint in (str, bool):
        return None if isinstance(value, hint) else NAMES[hint]
    return None  # other types say themselves what they are


def _no_part(registry: Registry[Any], hint: Any, value: Any) -> str | None:
    """What a value should be that names a thing of a registry, or is one."""
    if hint is not str:
        if value is None and type(None) in typing.get_args(hint):
            return None
        lacking = [member for member in registry.members if not hasattr(value, member)]
        return f"a {registry.what} (it has no {lacking[0]!r})" if lacking else None
    if not isinstance(value, str):
        return NAMES[str]
    return None if value in registry else f"a known {registry.what}: {registry.unknown(value)}"


def _mismatch_of_number(hint: type, value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral if hint is int else numbers.Real):
        return NAMES[hint]
    return "a finite number" if isinstance(value, float) and not math.isfinite(value) else None


def _mismatch_of_items(arguments: tuple[Any, ...], value: Any) -> str | None:
    if not isinstance(value, tuple):
        return "a tuple"
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        return f"a tuple of {len(arguments)}"
    wanted = next((text for each, item in zip(arguments, value, strict=True) if (text := _mismatch(each, item))), None)
    return None if wanted is None else f"a tuple in which each is {wanted}"


def _out_of_range(metadata: Iterable[Any], value: Any) -> str | None:
    bounds = [
        (compare, words, limit)
        for each in metadata
        if isinstance(each, Ge | Gt | Interval | Le | Lt)
        for name, (compare, words) in BOUNDS.items()
        if (limit := getattr(each, name, None)) is not None
    ]
    if all(compare(value, limit) for compare, _, limit in bounds):
        return None
    return " and ".join(f"{words} {limit}" for _, words, limit in bounds)


def _one_of(known: tuple[Any, ...], value: Any) -> str:
    close = nearest(value, [each for each in known if isinstance(each, str)]) if isinstance(value, str) else None
    return f"one of {', '.join(map(repr, known))}" + (f" (did you mean {close!r}?)" if close else "")


def _joined(texts: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(texts))
