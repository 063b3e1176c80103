"""What graphs, plans and scores print as."""

from __future__ import annotations

import re

import pytest
import timm
import torch

import edakari
from edakari.core.plan import DropBranch, KeepChannels, KeepTokens, MaskWeights, Plan
from edakari.core.tables import Table
from edakari.cost import dense
from edakari.testing import toy_cnn, toy_vit


@pytest.mark.parametrize("make", [toy_cnn, toy_vit, lambda: timm.create_model("resnet50", num_classes=3)])
def test_a_graph_prints_as_a_table_with_its_costs(make) -> None:
    x = torch.zeros(1, 3, 16, 16)
    graph = edakari.trace(make(), x)
    text = repr(graph)
    lines = text.splitlines()
    assert len(lines) <= 16
    assert max(map(len, lines)) <= 100
    assert "[1, 3, 16, 16]" in text
    for word, cost in (("parameters", "params"), ("MACs", "macs")):
        number, suffix = re.search(rf"{word}: +([\d.]+) ?([kMG]?)", text).groups()
        scale = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[suffix]
        assert float(number) * scale == pytest.approx(dense(graph)[cost], rel=6e-3)
    for group in sorted(graph.groups, key=lambda group: -group.size)[:6]:
        assert re.search(rf"{re.escape(group.name)} +{group.kind} +{group.size} ", text)
    assert graph._repr_html_().count("<tr>") == 1 + min(6, len(graph.groups))


def test_inputs_of_all_forms_are_readable() -> None:
    graph = edakari.trace(toy_cnn(), torch.zeros(1, 3, 16, 16))
    forms = {
        "tokens: [1, 7] int64, scale: 2.0": {
            "dict": {"tokens": {"tensor": [[1, 7], "int64"]}, "scale": {"value": 2.0}}
        },
        "[1, 3]; None": {"tuple": [{"tensor": [[1, 3], "float32"]}, {"value": None}]},
    }
    for text, inputs in forms.items():
        assert text in repr(Plan((), graph.fingerprint, inputs))


def test_a_plan_prints_what_stays() -> None:
    edits = (
        KeepChannels("conv<1>", tuple(range(0, 40, 2))),
        KeepTokens("blocks.3", 98, "tome"),
        DropBranch("block:branch"),
        MaskWeights("fc.weight", "0" * 64, (10, 512), 512),
    )
    text = repr(Plan(edits, "f" * 64, {"tensor": [[1, 3, 8, 8], "float32"]}, "magnitude"))
    assert text.startswith("Plan of 4 edits by magnitude")
    assert re.search(r"conv<1> +20  0, 2, 4, 6, 8, 10, 12, 14, …", text)
    assert re.search(r"drop branch +block:branch +0$", text, re.MULTILINE)
    assert re.search(r"mask weights +fc.weight +512  of 5,120 weights$", text, re.MULTILINE)
    assert "conv&lt;1&gt;" in Plan(edits, "f" * 64, None)._repr_html_()
    assert "and 14 more edits" in repr(Plan(edits * 5, "f" * 64, None))
    assert "no edits" not in repr(Plan((), "f" * 64, None))


def test_scores_are_a_dict_that_prints_its_ranges() -> None:
    model = toy_cnn()
    scores = edakari.criteria.Magnitude().score(model, edakari.trace(model, torch.zeros(1, 3, 16, 16)))
    assert isinstance(scores, dict)
    assert scores == dict(scores)
    text = repr(scores)
    assert len(text.splitlines()) == 2 + len(scores)
    for name, score in scores.items():
        smallest, largest = f"{float(score.min()):.3g}", f"{float(score.max()):.3g}"
        assert re.search(rf"{re.escape(name)} +{len(score)} +{smallest} .* {largest}$", text, re.MULTILINE)
    assert scores._repr_html_().count("<tr>") == 1 + len(scores)


def test_columns_are_aligned() -> None:
    table = Table("T", (("long name", "1"), ("n", "2")), ("a", "b"), (("x", "1"), ("yyyy", "12,345")), "more")
    assert table.text().splitlines() == [
        "T",
        "  long name:  1",
        "  n:          2",
        "  a          b",
        "  x          1",
        "  yyyy  12,345",
        "  more",
    ]
