"""The method `gate_search`, on its own and with `fit`."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path

import pytest
import torch

from edakari.core.method import METHODS
from edakari.core.reading import read_json
from edakari.cost import macs
from edakari.errors import ModelError
from edakari.methods.gate_search import GateSearchMethod
from edakari.methods.tickets.search_settings import GateSearchSettings
from edakari.surgery import apply
from edakari.testing import check_method, toy_cnn, toy_job, toy_vit
from edakari.train import FitSettings, fitter

QUICK = {"epochs": 4, "interval": 2, "warmup_epochs": 0.0, "min_saving": 1.0, "lr": 0.05, "rho": 0.01, "decay": 0.9}


def test_it_keeps_the_promises_of_methods():
    assert METHODS.named("gate_search") is GateSearchMethod
    check_method(GateSearchMethod(**QUICK), [toy_cnn()])


def test_its_defaults_are_those_of_the_search():
    assert GateSearchMethod().search_settings() == GateSearchSettings()


def test_by_rho_alone_the_budget_steers_nothing(tmp_path: Path):
    job = dc.replace(toy_job(toy_cnn(), "macs<=1%"), artifacts=tmp_path)
    outcome = GateSearchMethod(**QUICK | {"steering": "rho", "rho": 0.3, "eps": 0.3}).prune(job)
    events = read_json(tmp_path / "search.json")["events"]
    assert [each["epoch"] for each in events] == [2, 4]
    assert events[0]["macs"] > events[-1]["macs"] > 0.01 * macs(job.graph).total({})
    assert {each["rho"] for each in events} == {0.3}
    sizes = outcome.plan.sizes()
    assert all(sizes.get(name, job.graph[name].size) == size for name, size in events[-1]["units"].items() if size)


def test_networks_without_batch_norms_are_refused_before_anything_is_trained():
    with pytest.raises(ModelError, match="none of the"):
        GateSearchMethod(**QUICK).prune(toy_job(toy_vit()))


@pytest.mark.parametrize("settings", [{}, {"ema": 0.9}])
def test_it_runs_in_fit_and_returns_what_its_plan_makes(settings):
    model = toy_cnn()
    job = toy_job(model, "macs<=50%")
    job = dc.replace(job, fit=fitter(job.task, FitSettings(progress=False, device="cpu")))
    outcome = GateSearchMethod(**QUICK | settings).prune(job)
    small = apply(model, outcome.plan, job.graph)
    assert {k: v.shape for k, v in small.state_dict().items()} == {
        k: v.shape for k, v in outcome.model.state_dict().items()
    }
    assert all(bool(tensor.isfinite().all()) for tensor in outcome.model.state_dict().values())


def test_a_search_in_fit_that_was_interrupted_gives_the_same(tmp_path: Path):
    def searched(folder: Path, stop_at: int = 0) -> torch.nn.Module:
        job = toy_job(toy_cnn(), "macs<=50%")
        job = dc.replace(job, fit=fitter(job.task, FitSettings(folder=folder, progress=False, device="cpu")))
        if stop_at:
            job = dc.replace(job, log=_stop_after(stop_at))
        return GateSearchMethod(**QUICK | {"epochs": 6}).prune(job).model

    whole = searched(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "parts", stop_at=4)
    again = searched(tmp_path / "parts")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def _stop_after(epoch: int):
    def log(stage: str, figures: object) -> None:
        if stage == f"search event after epoch {epoch}":
            raise KeyboardInterrupt

    return log
