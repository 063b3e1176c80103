"""The registry of methods."""

from __future__ import annotations

import pytest

from edakari.core.method import METHODS, method_named, register, registered
from edakari.errors import EdakariError, UnknownName


@pytest.fixture(autouse=True)
def _empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "_registered", {})


class First:
    """A method."""


class Second:
    """Another method."""


def test_a_method_is_found_by_name() -> None:
    assert register("first")(First) is First  # type: ignore[type-var]
    assert method_named("first") is First
    assert dict(registered()) == {"first": First}


def test_a_name_is_taken_once() -> None:
    register("first")(First)  # type: ignore[type-var]
    register("first")(First)  # type: ignore[type-var]
    with pytest.raises(EdakariError, match="registered twice"):
        register("first")(Second)  # type: ignore[type-var]


def test_an_unknown_method_names_the_nearest() -> None:
    register("first")(First)  # type: ignore[type-var]
    with pytest.raises(UnknownName, match="did you mean 'first'"):
        method_named("frist")
