"""ISP for images of several classes: one explanation for each class, and means in which all images count alike."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from edakari.cost import bind
from edakari.errors import DataError
from edakari.explain.saliency import _one_class
from edakari.methods.isp import InterpretationSteeredPruning
from edakari.methods.saliency.asked import asked
from edakari.methods.saliency.explained import Explained
from edakari.methods.saliency.explaining import checked
from edakari.methods.saliency.losses import class_divergence
from edakari.testing import ToyTask, toy_cnn, toy_fit, toy_job
from tests.methods.test_isp import SHORT, parts


@dc.dataclass(frozen=True)
class Several(ToyTask):
    """Images with their class and, for every third one, the next class too; the last of a batch has none."""

    width: int = 4

    def batches(self, split: Any) -> Any:
        found = []
        for images, labels in super().batches(split):
            hot = functional.one_hot(labels, self.width)
            hot[::3] |= functional.one_hot((labels[::3] + 1) % self.width, self.width)
            hot[-1] = 0
            found.append((images, hot))
        return found

    def loss(self, outputs: torch.Tensor, batch: Any) -> Mapping[str, torch.Tensor]:
        return {"binary_cross_entropy": functional.binary_cross_entropy_with_logits(outputs, batch[1].to(outputs))}


def test_pairs_by_hand() -> None:
    found = asked(torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]]))
    assert found.rows.tolist() == [0, 0, 1, 2]
    assert found.classes.tolist() == [0, 2, 0, 1]
    assert found.weights.tolist() == [0.25, 0.25, 0.0, 0.5]
    # the mean over the classes of an image, and then over the two images that have one
    assert float(found.mean(torch.tensor([1.0, 3.0, 99.0, 10.0]))) == (2.0 + 10.0) / 2
    assert float(asked(torch.zeros(2, 3)).mean(torch.ones(2))) == 0.0
    single = asked(torch.tensor([2, 0]))
    assert (single.rows.tolist(), single.classes.tolist(), single.weights.tolist()) == ([0, 1], [2, 0], [0.5, 0.5])


def test_divergence_of_classes_by_hand() -> None:
    aim, said = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 2.0]])
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([1.0]).sigmoid()
    wanted = float((p * (p / torch.cat([q, 1 - q])).log()).sum())
    assert class_divergence(aim, said)[0].tolist() == pytest.approx([wanted, 0.0], abs=1e-6)


def test_each_class_is_explained_as_if_it_were_alone() -> None:
    job, saliency, _ = parts(toy_cnn())
    model = Explained(job.model, saliency.taps, saliency.explainer).eval()
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    hot = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0]])
    with torch.no_grad():
        logits, raw = model(images, hot)
        alone = [model(images, torch.tensor(labels)) for labels in ([0, 3, 1], [2, 3, 1])]
    assert torch.equal(logits, alone[0][0])
    torch.testing.assert_close(raw, torch.stack([alone[0][1][0], alone[1][1][0], *alone[0][1][1:]]))


def test_images_of_several_classes_are_pruned_by_all_three_stages() -> None:
    task = Several()
    seen: list[Any] = []
    job = toy_job(toy_cnn())

    def fit(model: nn.Module, objective: Any, schedule: Any, **options: Any) -> None:
        batches = options.pop("batches", None) or task.batches("train")
        terms: dict[str, float] = {}

        def noted(network: nn.Module, batch: Any) -> Mapping[str, torch.Tensor]:
            found: Mapping[str, torch.Tensor] = objective(network, batch)
            terms.update({name: float(value.detach()) for name, value in found.items()})
            return found

        toy_fit(model, noted, schedule, batches=batches, **options)
        seen.append(terms)

    outcome = InterpretationSteeredPruning(**SHORT).prune(dc.replace(job, task=task, fit=fit))
    assert bind(job.budget, job.graph).excess(outcome.plan.sizes()) <= 0
    assert [set(terms) for terms in seen] == [
        {"divergence"},
        {"divergence", "area", "roughness"},
        {"binary_cross_entropy", "interpretation", "cost"},
    ]
    assert seen[0]["divergence"] > 0
    assert seen[2]["interpretation"] > 0


def test_data_of_several_classes_that_does_not_fit_is_told() -> None:
    model = toy_cnn()
    assert checked(Several(), model, "data")[1] == 4
    with pytest.raises(DataError, match=r"explained by their labels \[N, classes\], and the network has 4 classes"):
        checked(Several(width=5), model, "data")
    with pytest.raises(DataError, match=r"set method\.labels: data"):
        checked(Several(), model, "predicted")


def test_pictures_show_the_class_of_which_the_network_is_surest() -> None:
    class Given(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[1.0, 3.0, 2.0]]).repeat(len(x), 1)

    shown = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 1]])
    assert _one_class(Given(), torch.zeros(3, 1), shown).tolist() == [2, 1, 1]
