"""RFC and DLRFC: the loop's logic by the specification, and the whole method on toy networks."""

from __future__ import annotations

import dataclasses as dc
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edakari.core.method import Job
from edakari.core.space import Group
from edakari.cost import bind
from edakari.criteria import FeatureDiscrimination, ResponseSettings
from edakari.errors import DataError, EdakariError, InfeasibleBudget, RunFolderError
from edakari.methods.redundancy import trials as trials_module
from edakari.methods.redundancy.paired import Answers, Change, answers_of, change_between
from edakari.methods.redundancy.steps import step_down
from edakari.methods.redundancy.trial_settings import TrialSettings
from edakari.methods.redundancy.trials import redundancy
from edakari.methods.rfc import DistinguishingLayerPruning
from edakari.methods.score import ScorePruning
from edakari.surgery import apply
from edakari.testing import ToyTask, check_method, toy_cnn, toy_job, toy_vit

QUICK = DistinguishingLayerPruning(
    criterion=FeatureDiscrimination(responses=ResponseSettings(top=0.25)), trial=TrialSettings(recovery_epochs=0)
)
Stub = Callable[[Mapping[str, int]], Change]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Stub], list[dict[str, int]]]:
    """Trials that are not run: what they change is said, and what was tried is noted."""

    def use(said: Stub) -> list[dict[str, int]]:
        tried: list[dict[str, int]] = []

        def change(self: Any, sizes: Mapping[str, int]) -> Change:
            key = tuple(sorted(sizes.items()))
            if key not in self._changes:
                tried.append(dict(sizes))
                self._changes[key] = said(sizes)
            found: Change = self._changes[key]
            return found

        monkeypatch.setattr(trials_module.Trials, "_change", change)
        return tried

    return use


def trying(**settings: Any) -> DistinguishingLayerPruning:
    return dc.replace(QUICK, trial=dc.replace(QUICK.trial, **settings))


def by_rfc(top: int | float = 0.25, **settings: Any) -> ScorePruning:
    return ScorePruning(criterion=FeatureDiscrimination(responses=ResponseSettings(top=top)), **settings)


def logged(job: Job) -> tuple[Job, list[dict[str, float]]]:
    entries: list[dict[str, float]] = []
    return dc.replace(job, log=lambda stage, figures: entries.append(dict(figures))), entries


def test_rfc_keeps_every_promise() -> None:
    check_method(by_rfc(top=0.25))


def test_dlrfc_keeps_every_promise() -> None:
    check_method(QUICK, networks=[toy_cnn()])


def test_dlrfc_prunes_a_transformer() -> None:
    job = toy_job(toy_vit())
    outcome = QUICK.prune(job)
    limits = bind(job.budget, job.graph)
    assert -0.05 <= limits.excess(outcome.plan.sizes()) <= 0


def test_redundancy_by_the_formula() -> None:
    assert redundancy(Change(0.125, 0.0, 0.0), 0.8) == 0.1
    assert redundancy(Change(1.25, 0.0, 0.0), 0.8, 0.1) == pytest.approx(0.1)
    assert redundancy(Change(0.0, 0.5, 0.0), 0.8) == pytest.approx(0.1)
    assert redundancy(Change(0.0, 0.5, 0.0), 0.8, soft="off") == 0.0
    assert redundancy(Change(-1.0, 0.0, 0.0), 0.8) < 0


@pytest.mark.parametrize(
    ("width", "blocks", "wanted"),
    [(256, 3, 212), (512, 4, 447), (1024, 6, 937), (2048, 3, 1705), (64, 0, 32), (32, 0, 16)],
)
def test_steps_at_one_half(width: int, blocks: int, wanted: int) -> None:
    assert step_down(Group("g", "channel", width), width, 0.5, blocks) == wanted


