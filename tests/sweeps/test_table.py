"""Rows of a comparison: which runs belong together, which setting is better, and which lies on a front."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from edakari.sweeps.entries import Entry, flattened
from edakari.sweeps.table import Failure, results_of
from edakari.sweeps.writing import content_of, markdown, write_results


def entry(seed: int = 0, top1: float = 0.9, macs: float = 50.0, examples: int = 100, **settings: Any) -> Entry:
    return Entry(
        folder=f"runs/{seed}-{top1}-{macs}",
        settings={"method": "taylor", "budget": "macs<=50%", "measure.repeats": seed, **settings, "seed": seed},
        budget=str(settings.get("budget", "macs<=50%")),
        seed=seed,
        metric="top1",
        metrics={"top1": top1},
        dense={"top1": 0.95},
        costs={"macs": macs, "params": macs * 2},
        dense_costs={"macs": 100.0, "params": 200.0},
        examples=examples,
        seconds=1.0,
        random=False,
    )


def test_runs_that_differ_by_their_seed_alone_are_one_row() -> None:
    runs = [
        entry(seed, top1=0.8 + seed / 100 + (method == "taylor") / 50, method=method)
        for method in ("taylor", "random")
        for seed in (0, 1, 2)
    ]
    found = results_of("x", runs)
    assert found.keys == ("method",)
    assert [(row.name, len(row.entries)) for row in found.rows] == [("taylor", 3), ("random", 3)]
    best, other = found.rows
    assert best.against_best is None
    assert other.against_best is not None
    assert other.against_best.mean == pytest.approx(-0.02)
    assert other.against_best.within_noise is False  # the seeds' own spread cancels in pairs
    assert best.drop is not None
    assert best.drop.mean == pytest.approx(0.95 - 0.83)


def test_a_difference_that_changes_its_sign_with_the_seed_is_noise() -> None:
    runs = [entry(seed, 0.9, method="a") for seed in (0, 1)]
    found = results_of("x", [*runs, entry(0, 0.91, method="b"), entry(1, 0.888, method="b")])
    assert [row.against_best.within_noise for row in found.rows if row.against_best] == [True]
    assert "≈" in markdown(found)


def test_settings_are_compared_within_their_budget() -> None:
    budgets = ("macs<=50%", "macs<=30%")
    runs = [entry(0, 0.9 - index / 10, method=name, budget=budget, macs=50 - 20 * index)
            for index, budget in enumerate(budgets) for name in ("a", "b")]  # fmt: skip
    found = results_of("x", runs)
    assert {row.budget for row in found.rows if row.against_best is None} == set(budgets)
    assert [row.budget for row in found.rows if row.against_best is not None] == list(budgets)


def test_settings_that_follow_from_others_tell_no_rows_apart() -> None:
    runs = [entry(0, method=name, **{"method.iterations": count}) for name, count in (("a", 1), ("b", 2))]
    assert results_of("x", runs).keys == ("method",)


def test_other_numbers_of_images_are_marked() -> None:
    found = results_of("x", [entry(0, 0.9, method="a"), entry(0, 0.8, method="b", examples=200)])
    assert [row.fair for row in found.rows] == [True, False]
    assert "†" in markdown(found)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5)), min_size=1, max_size=8))
def test_the_front_holds_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    runs = [entry(0, top / 10, float(macs), method=f"m{index}") for index, (top, macs) in enumerate(points)]
    found = results_of("x", runs, keys=["method"])
    for row in found.rows:
        top, macs = points[int(row.name[1:])]
        beaten = any(t >= top and m <= macs and (t, m) != (top, macs) for t, m in points)
        assert ("macs" in row.front) == (not beaten)


def test_files_hold_the_same_numbers(tmp_path: Path) -> None:
    runs = [entry(seed, 0.8 + seed / 100, method=name) for name in ("a", "b|c") for seed in (0, 1)]
    found = results_of("x", runs, failures=[Failure("method=<d>", "it broke")], missing=1)
    page = write_results(found, tmp_path).read_text()
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored == json.loads(json.dumps(content_of(found, tmp_path)))
    lines = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    assert [(line["method"], float(line["top1"])) for line in lines] == [
        (row.name, each.metrics["top1"]) for row in found.rows for each in row.entries
    ]
    table = (tmp_path / "results.md").read_text().splitlines()
    assert {line.count("|") for line in table if line.startswith("|")} == {len(table[2].split("|")) - 1}
    assert "method=&lt;d&gt;" in page
    assert "<d>" not in page
    for row in stored["rows"]:
        for run in row["runs"]:
            assert f'href="{run["folder"]}/report.html"' in page


def test_a_page_of_a_hundred_runs_is_small(tmp_path: Path) -> None:
    runs = [
        entry(seed, 0.5 + (seed * 7 + index) % 40 / 100, 20.0 + index, method=f"m{index}")
        for index in range(20)
        for seed in range(5)
    ]
    page = write_results(results_of("hundred", runs), tmp_path).read_text()
    assert page.count('<polyline class="run') == 100
    assert len(page) < 400_000  # self-contained, and nothing for a browser to wait for
    assert "src=" not in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_recipes_become_dotted_keys() -> None:
    found = flattened({"method": {"name": "score", "criterion": {"name": "taylor", "max_batches": 2}}, "data": {}})
    assert found == {
        "method": "score", "method.criterion": "taylor", "method.criterion.max_batches": 2, "data": {},
    }  # fmt: skip
