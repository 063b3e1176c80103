"""The plainest rules of the docstrings' language, on the packages that have been read for them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "edakari"

READ = (
    "__init__.py",
    "cli",
    "core/arguments.py",
    "core/blank.py",
    "core/budget.py",
    "core/choosing.py",
    "core/copier.py",
    "core/copying.py",
    "core/costs.py",
    "core/feeding.py",
    "core/file_errors.py",
    "core/files.py",
    "core/finite.py",
    "core/globals.py",
    "core/incremental_cost.py",
    "core/lazy.py",
    "core/ledger.py",
    "core/method.py",
    "core/modes.py",
    "core/networks.py",
    "core/objective.py",
    "core/optional.py",
    "core/owned.py",
    "core/plan.py",
    "core/processes.py",
    "core/protocols.py",
    "core/reading.py",
    "core/reading_yaml.py",
    "core/registry.py",
    "core/seeds.py",
    "core/settings.py",
    "core/stability.py",
    "core/stand_ins.py",
    "core/steady.py",
    "core/summaries.py",
    "core/tables.py",
    "core/user_code.py",
    "core/wrappers.py",
    "criteria",
    "cost",
    "errors.py",
    "explain",
    "export",
    "graph",
    "latency",
    "integrations",
    "methods",
    "models",
    "pipeline",
    "report",
    "results.py",
    "solve",
    "surgery",
    "sweeps",
    "tasks",
    "testing",
    "train",
)
"""Files and folders whose public docstrings keep the rules; add one when you have read it."""

PHRASES = re.compile(r"\b(by chance|in turns|anew|shares? of|go on with|goes on with)\b", re.IGNORECASE)
"""Words for which the field has a plainer one: at random, alternately, again, fraction, continue."""

FRAGMENT = re.compile(r"^\s+\*{0,2}\w+( \([^)]*\))?: (of|that|where|whose|from which)\b")
"""An entry under `Args` that begins in the middle of a sentence."""


def docstrings(source: str) -> Iterator[tuple[str, str]]:
    """Name and text of each docstring of a module, its public functions and classes, and their public methods."""

    def visit(node: ast.Module | ast.ClassDef | ast.FunctionDef, name: str) -> Iterator[tuple[str, str]]:
        text = ast.get_docstring(node)
        if text:
            yield name, text
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
                yield from visit(child, child.name)

    return visit(ast.parse(source), "module")


def faults(text: str) -> list[str]:
    """The places of a docstring that break a rule."""
    found = [match.group() for match in PHRASES.finditer(" ".join(text.split()))]
    inside = False
    for line in text.splitlines():
        inside = line.strip() == "Args:" or (inside and (not line.strip() or line.startswith(" ")))
        if inside and FRAGMENT.match(line) and not line.startswith(" " * 5):
            found.append(line.strip())
    return found


@pytest.mark.parametrize("room", READ)
def test_public_docstrings_are_whole_sentences_in_the_fields_words(room: str) -> None:
    path = PACKAGE / room
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    assert path.exists(), f"{room}: there is no such file; correct the list READ"
    found = {
        f"{file.relative_to(PACKAGE)}: {name}": faults(text)
        for file in files
        for name, text in docstrings(file.read_text(encoding="utf-8"))
    }
    assert not {name: each for name, each in found.items() if each}


def test_the_rules_find_what_they_are_for() -> None:
    text = "Choose channels by chance.\n\nArgs:\n    seed: of the draw.\n    keep: a share of it."
    assert faults(text) == ["by chance", "share of", "seed: of the draw."]
    assert faults("Choose channels at random.\n\nArgs:\n    keep: fraction of the channels.") == []
