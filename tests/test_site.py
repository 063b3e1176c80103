"""The site: pages that are generated are current, every page is in its menu, and the notebooks run."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def script(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    return script("reference")


def test_pages_are_what_the_code_says(reference: ModuleType) -> None:
    written = reference.pages()
    stale = [str(path) for path, text in written.items() if (ROOT / path).read_text(encoding="utf-8") != text]
    assert not stale, "run python scripts/reference.py"
    assert {path.name for path in (ROOT / reference.METHODS).glob("*.md")} == {
        path.name for path in written if path.parent == reference.METHODS
    }


def test_a_setting_is_said_with_its_range_and_default(reference: ModuleType) -> None:
    from edakari.core.protocols import Schedule
    from edakari.criteria import Magnitude
    from edakari.methods.rfc import DistinguishingLayerPruning

    table = reference.settings_table([Magnitude])
    assert "| `p` | `1`, `2` | `2` | Order of the norm. |" in table
    nested = reference.settings_table([DistinguishingLayerPruning])
    assert "| `trial.tolerance` | number (above 0) | `0.1` |" in nested
    assert "| `criterion.responses.images` | integer (at least 1) | `12800` |" in nested
    rows = [line for line in reference.settings_table([Schedule]).splitlines() if line.startswith("| `momentum` |")]
    assert rows
    assert "number (at least 0, below 1) | `0.9` |" in rows[0]


def test_a_setting_without_a_word_is_refused(reference: ModuleType) -> None:
    from edakari.core.settings import settings

    @settings
    class Mute:
        """Says nothing of its fields."""

        width: int = 3

    with pytest.raises(ValueError, match="does not explain width"):
        reference.settings_table([Mute])


def in_menu(entries: Any) -> Iterator[str]:
    if isinstance(entries, str):
        yield entries
    for entry in entries.values() if isinstance(entries, Mapping) else entries if isinstance(entries, list) else ():
        yield from in_menu(entry)


def test_every_page_is_in_the_menu_once() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = list(in_menu(settings["nav"]))
    assert sorted(listed) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
    assert settings["theme"]["font"] is False, "the site must not fetch fonts from other hosts"


def test_there_are_three_notebooks() -> None:
    assert len(NOTEBOOKS) >= 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert path.stat().st_size < 30_000, "outputs of notebooks stay small"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    again = script("notebooks").executed(notebook, path.stem)
    for before, after in zip(notebook["cells"], again["cells"], strict=True):
        kinds = [[output["output_type"] for output in cell.get("outputs", ())] for cell in (before, after)]
        assert kinds[0] == kinds[1], "run python scripts/notebooks.py"
