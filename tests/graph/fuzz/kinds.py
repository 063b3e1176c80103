"""Kinds of steps: the registry, and how a kind is declared."""

from __future__ import annotations

import dataclasses as dc
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

__all__ = ["KINDS", "Kind", "Pick", "Shape", "divisors", "function", "layer"]

Shape = tuple[int, ...]
"""Of a value, batch dimension included."""

Pick = Callable[[Sequence[Any]], Any]
"""Chooses one of a sequence."""

T = TypeVar("T")


@dc.dataclass(frozen=True)
class Kind:
    """A kind of steps.

    Args:
        name: the key in `KINDS`.
        fits: one predicate per operand on the shapes up to and including it.
        draw: settings for operands of these shapes.
        make: what runs the step, for operands of these shapes and settings.
        many: how many operands like the last one may follow.
    """

    name: str
    fits: tuple[Callable[..., bool], ...]
    draw: Callable[[Pick, Sequence[Shape]], dict[str, Any]]
    make: Callable[[Sequence[Shape], Mapping[str, Any]], Any]
    many: int = 0

    def fits_some(self, shapes: Sequence[Shape]) -> bool:
        """Whether some values can be its operands."""
        return any(self._starts(shape, shapes) for shape in shapes)

    def operands(self, pick: Pick, shapes: Sequence[Shape]) -> list[int]:
        """Values to read, from choices of which the latest are the first."""
        latest = range(len(shapes) - 1, -1, -1)
        first = pick([index for index in latest if self._starts(shapes[index], shapes)])
        more = self.fits[-1:] * (pick(range(self.many + 1)) if self.many else 0)
        rest = [pick([n for n in latest if fit(shapes[first], shapes[n])]) for fit in (*self.fits[1:], *more)]
        return [first, *rest]

    def _starts(self, shape: Shape, shapes: Sequence[Shape]) -> bool:
        return self.fits[0](shape) and all(any(fit(shape, other) for other in shapes) for fit in self.fits[1:])


KINDS: dict[str, Kind] = {}


def layer(*fits: Callable[..., bool]) -> Callable[[type[T]], type[T]]:
    """Decorator that makes a module class a kind: built from the operands' shapes and what its `draw` returns."""

    def add(cls: Any) -> Any:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()
        KINDS[name] = Kind(
            name,
            fits,
            lambda pick, shapes: cls.draw(pick, *shapes),
            lambda shapes, settings: cls(*shapes, **settings),
        )
        return cls

    return add


def function(*fits: Callable[..., bool], many: int = 0, **options: Any) -> Callable[[T], T]:
    """Decorator that makes a function of tensors a kind.

    Args:
        fits: as in `Kind`.
        many: as in `Kind`.
        options: for each setting, its options, or a function that gives them for the first operand's shape.
    """

    def draw(pick: Pick, shapes: Sequence[Shape]) -> dict[str, Any]:
        return {name: pick(of(shapes[0]) if callable(of) else of) for name, of in options.items()}

    def add(run: Any) -> Any:
        name = run.__name__.strip("_")
        KINDS[name] = Kind(name, fits, draw, lambda shapes, settings: functools.partial(run, **settings), many)
        return run

    return add


def divisors(number: int) -> list[int]:
    """The divisors of a number, rising."""
    return [each for each in range(1, number + 1) if number % each == 0]
