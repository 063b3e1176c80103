"""What the documents say holds: their Python runs, their links lead somewhere, and no key of a recipe is left out."""

from __future__ import annotations

import dataclasses as dc
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from edakari.core.choosing import Groups
from edakari.core.method import METHODS, registered
from edakari.export.int8 import QuantizeSettings
from edakari.graph.module_attributes import ATTRIBUTES
from edakari.graph.rules import RULES
from edakari.models import ModelSpec
from edakari.pipeline import DistillSettings, LatencySettings, MeasureSettings, read_recipe, recipe_from
from edakari.pipeline.recipe import KEYS
from edakari.pipeline.settings import BankSettings, FinetuneSettings
from edakari.sweeps.plan import plan_of
from edakari.sweeps.settings import sweep_from
from edakari.tasks import DataSettings

ROOT = Path(__file__).parents[1]
HIDDEN = {".venv", ".git", "runs", ".pytest_cache", "node_modules"}
PAGES = sorted(path for path in ROOT.rglob("*.md") if not HIDDEN & set(path.relative_to(ROOT).parts))
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the pages register is forgotten afterwards."""
    monkeypatch.setattr(METHODS, "_registered", dict(METHODS._registered))
    tables: list[dict[str, Any]] = [RULES, ATTRIBUTES]
    before = [dict(table) for table in tables]
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if blocks(path, "python")], ids=name_of)
def test_python_of_a_page_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restored: None, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    # torch and dataclasses look up the module of what a page defines
    module = ModuleType(f"page_{path.stem.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for code in blocks(path, "python"):
        exec(compile(code, name_of(path), "exec"), module.__dict__)


def test_pages_have_python() -> None:
    tutorials = {name_of(path) for path in DOCUMENTS if path.parent.name == "tutorials"}
    assert {"README.md", "docs/explanation/graph.md", *tutorials} <= {
        name_of(path) for path in DOCUMENTS if blocks(path, "python")
    }


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    (code,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 12


def test_japanese_readme_shows_the_same() -> None:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ja.md")]
    for pattern in (r"^```.*?^```", r"^#+ ", r"^\|", r"!\[[^]]*\]\(([^)]+)\)", r"\]\((docs/[^)]+)\)"):
        english, japanese = (re.findall(pattern, text, re.DOTALL | re.MULTILINE) for text in texts)
        assert english == japanese, pattern


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(path: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    missing = [
        target
        for target in targets
        if not re.match(r"[a-z]+:|#", target) and not (path.parent / target.partition("#")[0]).exists()
    ]
    assert not missing


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if blocks(path, "yaml")], ids=name_of)
def test_recipes_of_a_page_are_valid(path: Path) -> None:
    for text in blocks(path, "yaml"):
        content = yaml.safe_load(text)
        if "recipe" in content:  # a sweep, of a recipe that ships
            plan_of(sweep_from({**content, "recipe": str(ROOT / content["recipe"])}), path.name, trust_code=False)
        else:
            recipe_from(content)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.yaml")), ids=name_of)
def test_recipes_that_ship_are_valid(path: Path) -> None:
    read_recipe(path)


def keys_on_page() -> dict[str, dict[str, str]]:
    """The rows of recipe.md: heading to key to default."""
    found: dict[str, dict[str, str]] = {}
    heading = ""
    for line in (ROOT / "docs" / "reference" / "recipe.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.strip("# `").replace("`", "")
            found[heading] = {}
        elif row := re.match(r"\| `(\w+)` \| (?:[^|\\]|\\\|)+ \| ([^|]+) \|", line):
            found[heading][row[1]] = row[2].strip("`")
    return found


SECTIONS = {
    "model": [ModelSpec],
    "data": [DataSettings],
    "latency": [LatencySettings],
    "groups": [Groups],
    "finetune and train": [FinetuneSettings],
    "finetune.bank": [BankSettings],
    "finetune.distill": [DistillSettings],
    "measure": [MeasureSettings],
    "quantize": [QuantizeSettings],
}


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_key_of_a_section_is_on_the_page(heading: str) -> None:
    rows = keys_on_page()[heading]
    fields: dict[str, Any] = {field.name: field for cls in SECTIONS[heading] for field in dc.fields(cls)}
    assert set(rows) - {"name"} == set(fields) - {"name"}
    for name, field in fields.items():
        if field.default is not dc.MISSING:
            default = {} if dc.is_dataclass(field.default) else field.default
            assert yaml.safe_load(rows[name]) == (list(default) if isinstance(default, tuple) else default), name


def test_every_key_at_the_top_is_on_the_page() -> None:
    assert list(keys_on_page()["At the top"]) == list(KEYS)


def test_methods_page_names_every_method() -> None:
    text = (ROOT / "docs" / "how-to" / "choose-a-method.md").read_text(encoding="utf-8")
    assert not [name for name in registered() if f"| `{name}` |" not in text]


def test_contributing_is_short_and_knows_every_folder() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 125
    folders = {path.parent.name for path in (ROOT / "edakari").glob("*/__init__.py")}
    assert not [folder for folder in folders if f"`{folder}`" not in text.partition("## Where things are")[2]]


def script(path: Path) -> Any:
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_tables_change_nothing_but_their_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = {"cpu_s": {"trace": 0.1, "total": 0.25}, "macs_share": 0.4999}
    results = {
        "environment": {
            "command": "python benchmarks/core.py",
            "date": "2026-01-02",
            "processor": "a processor",
            "python": "3.11",
            "threads": 1,
            "versions": {"torch": "2"},
        },
        "networks": {
            "resnet50": {
                "edakari": timed,
                "torch-pruning, ratio 0.5": {"cpu_s": {"total": 0.5}, "macs_share": 0.25},
                "torch-pruning, ratio 0.7": {"failed": "ValueError: no"},
                "torch-kirigami": {"ended": False, "limit_s": 60, "cpu_s": {"graph": 3.21}},
            }
        },
    }
    (tmp_path / "core.json").write_text(json.dumps(results), encoding="utf-8")
    page = tmp_path / "docs" / "results" / "pruning-speed.md"
    page.parent.mkdir(parents=True)
    page.write_text("before\n<!-- core:begin -->\nold\n<!-- core:end -->\nafter\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "argv", ["tables", "--results", str(tmp_path), "--root", str(tmp_path)])
    tables = script(ROOT / "benchmarks" / "tables.py")
    tables.main()
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- core:begin -->\n| network")
    assert text.endswith("<!-- core:end -->\nafter\n")
    assert "| ResNet-50 | torch-pruning, ratio 0.5 | 0.50 | 50% of its time | 25.0% | – |" in text
    assert "did not end within 60 s; its graph alone took 3.2 s" in text
    assert "| ResNet-50 | torch-pruning, ratio 0.7 | failed: ValueError |" in text
    assert "2026-01-02, a processor" in text
    assert "old" not in text
    tables.main()
    assert page.read_text(encoding="utf-8") == text
    assert "not installed" not in text
    del results["networks"]["resnet50"]["torch-kirigami"]
    (tmp_path / "core.json").write_text(json.dumps(results), encoding="utf-8")
    tables.main()
    assert "torch-kirigami was not installed, so it has no rows." in page.read_text(encoding="utf-8")


def test_pages_hold_the_stored_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = [*(ROOT / "docs" / "results").glob("*.md"), ROOT / "README.md", ROOT / "README.ja.md"]
    for path in written:
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "argv", ["tables", "--root", str(tmp_path)])
    script(ROOT / "benchmarks" / "tables.py").main()
    for path in written:
        assert (tmp_path / path.relative_to(ROOT)).read_text(encoding="utf-8") == path.read_text(encoding="utf-8"), path


def test_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    script(ROOT / "examples" / "prune_a_timm_model.py").main()
    assert "difference after reading back: 0.0" in capsys.readouterr().out
    script(ROOT / "examples" / "triplet.py").main(images=640, epochs=1)
    assert re.search(r"recall@1: unpruned 0\.\d+, half of the MACs 0\.\d+, fine-tuned 0\.\d+", capsys.readouterr().out)
    own = script(ROOT / "examples" / "own_model.py").make(width=4)
    assert own(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_changelog_describes_what_is_there() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    told = [line for line in lines if line.startswith("- ")]
    assert len(told) == len(set(told))
    hint = "nothing is released yet: say what there is, in a group that fits, not how it came about"
    assert len(lines) <= 150, hint
    assert not [line for line in lines if "no longer" in line or "Before, " in line], hint
