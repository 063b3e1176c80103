"""The names at the root: all of them there, each with a line on the map that `help(edakari)` prints."""

from __future__ import annotations

import inspect
import re
import typing

import pytest

import edakari

PUBLIC = [name for name in edakari.__all__ if not name.startswith("__")]


def lines_of_the_map() -> dict[str, str]:
    found = re.findall(r"^    (\w+) {2,}(\S.*)$", inspect.getdoc(edakari) or "", re.MULTILINE)
    assert len(found) == len(dict(found)), "a name has two lines"
    return dict(found)


def test_the_map_lists_every_public_name_and_no_other() -> None:
    assert set(lines_of_the_map()) == set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_name_is_there_and_says_what_it_is(name: str) -> None:
    assert (inspect.getdoc(getattr(edakari, name)) or "").strip()


def test_type_checkers_see_the_names_that_there_are() -> None:
    source = inspect.getsource(edakari)
    checked = re.search(r"if TYPE_CHECKING:\n(.*?)\n\n", source, re.DOTALL)
    assert checked
    imported = set(re.findall(r"\w+", re.sub(r"from \S+ import", "", checked[1])))
    assert imported == set(PUBLIC)
    assert typing.TYPE_CHECKING is False


def test_a_name_that_is_not_there_is_answered_with_the_nearest() -> None:
    with pytest.raises(AttributeError, match="did you mean 'recalibrate'"):
        edakari.recalibrat  # noqa: B018
    with pytest.raises(AttributeError, match=r"help\(edakari\)"):
        edakari.zzz  # noqa: B018
    assert not hasattr(edakari, "__path_of_nothing__")