def test_steps_are_legal_and_end_at_the_least() -> None:
    group = Group("g", "channel", 64, step=8, least=16)
    assert step_down(group, 64, 0.5) == 32
    assert step_down(group, 64, 0.001) == 56
    assert step_down(group, 16, 0.5) is None
    assert step_down(Group("g", "channel", 64), 64, 0.001) == 63
    assert step_down(Group("g", "channel", 64), 64, 0.001, blocks=4) == 63
    # a stream of three blocks at a half, a quarter, ...: more than one filter, and then one
    assert [step_down(Group("g", "channel", 24), 24, 2.0**-k, 3) for k in range(1, 7)] == [19, 21, 22, 23, 23, 23]


def test_where_nothing_passes_steps_are_halved_down_to_one_filter(stub: Any) -> None:
    tried = stub(lambda sizes: Change(50.0, 0.0, 0.0))
    with pytest.raises(InfeasibleBudget, match="no group can be cut within tolerance"):
        trying(stalled="stop", residual_weight=1.0).prune(toy_job(toy_cnn()))
    widths = list(dict.fromkeys(sizes["first.0"] for sizes in tried if "first.0" in sizes))
    assert widths == [12, 18, 21, 22, 23]  # of 24: a half, a quarter, an eighth, a sixteenth, one


def test_where_nothing_passes_the_tolerance_is_doubled(stub: Any) -> None:
    stub(lambda sizes: Change(0.3, 0.0, 0.0))
    job, entries = logged(toy_job(toy_cnn()))
    trying(residual_weight=1.0).prune(job)
    assert {entry["tolerance"] for entry in entries} == {0.4}


def test_where_everything_passes_all_groups_shrink_until_the_budget(stub: Any) -> None:
    stub(lambda sizes: Change(0.0, 0.0, 0.0))
    job, entries = logged(toy_job(toy_cnn(), "macs<=30%"))
    outcome = QUICK.prune(job)
    assert entries[0]["phase"] == 0  # the residual stream comes first
    assert entries[-1]["phase"] == 1
    limit = job.budget.terms[0].limit
    dense = bind(job.budget, job.graph).terms[0][0].total({})
    first = [entry["macs"] for entry in entries if entry["phase"] == 0]
    streams_end = dense - 0.4 * (dense - limit)
    assert all(macs > streams_end for macs in first[:-1])
    assert first[-1] <= streams_end
    assert all(entry["macs"] > limit for entry in entries[:-1])
    assert 0.97 * limit <= entries[-1]["macs"] <= limit
    assert outcome.plan.sizes()


def test_inner_groups_halve_and_halve_again(stub: Any) -> None:
    stub(lambda sizes: Change(0.0 if "first.0" in sizes else 99.0, 0.0, 0.0))
    job, entries = logged(toy_job(toy_cnn(), "macs<=85%"))
    outcome = trying(residual_weight=1.0).prune(job)
    assert list(outcome.plan.sizes()) == ["first.0"]
    assert {entry["phase"] for entry in entries} == {1}


def test_of_groups_that_do_not_go_together_the_best_half_goes(stub: Any) -> None:
    def said(sizes: Mapping[str, int]) -> Change:
        return Change(0.01 * len(next(iter(sizes))) if len(sizes) == 1 else 5.0 * (len(sizes) - 2), 0.0, 0.0)

    stub(said)
    job, entries = logged(toy_job(toy_cnn()))
    trying(joint=True, tolerance=1.0).prune(job)
    assert max(entry["groups"] for entry in entries[:-1]) <= 2


