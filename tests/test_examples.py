"""Networks of the examples: what they are made of, and that they can be pruned."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import edakari
from edakari.criteria import Magnitude

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def imported(name: str) -> Any:
    sys.modules.pop(name, None)
    return __import__(name)


def test_statistics_of_images_change_no_output(examples: None) -> None:
    torch.manual_seed(0)
    weights = imported("mobilenet_weights")
    layers = [nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU6(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)]
    model, images = nn.Sequential(*layers).double().eval(), torch.randn(6, 3, 8, 8, dtype=torch.float64)
    for norm in (layers[1], layers[4]):
        nn.init.uniform_(norm.bias)
        nn.init.uniform_(norm.weight, 0.5, 2)
    with torch.no_grad():
        before = model(images)
        weights.set_statistics(model, images)
        assert torch.allclose(model(images), before, atol=1e-9)
        assert torch.allclose(model.train()(images), before, atol=1e-9)


def test_ssdlite_is_pruned_as_a_whole(examples: None) -> None:
    pytest.importorskip("torchvision")
    torch.manual_seed(0)
    network = imported("ssdlite").make(num_classes=3, frozen=2, pad_below=True, size=64).eval()
    trained = [name for name, each in network.named_parameters() if not each.requires_grad]
    assert trained
    assert all(name.startswith(("backbone.near.0", "backbone.near.1")) for name in trained)
    images = torch.rand(1, 3, 64, 64)
    graph = edakari.trace(network, images)
    plan = edakari.allocate(graph, Magnitude().score(network, graph), "macs<=60%")
    small = edakari.apply(network, plan, graph)
    masked = edakari.simulate(network, plan, graph)
    with torch.no_grad():
        found, expected = small(images), masked(images)
    assert torch.allclose(found[0]["scores"], expected[0]["scores"], atol=1e-5)
    assert torch.allclose(found[0]["boxes"], expected[0]["boxes"], atol=1e-3)


@pytest.mark.filterwarnings("error:Found .* in eval mode")
def test_a_lightning_module_is_pruned_and_trained_on(examples: None) -> None:
    pytest.importorskip("lightning")
    torch.manual_seed(0)
    found = imported("lightning_module").main(quick=True)
    assert list(found) == ["dense", "pruned", "pruned and fine-tuned", "pruned in training"]
    assert found["dense"] > 0.85
    assert min(found.values()) > 0.3, "a training destroyed its network"


def test_a_trainer_of_transformers_continues_with_the_pruned_network(examples: None, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    found = imported("hf_trainer").main(tmp_path, quick=True)
    assert list(found) == ["dense", "pruned", "pruned and fine-tuned", "loaded"]
    assert found["loaded"] == found["pruned and fine-tuned"]
    assert min(found["dense"], found["loaded"]) > 0.3, "nothing was trained"
