"""The rounds of DLRFC by the numbers of its specification, and what trials are compared by."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from edakari.core.method import Job
from edakari.core.protocols import Schedule
from edakari.core.space import Sizes
from edakari.cost import bind
from edakari.criteria import FeatureDiscrimination, ResponseSettings
from edakari.criteria.discrimination import class_shares
from edakari.criteria.ranking import Strongest
from edakari.criteria.responses import collect_responses
from edakari.errors import DataError, InfeasibleBudget
from edakari.graph import trace
from edakari.methods.redundancy import trials as trials_module
from edakari.methods.redundancy.paired import Answers, Change, answers_of, change_between
from edakari.methods.redundancy.trial_settings import TrialSettings
from edakari.methods.redundancy.trials import Trials
from edakari.methods.rfc import DistinguishingLayerPruning
from edakari.testing import ToyTask, toy_cnn, toy_job
from edakari.train import batch_statistics
from edakari.train.optim import make_optimizer

CRITERION = FeatureDiscrimination(responses=ResponseSettings(top=0.25))


def pruned(job: Job, **settings: Any) -> list[dict[str, float]]:
    """What the rounds log."""
    entries: list[dict[str, float]] = []
    job = dc.replace(job, log=lambda stage, figures: entries.append(dict(figures)))
    trial = TrialSettings(**{"recovery_epochs": 0, **settings})
    DistinguishingLayerPruning(criterion=CRITERION, trial=trial).prune(job)
    return entries


def changing(monkeypatch: pytest.MonkeyPatch, drop: float) -> list[Sizes]:
    """Trials that are not run: all lose as many points; what was tried is noted."""
    tried: list[Sizes] = []

    def change(self: Trials, sizes: Mapping[str, int]) -> Change:
        tried.append(dict(sizes))
        return Change(drop, 0.0, 0.0)

    monkeypatch.setattr(Trials, "_change", change)
    return tried


def test_residual_streams_save_forty_percent_of_what_is_to_be_saved() -> None:
    """4.111 G to 1.954 G: streams stop below 3.248 G, which is 79.0 %."""
    job = toy_job(toy_cnn(), "macs<=47.521%")
    limits = bind(job.budget, job.graph)
    full, scale = 4_111_414_272, 4_111_414_272 / limits.terms[0][0].total({})
    trials = Trials("dlrfc", CRITERION, TrialSettings(), "data", job)
    streams, inner, both = trials._phases()
    (_, first), (_, last) = streams.limits.terms[0], inner.limits.terms[0]
    assert (scale * first, scale * last) == pytest.approx((3.2484e9, 1.9538e9), rel=1e-4)
    assert scale * first == pytest.approx(full - 0.4 * (full - 1_953_761_888), rel=1e-4)
    assert both.limits.terms == inner.limits.terms == limits.terms
    assert {group.name for group in streams.groups} == set(trials.blocks) == {"stem.0"}
    assert [group.name for group in both.groups] == [group.name for group in job.groups]


def test_a_step_of_a_stream_halves_down_to_one_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = changing(monkeypatch, 50.0)
    job = toy_job(toy_cnn())
    (blocks,) = Trials("dlrfc", CRITERION, TrialSettings(), "data", job).blocks.values()
    with pytest.raises(InfeasibleBudget, match="no group can be cut within tolerance"):
        pruned(job, stalled="stop", residual_weight=1.0)
    of_stream = [sizes["stem.0"] for sizes in tried if list(sizes) == ["stem.0"]]
    wanted, step = [], 0.5
    while not wanted or wanted[-1] < 15:  # int(w - (w a / m + 1)) while that removes two filters, and then one
        removed = 16 * step / blocks
        wanted.append(int(16 - (removed + 1)) if removed >= 1 else 15)
        step /= 2
    assert list(dict.fromkeys(of_stream)) == list(dict.fromkeys(wanted))
    assert wanted[-1] == 15


def test_the_training_between_cuts_is_the_authors() -> None:
    asked: list[Schedule] = []
    job = toy_job(toy_cnn(), "macs<=30%")

    def fit(model: nn.Module, objective: Any, schedule: Schedule, **options: Any) -> None:
        asked.append(schedule)

    pruned(dc.replace(job, fit=fit), recovery_epochs=1, tolerance=100.0)
    assert asked
    (schedule,) = set(map(repr, asked))
    found = asked[0]
    assert schedule == repr(TrialSettings().recovery)
    assert [found.lr_curve.rate(found.lr, step, 100, 1) for step in (0, 1, 50, 99)] == [1e-3] * 4
    optimizer = make_optimizer([nn.Parameter(torch.zeros(2, 2))], found)
    assert (found.epochs, optimizer.defaults["momentum"]) == (1, 0.9)
    assert optimizer.param_groups[0]["weight_decay"] == 1e-4


def test_trials_have_fresh_statistics_only_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel that is cut shifts what the next norm sees: its statistics are those of the trial, or stale."""
    means: list[torch.Tensor] = []

    def answers(model: nn.Module, *rest: Any) -> Answers:
        means.append(model.get_submodule("second")[1].running_mean.clone())  # type: ignore[index]
        return answers_of(model, *rest)

    monkeypatch.setattr(trials_module, "answers_of", answers)
    job = toy_job(toy_cnn())
    stale = job.model.get_submodule("second")[1].running_mean.clone()  # type: ignore[index]
    for recalibrate in (False, True):
        means.clear()
        trials = Trials("dlrfc", CRITERION, TrialSettings(images=32, recalibrate=recalibrate), "data", job)
        trials._change({"first.0": 12})
        reference, trial = means  # the network before the cut keeps its own
        assert torch.equal(reference, stale)
        assert torch.equal(trial, stale) != recalibrate
    batches = list(job.task.batches("calibration"))[:2]
    cut = trials_module.apply(job.model, trials._cut_to({"first.0": 12}), job.graph)
    with torch.no_grad(), batch_statistics(cut):
        seen = [cut.second[0](cut.first(cut.stem(images))) for images, _ in batches]
    fresh = torch.stack([each.mean((0, 2, 3)) for each in seen]).mean(0)
    torch.testing.assert_close(means[1], fresh)


