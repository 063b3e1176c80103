"""The smallest budget that keeps to a loss: found on curves whose answer is known, and in runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given

import edakari
from edakari.core.budget import Budget
from edakari.errors import BudgetError, DataError, RecipeError, RunFolderError, SweepError
from edakari.pipeline import recipe_from
from edakari.pipeline.checking import check_recipe
from edakari.pipeline.smallest import Search, smallest

LEAST = 0.03


@given(
    st.floats(2, 40), st.floats(1, 5), st.floats(0.3, 3), st.floats(0, 2), st.floats(0, 2),
)  # fmt: skip
def test_it_keeps_to_the_loss_and_is_small(steep: float, power: float, limit: float, gap: float, more: float) -> None:
    tried: list[bool] = []

    def long_loss(fraction: float) -> float:
        return steep * (1 - fraction) ** power

    def attempt(fraction: float, long: bool) -> float | None:
        tried.append(long)
        if fraction < LEAST:
            return None
        loss = long_loss(fraction)
        return loss if long else loss * (1 + more) + gap * (1 - fraction)

    best = max(1 - (limit / steep) ** (1 / power), LEAST) if steep > limit else LEAST
    assume(0.1 < best < 0.95)
    found = smallest(Search(limit, long=20), attempt)
    assert long_loss(found.fraction) <= limit
    assert found.fraction <= best * 1.05
    assert [each.long for each in found.attempts] == tried
    assert sum(tried) <= 12


def test_a_search_ends_where_every_budget_is_good_enough() -> None:
    found = smallest(Search(1.0), lambda fraction, long: 0.0 if fraction > LEAST else None)
    assert found.fraction < 0.2
    assert sum(each.long for each in found.attempts) <= Search(1.0).long


def test_a_loss_that_nothing_keeps_to_names_the_nearest() -> None:
    with pytest.raises(
        SweepError, match=r"loses at most 0\.1; the nearest is (8|9)\d\.\d % of the cost, which loses 2\."
    ):
        smallest(Search(0.1), lambda fraction, long: 2.0 + (1 - fraction))
    with pytest.raises(SweepError, match="no network has so small a cost"):
        smallest(Search(0.1), lambda fraction, long: None)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("top1_drop<=1", "macs<=100%, top1_drop<=1"),
        ("latency<=12ms, top1_drop<=0.5", "latency<=12ms, top1_drop<=0.5"),
        ("top1_drop <= 1 points, params<=8M", "params<=8e+06, top1_drop<=1"),
    ],
)
def test_such_budgets_are_read(text: str, parsed: str) -> None:
    budget = Budget.parse(text)
    assert str(budget) == parsed
    assert Budget.parse(str(budget)) == budget
    with pytest.raises(BudgetError, match="limits 'drop' twice"):
        Budget.parse(f"{text}, map_drop<=1")


@pytest.fixture
def short(content: dict[str, Any]) -> dict[str, Any]:
    """A recipe in which nothing is timed."""
    content.pop("measure")
    return {**content, "finetune": {"epochs": 4, "lr": 0.05}, "budget": "top1_drop<=20"}


def test_a_run_finds_the_smallest_network(short: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    said: list[str] = []

    def notify(stage: str, state: str, found: Any) -> None:
        if stage == "search":
            said.append(found["stage"])

    found = edakari.run(recipe_from(short), folder, notify=notify)
    dense, last = (found.report["networks"][index]["metrics"]["top1"] for index in (0, -1))
    assert (dense - last) * 100 <= 20
    assert found.report["recipe"]["finetune"]["epochs"] == 4
    assert found.costs["macs"] < found.report["networks"][0]["costs"]["macs"]
    assert any("1 epoch" in line for line in said)
    assert any("4 epochs" in line for line in said)
    done = len(said)
    again = edakari.run(recipe_from(short), folder, notify=notify)
    assert not again.fresh
    assert len(said) == done
    assert again.plan == found.plan


def test_what_such_a_budget_needs_is_told_at_once(short: dict[str, Any], tmp_path: Path) -> None:
    from edakari.testing import ToyTask, toy_cnn

    assert check_recipe(recipe_from(short)).limits["macs"] > 0
    with pytest.raises(DataError, match="a limit on what a metric loses cannot do without data"):
        edakari.prune(toy_cnn(), ToyTask().example(), "top1_drop<=1")
    model, example = toy_cnn(), ToyTask().example()
    graph = edakari.trace(model, example)
    with pytest.raises(BudgetError, match=r"edakari\.prune with a task"):
        edakari.allocate(graph, edakari.criteria.Magnitude().score(model, graph), "top1_drop<=1")
    with pytest.raises(RecipeError, match=r"'map' is no metric of the task; known: .*top1"):
        edakari.run(recipe_from({**short, "budget": "map_drop<=1"}), tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(RunFolderError, match="holds no result of this search"):
        edakari.run(recipe_from(short), tmp_path / "mine")


def test_shared_results_are_those_of_runs_alone(short: dict[str, Any], tmp_path: Path) -> None:
    content = {**short, "method": "taylor", "finetune": {"epochs": 1, "lr": 0.05}}
    for seed in (0, 1):
        for budget in ("macs<=60%", "macs<=40%"):
            recipe = recipe_from({**content, "seed": seed, "budget": budget})
            common = edakari.run(recipe, tmp_path / f"{seed}{budget}", shared=tmp_path / "shared")
            alone = edakari.run(recipe, tmp_path / f"{seed}{budget}-alone")
            assert common.plan == alone.plan
            assert common.report["networks"] == alone.report["networks"]
    made = sorted(path.name.partition("-")[0] for path in (tmp_path / "shared").iterdir() if path.suffix != ".lock")
    assert made == ["DenseResult", "scores", "scores"]  # one evaluation, and scores for each seed


def test_given_networks_and_tasks_are_searched_in_memory() -> None:
    from edakari.testing import ToyTask, toy_cnn

    found = edakari.prune(toy_cnn(), ToyTask(), "accuracy_drop<=100", finetune=None)
    assert found.folder is None
    assert found.costs["macs"] < found.report["networks"][0]["costs"]["macs"]