def test_paired_changes() -> None:
    labels, shares = torch.tensor([0, 1, 1, 0]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    before = Answers(labels, torch.tensor([0, 1, 1, 1]), shares)
    after = Answers(labels, torch.tensor([0, 0, 0, 0]), shares.flip(1))
    assert change_between(before, after) == Change(25.0, 1.0, 0.75)
    assert change_between(before, before) == Change(0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("outputs", "labels", "predicted"),
    [
        (torch.tensor([[2.0, -1.0], [-1.0, -2.0]]), torch.tensor([[1, 0], [1, 1]]), [[1, 0], [0, 0]]),
        (torch.tensor([[2.0], [-1.0]]), torch.tensor([1, 0]), [1, 0]),
        (torch.tensor([[[[2.0, 0.0]], [[1.0, 3.0]]]]), torch.tensor([[[0, 1]]]), [[[0, 1]]]),
    ],
)
def test_answers_of_all_forms(outputs: torch.Tensor, labels: torch.Tensor, predicted: list[Any]) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return outputs

    class Task(ToyTask):
        def outputs(self, model: nn.Module, batch: Any) -> torch.Tensor:
            found: torch.Tensor = model(batch[0])
            return found

    found = answers_of(Fixed(), [(torch.zeros(len(labels), 1), labels)], Task(), 10)
    assert found.predicted.tolist() == predicted
    assert found.probabilities.shape == (len(labels), 2)


class Cut(Exception):
    """The power goes."""


def test_an_interrupted_pruning_goes_on_after_its_last_round(tmp_path: Path) -> None:
    method = trying(recovery_epochs=1, recovery_lr=0.01, inner_step=0.2)
    whole = method.prune(toy_job(toy_cnn(), "macs<=25%"))
    fits: list[int] = []

    def job(most: int) -> Job:
        made = toy_job(toy_cnn(), "macs<=25%")

        def fit(model: nn.Module, *rest: Any, **options: Any) -> None:
            if most and len(fits) == most:
                raise Cut
            fits.append(1)
            made.fit(model, *rest, **options)

        return dc.replace(made, fit=fit, folder=tmp_path)

    with pytest.raises(Cut):
        method.prune(job(1))
    stored = json.loads((tmp_path / "rounds.json").read_text())["rounds"]
    assert len(stored) == 2
    asked: list[str] = []
    resumed = method.prune(dc.replace(job(0), task=Counting(asked)))
    assert resumed.plan == whole.plan
    # the trainings of finished rounds are asked for again, which the pipeline's fit loads; scores and trials are not
    alone: list[str] = []
    method.prune(dc.replace(toy_job(toy_cnn(), "macs<=25%"), task=Counting(alone)))
    assert asked.count("calibration") < alone.count("calibration")
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value)
    with pytest.raises(RunFolderError, match="other settings"):
        trying(recovery_epochs=1, recovery_lr=0.01, inner_step=0.2, tolerance=0.2).prune(job(0))
    (tmp_path / "rounds.json").write_text("{")
    with pytest.raises(RunFolderError, match="cannot be read"):
        method.prune(job(0))


@dc.dataclass(frozen=True)
class Counting(ToyTask):
    """Notes how often data is asked for."""

    asked: list[str] = dc.field(default_factory=list)

    def __init__(self, asked: list[str]) -> None:
        super().__init__()
        object.__setattr__(self, "asked", asked)

    def batches(self, split: Any) -> Any:
        self.asked.append(split)
        return super().batches(split)


def test_the_last_allocation_is_settled_by_measurement() -> None:
    job = toy_job(toy_cnn(), "latency<=60%")
    asked: list[float] = []

    def meet_budget(solve: Any, costs: Any, before: Any = None) -> Any:
        first = solve(costs)
        dearer = [dc.replace(cost, constant=cost.constant) if hasattr(cost, "constant") else cost for cost in costs]
        asked.append(costs[0].total(before.then(first).sizes()))
        return solve(dearer)

    outcome = QUICK.prune(dc.replace(job, loop=meet_budget))
    assert len(asked) == 1
    assert job.costs[0].total(outcome.plan.sizes()) <= job.budget.terms[0].limit


