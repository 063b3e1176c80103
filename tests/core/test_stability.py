"""What may change says so once; what is to go has a date."""

from __future__ import annotations

import ast
import importlib
import re
import warnings
from pathlib import Path

import pytest

import edakari
from edakari.core import stability
from edakari.core.method import registered
from edakari.core.stability import experimental
from edakari.errors import EdakariWarning, ExperimentalWarning

PACKAGE = Path(edakari.__file__).parent
DOCS = PACKAGE.parent / "docs" / "reference" / "stability.md"
FORM = r"since (\d+)\.(\d+), gone in (\d+)\.(\d+): \S.*"


@pytest.fixture(autouse=True)
def _untold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stability, "_TOLD", set())


def test_the_first_call_warns_and_later_ones_do_not() -> None:
    @experimental("the thing", "its result")
    def thing(value: int, *, twice: bool = False) -> int:
        """Docs."""
        return value * (1 + twice)

    @experimental("the thing", "its result")
    def sibling() -> None:
        return None

    with pytest.warns(ExperimentalWarning, match=r"the thing is experimental: its result may change") as found:
        assert thing(3, twice=True) == 6
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert thing(4) == 4
        sibling()
    assert thing.__name__ == "thing"
    assert thing.__doc__ == "Docs."


def test_whoever_makes_it_an_error_meets_it_each_time_only_once() -> None:
    @experimental("the thing", "its result")
    def thing() -> int:
        return 1

    with warnings.catch_warnings():
        warnings.simplefilter("error", EdakariWarning)
        with pytest.raises(ExperimentalWarning):
            thing()
        assert thing() == 1


def decorators(name: str) -> list[tuple[str, ast.Call]]:
    """Where a decorator stands in the package, and its call."""
    return [
        (f"{path.relative_to(PACKAGE)}:{node.name}", call)
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        for call in node.decorator_list
        if isinstance(call, ast.Call) and getattr(call.func, "id", getattr(call.func, "attr", "")) == name
    ]


def test_what_is_experimental_stands_on_the_page() -> None:
    page = DOCS.read_text(encoding="utf-8")
    marked = {tuple(ast.literal_eval(each) for each in call.args) for _, call in decorators("experimental")}
    assert len(marked) == 2
    importlib.import_module("edakari.methods")  # which makes them known
    for what, may_change in marked:
        assert any(what in line.replace("`", "") and may_change in line for line in page.splitlines()), what
    for name in re.findall(r"`(\w+)`", next(line for line in page.splitlines() if line.startswith("| token pruning"))):
        assert name in registered()


def outlived(message: str, version: str) -> bool:
    """Whether a deprecation's date has come; its form is wrong where it has none."""
    found = re.fullmatch(FORM, message)
    assert found, f"{message!r} should read: since 0.2, gone in 0.4: use …"
    since, gone = (int(found[1]), int(found[2])), (int(found[3]), int(found[4]))
    assert gone[0] > since[0] or gone[1] >= since[1] + 2, f"{message!r} leaves less than two minor releases"
    return tuple(map(int, version.split(".")[:2])) >= gone


def test_nothing_deprecated_outlives_its_date() -> None:
    for where, call in decorators("deprecated"):
        assert not outlived(ast.literal_eval(call.args[0]), edakari.__version__), where
        assert any(keyword.arg == "category" for keyword in call.keywords), where


def test_the_form_of_a_deprecation_is_checked() -> None:
    message = "since 0.2, gone in 0.4: use apply(model, plan)"
    assert message in DOCS.read_text(encoding="utf-8")
    assert [outlived(message, version) for version in ("0.3.9", "0.4.0", "1.0.0")] == [False, True, True]
    for wrong in ("use something else", "since 0.2, gone in 0.3: use it"):
        with pytest.raises(AssertionError):
            outlived(wrong, "0.1.0")
