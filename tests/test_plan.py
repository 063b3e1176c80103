"""The page that plans runs: its tables are those of the formula, and work is divided as evenly as whole jobs allow."""

from __future__ import annotations

import dataclasses as dc
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """The benchmark and its page as modules."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import plan
    import plan_page

    yield plan, plan_page
    for name in ("plan", "plan_page", "core", "records"):
        sys.modules.pop(name, None)


def test_the_tables_of_the_page_are_those_of_the_formula(plans: tuple[Any, Any]) -> None:
    plan, page = plans
    text, measured = (ROOT / "docs" / "explanation" / "planning.md").read_text(encoding="utf-8"), page.loaded()
    assert page.times(plan.Machine(), measured) in text
    assert page.balance(measured) in text


def test_a_phase_takes_what_limits_it(plans: tuple[Any, Any]) -> None:
    plan, _ = plans
    machine = plan.Machine(gpus=2, macs_per_second=10.0, cores=4, images_per_core=5.0)
    phase = plan.Phase("some", images=100, macs=4, decoded=100, waiting=3)
    assert phase.seconds(machine) == {"GPUs": 20, "loading": 5, "waiting": 3}
    assert phase.total(machine) == 23
    assert dc.replace(phase, everywhere=True).seconds(machine)["loading"] == 10
    assert phase.total(dc.replace(machine, gpus=4)) == 13
    assert phase.total(dc.replace(machine, cores=1)) == 23
    assert phase.total(dc.replace(machine, cores=1, images_per_core=1.0)) == 103
    # 3 whole batches on 2 processes: one of them has 2
    assert dc.replace(phase, part=plan.largest_part([3])).seconds(machine)["GPUs"] == pytest.approx(
        100 * 4 * 2 / 3 / 10
    )


def test_no_process_has_more_than_one_job_above_the_mean(plans: tuple[Any, Any]) -> None:
    plan, page = plans
    steps = [count * 8 for count in page.loaded()["counted"]["ekg"].searched]
    for world, jobs in itertools.product(range(1, 65), (steps, [8], [16], [25])):
        wanted = sum(-(-count // world) for count in jobs) / sum(jobs)
        assert plan.largest_part(jobs)(world) == pytest.approx(wanted)
        assert plan.largest_part(jobs)(world) * world < 1 + world * len(jobs) / sum(jobs)