def test_a_budget_that_cannot_be_reached_is_said_before_anything_runs() -> None:
    with pytest.raises(InfeasibleBudget):
        QUICK.prune(toy_job(toy_cnn(), "macs<=0.1%"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tolerance": 0.0}, "tolerance must be above 0"),
        ({"accuracy_weight": 1.5}, "accuracy_weight must be at least 0 and at most 1"),
        ({"inner_step": 0.0}, "inner_step must be above 0 and at most 1"),
        ({"images": 0}, "images must be at least 1 or None"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(EdakariError, match=says):
        trying(**settings).prune(toy_job(toy_cnn()))


@pytest.mark.parametrize("top", [0, 0.0, 1.5, -3])
def test_how_many_count(top: float) -> None:
    with pytest.raises(EdakariError, match="top"):
        by_rfc(top=top).prune(toy_job(toy_cnn()))


def test_fewer_images_than_count() -> None:
    with pytest.raises(DataError, match="there are 64 images"):
        by_rfc(top=65).prune(toy_job(toy_cnn()))


def test_all_members_of_a_stream_lose_the_same_channels() -> None:
    job = toy_job(toy_cnn())
    outcome = by_rfc(top=0.25, allocator="uniform").prune(job)
    kept = next(edit.indices for edit in outcome.plan.edits if edit.group == "stem.0")
    small, dense = apply(job.model, outcome.plan), dict(job.model.named_parameters())
    for name in ("stem.0.weight", "second.0.weight"):
        rows = dense[name][list(kept)]
        other = small.get_parameter(name)
        assert other.shape[0] == rows.shape[0] == len(kept)
    torch.testing.assert_close(small.get_parameter("stem.0.weight"), dense["stem.0.weight"][list(kept)])


def test_a_residual_stream_may_lose_more_accuracy_than_an_inner_group(stub: Any) -> None:
    stub(lambda sizes: Change(1.0, 0.0, 0.0))  # 0.8 of it count, and 0.08 in streams; 0.2 are tolerated
    job, entries = logged(toy_job(toy_cnn()))
    outcome = trying(stalled="stop").prune(job)
    assert set(outcome.plan.sizes()) == {"stem.0"}
    assert all(entry["redundancy"] == pytest.approx(0.08) for entry in entries)


def test_after_a_cut_trials_are_compared_with_the_cut_network(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    references: list[tuple[Answers, int]] = []

    def answers(model: nn.Module, *rest: Any) -> Answers:
        asked.append(sum(p.numel() for p in model.parameters()))
        return answers_of(model, *rest)

    def between(reference: Answers, trial: Answers) -> Change:
        if not any(reference is known for known, _ in references):
            # the reference is asked for just before the first trial that is compared with it
            references.append((reference, asked[-2]))
        return change_between(reference, trial)

    monkeypatch.setattr(trials_module, "answers_of", answers)
    monkeypatch.setattr(trials_module, "change_between", between)
    job, entries = logged(toy_job(toy_cnn(), "macs<=30%"))
    trying(tolerance=100.0).prune(job)
    sizes = [size for _, size in references]
    assert len(sizes) == len(entries)
    assert sizes[0] == sum(p.numel() for p in job.model.parameters())
    assert sizes == sorted(set(sizes), reverse=True)


def test_a_halved_step_stays_halved_after_a_cut(stub: Any) -> None:
    passing: list[int] = []

    def said(sizes: Mapping[str, int]) -> Change:
        passing.append(1)
        return Change(99.0 if len(passing) <= REFUSED else 0.0, 0.0, 0.0)

    stub(said)
    job, entries = logged(toy_job(toy_cnn(), "macs<=85%"))
    groups = len(job.groups)
    REFUSED = 2 * groups
    trying(residual_weight=1.0, residual_share=0.0).prune(job)
    inner = [entry for entry in entries if entry["phase"] == 1]
    assert len(inner) > 1
    assert {entry["step"] for entry in inner} == {inner[0]["step"]}
    assert inner[0]["step"] < QUICK.trial.inner_step