# Pixels without a label


def segmented(labels: torch.Tensor, outputs: torch.Tensor) -> Answers:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return outputs

    return answers_of(Fixed(), [(torch.zeros(len(labels), 1), labels)], ToyTask(), 10)


def test_pixels_without_a_label_do_not_count() -> None:
    """As if those pixels were not there: a change of 25 points stays one where half of the pixels are ignored."""
    torch.manual_seed(0)
    before, after = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    labels = torch.randint(0, 3, (2, 4, 4))
    shown = change_between(segmented(labels, before), segmented(labels, after))
    wide = [torch.cat([each, torch.randn(2, 3, 4, 4)], 3) for each in (before, after)]
    ignored = torch.cat([labels, torch.full((2, 4, 4), 255)], 2)
    found = change_between(*(segmented(ignored, each) for each in wide))
    assert dc.astuple(found) == pytest.approx(dc.astuple(shown), abs=1e-6)
    assert shown.accuracy_drop != 0
    ignored[ignored == 255] = -100
    assert change_between(*(segmented(ignored, each) for each in wide)).accuracy_drop == found.accuracy_drop


def test_an_image_without_labels_is_compared_by_all_of_its_pixels() -> None:
    outputs = torch.tensor([[[[5.0, 0.0]], [[0.0, 5.0]]], [[[5.0, 5.0]], [[0.0, 0.0]]]])
    labels = torch.tensor([[[0, 1]], [[255, 255]]])
    first = segmented(labels, outputs)
    assert first.probabilities[1].tolist() == pytest.approx([0.9933, 0.0067], abs=1e-4)
    assert change_between(first, segmented(labels, -outputs)).accuracy_drop == 100.0
    with pytest.raises(DataError, match="no pixel of the trial images has a label"):
        change_between(*[segmented(torch.full((2, 1, 2), 255), outputs)] * 2)


# Networks in float64


def test_a_network_in_double_precision_is_pruned_as_the_same_one_in_single() -> None:
    single, double = (toy_job(toy_cnn(), "macs<=90%") for _ in range(2))
    double.model.double()
    plans = []
    for job in (single, double):
        method = DistinguishingLayerPruning(criterion=CRITERION, trial=TrialSettings(recovery_epochs=0))
        plans.append(method.prune(job).plan)
    assert plans[0] == plans[1]


@pytest.mark.parametrize("reduce", ["l2", "max"])
def test_responses_of_a_network_in_double_precision(reduce: Any) -> None:
    task, model = ToyTask(), toy_cnn()
    graph = trace(model, task.example())
    found = [
        CRITERION.discriminate(
            collect_responses(each, graph, task.batches("calibration"), task, ResponseSettings(top=8, reduce=reduce))
        )
        for each in (model, toy_cnn().double())
    ]
    for single, double in zip(found[0].values(), found[1].values(), strict=True):
        torch.testing.assert_close(single.rfc_entropy, double.rfc_entropy, rtol=0, atol=1e-12)


def test_entropies_are_exact_to_the_digits_by_which_ties_are_read() -> None:
    strongest = Strongest(
        torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0, 1, 2]]), None, torch.ones(1).double(), torch.tensor([False])
    )
    shares = class_shares(strongest, torch.arange(3), 3)
    assert shares.tolist() == [[pytest.approx(each, abs=1e-15) for each in (5 / 9, 2 / 9, 2 / 9)]]
