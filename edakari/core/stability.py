"""A decorator for experimental functions, whose behaviour may change in any release."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from edakari.errors import ExperimentalWarning

__all__ = ["experimental"]

P = ParamSpec("P")
R = TypeVar("R")
_TOLD: set[str] = set()


def experimental(what: str, may_change: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a function as experimental: its first call in a process warns, later ones are silent.

        @experimental("the method isp", "its settings and the explainers that it stores")
        def prune(self, job): ...

    Args:
        what: the subject of the warning, as users know it; there is one warning per subject.
        may_change: what may change in any release without a deprecation period.
    """

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if what not in _TOLD:
                _TOLD.add(what)
                warnings.warn(
                    f"{what} is experimental: {may_change} may change in any release. Pin edakari's version if that "
                    "matters.",
                    ExperimentalWarning,
                    stacklevel=2,
                )
            return function(*args, **kwargs)

        call.__experimental__ = may_change  # type: ignore[attr-defined]
        return call

    return mark
