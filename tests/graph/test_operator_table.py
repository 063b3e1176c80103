"""What is known of an operator by its name is written once: in `graph/operators.py`, or at its own rule."""

from __future__ import annotations

import ast
import collections
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import edakari
from edakari.graph.operators import ROWS, Trait, having, mixed_by, named
from edakari.graph.rules import RULES
from edakari.surgery.masked_reads import READS

ROOT = Path(edakari.__file__).parent
TABLE = ROOT / "graph" / "operators.py"
NEWEST = (2, 15)
"""The torch that has all operators of the table; older ones lack some."""


def literals(path: Path) -> Iterator[tuple[str, bool]]:
    """The pieces of text in a file's code, and whether each is part of a text that is put together."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    pieces = {
        id(piece)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr | ast.BinOp)
        for piece in ast.iter_child_nodes(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value, id(node) in pieces


def test_no_name_of_an_operator_is_written_in_two_files() -> None:
    files: dict[str, set[str]] = collections.defaultdict(set)
    for path in ROOT.rglob("*.py"):
        for text, _ in literals(path) if path != TABLE else ():
            for name in re.findall(r"\baten\.\w+", text):
                files[name].add(str(path.relative_to(ROOT)))
    twice = {name: sorted(found) for name, found in files.items() if len(found) > 1}
    assert not twice, f"give them a row in graph/operators.py, and take its family from there: {twice}"
    assert "aten.index_put" in files


def test_names_of_operators_are_put_together_in_the_table_only() -> None:
    rules = {"rules_index.py"}  # families that nobody else asks for
    found = {
        path.name
        for path in ROOT.rglob("*.py")
        for text, is_piece in literals(path)
        if is_piece and text.startswith("aten.")
    }
    assert found - {TABLE.name} == rules


def test_no_other_file_lists_operators_without_their_namespace() -> None:
    known = {name.removeprefix("aten.") for name in ROWS}
    listed = {
        path.name
        for path in ROOT.rglob("*.py")
        for text, _ in literals(path)
        if path != TABLE and len(text.split()) >= 5 and known.issuperset(text.split())
    }
    # those that a runtime has a layer for, by what the layer is called
    assert listed == {"layers.py"}


def test_an_operator_has_one_row() -> None:
    rows = {id(row): row for row in ROWS.values()}.values()
    assert sum(len(row.names) for row in rows) == len(ROWS)
    assert {name for row in rows for name in row.names} == set(ROWS)


def test_rows_are_of_operators_that_torch_has() -> None:
    names = [name.removeprefix("aten.") for name in ROWS if name.startswith("aten.")]
    missing = [name for name in names if not hasattr(torch.ops.aten, name)]
    assert not missing or tuple(map(int, torch.__version__.split(".")[:2])) < NEWEST, missing


def test_a_family_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError, match="no family 'convolutions'"):
        named("convolutions")


def test_what_the_masked_twin_looks_at_has_a_rule_and_a_row() -> None:
    whole = {name for name in READS if "." not in name}
    assert set(READS) - whole <= {*RULES, *named("multiplication")}
    assert set(READS) <= set(ROWS)


def test_traits_agree_with_families() -> None:
    for family in ("view", "transposition", "expand"):
        assert set(named(family)) <= having(Trait.VIEW) & having(Trait.MOVES) & having(Trait.ZEROS) & having(Trait.FREE)
    multiplying = {name for name in ROWS if mixed_by(name) in ("channels", "inner")}
    assert having(Trait.LAYER) - {"linear", "aten.linear"} < multiplying
