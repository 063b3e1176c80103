"""The registry: four kinds of names, one kind of error."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edakari.core.method import METHODS
from edakari.core.registry import Registry
from edakari.core.user_code import run_file
from edakari.cost import COSTS
from edakari.criteria import CRITERIA, Magnitude, Taylor
from edakari.errors import EdakariError, UnknownName
from edakari.export import EXPORTERS
from edakari.latency.runtimes import RUNTIMES
from edakari.solve import ALLOCATORS
from edakari.surgery.tokens.selectors import SELECTORS
from edakari.tasks import SOURCES, TASKS

ALL: list[Registry[Any]] = [METHODS, CRITERIA, ALLOCATORS, TASKS, SOURCES, RUNTIMES, COSTS, SELECTORS, EXPORTERS]
OWN = """
from __future__ import annotations
import dataclasses as dc

@dc.dataclass(frozen=True)
class Mine:
    much: int = 1

NUMBER = 3
"""


class Thing:
    """Something to register."""


class Other:
    """Something else."""


@pytest.fixture
def registry() -> Registry[Any]:
    return Registry("thing", "edakari.things", {"built": "fractions:Fraction"}, members=("numerator",))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Entry points as installed packages would have them."""

    def install(**values: str) -> None:
        entries = [importlib.metadata.EntryPoint(name, value, "edakari.things") for name, value in values.items()]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entries)

    return install


def test_a_built_in_thing_is_imported_when_it_is_asked_for(registry: Registry[Any]) -> None:
    lazy: Registry[Any] = Registry("thing", "edakari.things", {"far": "edakari.no_such_module:Far"})
    assert lazy.names() == ("far",)
    assert "far" in lazy
    assert registry["built"](3).numerator == 3


@pytest.mark.parametrize("named", ALL, ids=lambda each: each.group)
def test_every_built_in_name_leads_somewhere_and_back(named: Registry[Any]) -> None:
    for name, thing in named.items():
        assert callable(thing), name
        if hasattr(thing, "__qualname__"):
            assert named.name_of(thing) == name


def test_a_name_is_taken_once(registry: Registry[Any]) -> None:
    assert registry.register("mine")(Thing) is Thing
    registry.register("mine")(Thing)
    assert registry["mine"] is Thing
    with pytest.raises(EdakariError, match=r"'mine' is registered twice: .*Thing and .*Other"):
        registry.register("mine")(Other)
    with pytest.raises(EdakariError, match="'built' is registered twice: fractions:Fraction"):
        registry.register("built")(Other)


def test_an_unknown_name_says_the_nearest_and_how_to_add_one(registry: Registry[Any]) -> None:
    with pytest.raises(UnknownName, match=r"did you mean 'built'.*entry point group 'edakari.things'.*file\.py"):
        registry.named("bilt")


def test_installed_packages_offer_things(registry: Registry[Any], installed: Callable[..., None]) -> None:
    installed(half="fractions:Fraction.from_float", broken="no_such_package:Thing", whole="fractions")
    assert registry.names() == ("broken", "built", "half", "whole")
    assert registry["half"](0.5) == 0.5
    with pytest.raises(EdakariError, match="'broken' of the installed package unknown cannot be imported: Module"):
        registry.named("broken")
    with pytest.raises(EdakariError, match="names the module 'fractions', which registers no thing 'whole'"):
        registry.named("whole")


def test_installed_packages_are_read_for_unknown_names_only(
    registry: Registry[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.register("mine")(Thing)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: pytest.fail(f"it read {group}"))
    assert "built" in registry
    assert "mine" in registry
    with pytest.raises(pytest.fail.Exception, match="it read"):
        "other" in registry  # noqa: B015


def test_a_name_that_an_installed_package_takes_is_told(
    registry: Registry[Any], installed: Callable[..., None]
) -> None:
    installed(built="decimal:Decimal")
    with pytest.raises(EdakariError, match=r"'built', which the installed package .* is taken by fractions:Fraction"):
        registry.names()


def test_a_file_is_run_once_as_long_as_it_stays_the_same(registry: Registry[Any], tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN, encoding="utf-8")
    first = registry.named(f"{path}:Mine")
    assert first().much == 1
    assert registry.named(f"{path}:Mine") is first
    assert registry.name_of(first()) == f"{path}:Mine"
    path.write_text(OWN.replace("1", "2"), encoding="utf-8")
    assert registry.named(f"{path}:Mine")().much == 2


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        (OWN, "Mien", "unknown thing in .*did you mean 'Mine'"),
        (OWN, "NUMBER", "unknown thing in"),
        ("raise SystemExit(3)", "Mine", "running the file fails: it ends the program"),
        ("1 / 0", "Mine", "running the file fails: ZeroDivisionError"),
        (None, "Mine", "there is no file"),
    ],
)
def test_a_file_that_cannot_be_used_is_told(
    registry: Registry[Any], tmp_path: Path, content: str | None, name: str, says: str
) -> None:
    path = tmp_path / "own.py"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    before = set(sys.modules)
    with pytest.raises(EdakariError, match=says):
        registry.named(f"{path}:{name}")
    if content is None or "=" not in content:
        assert set(sys.modules) == before


def test_files_of_networks_are_run_afresh(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN, encoding="utf-8")
    assert run_file(path, "model").Mine is not run_file(path, "model").Mine


def test_selectors_that_only_a_plan_names_are_no_files(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    with pytest.raises(UnknownName, match="selector of tokens"):
        SELECTORS.named(f"{path}:Mine")
    assert not (tmp_path / "ran").exists()


def test_names_of_other_things_are_short_for_a_thing_with_them(registry: Registry[Any]) -> None:
    registry.shorten(CRITERIA, "built", "criterion")
    assert registry.expanded({"name": "taylor", "iterations": 2}) == {
        "name": "built",
        "iterations": 2,
        "criterion": {"name": "taylor"},
    }
    assert registry.expanded({"name": "taylor", "criterion": {"max_batches": 3}})["criterion"] == {
        "name": "taylor",
        "max_batches": 3,
    }
    assert registry.expanded({"name": "built"}) == {"name": "built"}
    with pytest.raises(EdakariError, match="short for 'built' with criterion 'taylor', but criterion is 'fpgm'"):
        registry.expanded({"name": "taylor", "criterion": "fpgm"})
    with pytest.raises(UnknownName, match="did you mean 'taylor'"):
        registry.named("taylr")


def test_an_instance_has_the_name_of_its_class() -> None:
    assert CRITERIA.name_of(Taylor(max_batches=2)) == "taylor"
    assert CRITERIA.name_of(Magnitude) == "magnitude"
    assert CRITERIA.name_of(Thing()) is None
