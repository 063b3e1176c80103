"""What a search and its masks leave for a report, while the network trains and afterwards."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path

import pytest
import torch
from torch import nn

from edakari.core.reading import read_json
from edakari.graph import trace
from edakari.methods.gate_search import GateSearchMethod
from edakari.methods.gradual_magnitude import GradualMagnitude
from edakari.methods.tickets.gates import gates_of
from edakari.methods.tickets.places import places
from edakari.models.supernet_blocks import SearchBlock
from edakari.testing import toy_cnn, toy_job
from edakari.train import FitSettings, fitter

SEARCH = {"epochs": 4, "interval": 2, "warmup_epochs": 0.0, "min_saving": 1.0, "lr": 0.05, "rho": 0.01, "decay": 0.9}


def test_units_of_search_blocks_are_in_branches_and_kernel_sizes() -> None:
    model = nn.Sequential(SearchBlock(4, 4), SearchBlock(4, 4, stride=2)).eval()
    graph = trace(model, torch.zeros(1, 4, 8, 8))
    found = places(graph, gates_of(model, graph))
    assert [place.map for place in found] == [(8, 8)] * 3 + [(4, 4)] * 3
    for place in found:
        path = place.name.removesuffix(".0.0")
        assert place.kernel == model.get_submodule(f"{path}.1.0").kernel_size
        assert place.size == graph[place.name].size


def test_gates_of_several_kernel_sizes_have_none() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6))
            self.two = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6))
            self.last = nn.Conv2d(6, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.one(x) + self.two(x)).mean((2, 3))

    model = Sum().eval()
    graph = trace(model, torch.zeros(1, 3, 5, 7))
    (place,) = places(graph, gates_of(model, graph))
    assert (place.kernel, place.map, place.size) == ((), (5, 7), 6)


def test_masks_and_losses_are_there_after_the_training(tmp_path: Path) -> None:
    job = toy_job(toy_cnn(), "sparsity>=80%")
    fit = fitter(job.task, FitSettings(progress=False, device="cpu"))
    GradualMagnitude(epochs=2, interval=1, step=0.4).prune(dc.replace(job, fit=fit, artifacts=tmp_path))
    assert [event["asked"] for event in read_json(tmp_path / "masks.json")] == [0.4, 0.8]
    assert [entry["epoch"] for entry in read_json(tmp_path / "losses.json")] == [1, 2]
    assert not (tmp_path / "search.json").exists()


def test_a_search_that_was_interrupted_leaves_what_it_did_and_continues_it(tmp_path: Path) -> None:
    folder = tmp_path / "kept"

    def search(stop_at: int = 0) -> None:
        def log(stage: str, figures: object) -> None:
            if stop_at and stage == f"search event after epoch {stop_at}":
                raise KeyboardInterrupt

        job = toy_job(toy_cnn(), "macs<=50%")
        fit = fitter(job.task, FitSettings(folder=tmp_path, progress=False, device="cpu"))
        GateSearchMethod(**SEARCH).prune(dc.replace(job, fit=fit, artifacts=folder, log=log))

    with pytest.raises(KeyboardInterrupt):
        search(stop_at=4)
    first = read_json(folder / "search.json")
    assert [event["epoch"] for event in first["events"]] == [2]
    assert [entry["epoch"] for entry in read_json(folder / "losses.json")] == [1, 2, 3]
    search()
    whole = read_json(folder / "search.json")
    assert [event["epoch"] for event in whole["events"]] == [2, 4]
    assert whole["events"][0] == first["events"][0]
    assert [entry["epoch"] for entry in read_json(folder / "losses.json")] == [1, 2, 3, 4]
