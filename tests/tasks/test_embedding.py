"""Embeddings: figures by brute force, losses by hand, batches that have pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edakari.core.objective import task_objective
from edakari.core.protocols import Schedule
from edakari.errors import DataError, UnknownName
from edakari.tasks import DataSettings, task_from_settings
from edakari.tasks.embedding import EmbeddingSettings
from edakari.tasks.order import ClassOrder
from edakari.tasks.retrieval import contrastive, retrieval_figures, triplet
from edakari.train import distillation, fit

LABELS = np.array([0] * 9 + [1] * 7 + [2] * 3 + [3])


def npz(path: Path, labels: Any = LABELS, seed: int = 0) -> str:
    generator, labels = np.random.default_rng(seed), np.asarray(labels)
    images = generator.integers(0, 120, (len(labels), 8, 8, 1), dtype=np.uint8)
    images[np.arange(len(labels)), labels % 8] += 100
    np.savez(path, images=images, labels=labels)
    return str(path)


def data(tmp_path: Path, options: Any = "embedding", **more: Any) -> DataSettings:
    paths = {"train": (npz(tmp_path / "t.npz"),), "val": npz(tmp_path / "v.npz", [5, 6, 7, 5, 6, 9, 5], 1)}
    return DataSettings(**{"task": options, **paths, "batch_size": 8, "calibration_size": 12, **more})


def unit(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("seed", range(4))
def test_figures_by_brute_force(seed: int) -> None:
    vectors, labels = unit(20, seed), torch.from_numpy(LABELS)
    found = {"recall_at_1": [], "recall_at_5": [], "map_at_r": []}
    for query in range(20):
        others = [index for index in range(20) if index != query]
        others.sort(key=lambda index: float((vectors[query] - vectors[index]).norm()))
        hits = [bool(labels[index] == labels[query]) for index in others]
        if not any(hits):
            continue
        among = sum(hits)
        found["recall_at_1"].append(hits[0])
        found["recall_at_5"].append(any(hits[:5]))
        found["map_at_r"].append(sum(sum(hits[: k + 1]) / (k + 1) for k in range(among) if hits[k]) / among)
    figures = retrieval_figures(vectors, labels)
    assert figures == pytest.approx({name: float(np.mean(values)) for name, values in found.items()})


def test_losses_by_hand() -> None:
    vectors, labels = unit(6), torch.tensor([0, 0, 1, 1, 1, 2])
    hinges, entropies = [], []
    for one in range(5):
        squared = [float((vectors[one] - vectors[other]).square().sum()) for other in range(6)]
        same = [other for other in range(6) if labels[other] == labels[one] and other != one]
        rest = [other for other in range(6) if labels[other] != labels[one]]
        hinges.append(max(0.0, max(squared[other] for other in same) - min(squared[other] for other in rest) + 0.3))
        whole = sum(np.exp(float(vectors[one] @ vectors[other]) / 0.5) for other in range(6) if other != one)
        entropies.append(np.mean([np.log(whole) - float(vectors[one] @ vectors[other]) / 0.5 for other in same]))
    assert float(triplet(vectors, labels, 0.3)) == pytest.approx(np.mean(hinges))
    assert float(contrastive(vectors, labels, 0.5)) == pytest.approx(np.mean(entropies))


@pytest.mark.parametrize("loss", [triplet, contrastive])
def test_a_batch_without_pairs_gives_a_loss_of_zero_that_can_be_trained_on(loss: Any) -> None:
    vectors = unit(3).requires_grad_()
    found = loss(vectors, torch.tensor([0, 1, 2]), 0.2)
    found.backward()
    assert float(found.detach()) == 0
    assert torch.equal(vectors.grad, torch.zeros(3, 3))
    repeated = torch.ones(4, 2, dtype=torch.float64).mul(0.5**0.5).requires_grad_()
    loss(repeated, torch.tensor([0, 0, 1, 1]), 0.2).backward()
    assert repeated.grad.isfinite().all()


@pytest.mark.parametrize("shuffle", [True, False])
def test_images_of_a_class_come_together_and_each_comes_once(shuffle: bool) -> None:
    order = ClassOrder(count=20, batch_size=8, seed=3, shuffle=shuffle, labels=LABELS, together=3)
    epochs = [np.concatenate(list(order.batches(epoch))) for epoch in range(2)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert np.array_equal(*epochs) is not shuffle
    for epoch in epochs:
        shown = LABELS[epoch]
        runs = np.split(shown, np.flatnonzero(np.diff(shown)) + 1)
        assert all(len(run) >= 3 for run in runs if run[0] != 3)
    assert np.array_equal(np.concatenate([*order.batches(0, 1)]), epochs[0][8:])


def test_training_and_calibration_have_pairs_and_validation_has_its_own_classes(tmp_path: Path) -> None:
    task: Any = task_from_settings(data(tmp_path, EmbeddingSettings(images_per_class=2)))
    for split in ("train", "calibration"):
        for _, labels in task.batches(split):
            assert torch.bincount(labels).max() > 1 or len(labels) < 8
    assert task.metric == "recall_at_1"
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    with torch.no_grad():
        vectors = torch.cat([task.outputs(network, batch) for batch in task.batches("val")])
    assert torch.allclose(vectors.norm(dim=1), torch.ones(7))
    assert task.evaluate(network) == pytest.approx(retrieval_figures(vectors, torch.tensor([5, 6, 7, 5, 6, 9, 5])))


@pytest.mark.parametrize("loss", ["triplet", "contrastive"])
def test_training_brings_images_of_a_class_together(tmp_path: Path, loss: Any) -> None:
    torch.manual_seed(0)
    options, val = EmbeddingSettings(loss=loss, images_per_class=2), npz(tmp_path / "seen.npz", seed=2)
    task: Any = task_from_settings(data(tmp_path, options, augment="none", val=val))
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    before = task.evaluate(network)["map_at_r"]
    fit(network, task_objective(task), task.batches("train"), Schedule(epochs=8, lr=0.02))
    assert task.evaluate(network)["map_at_r"] > before + 0.2
    objective = distillation(task, network, weight=1.0)
    batch = next(iter(task.batches("train")))
    assert float(objective(network, batch)["distillation"].detach()) == 0
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    far = (task.outputs(network, batch) - task.outputs(other, batch)).square().sum(1).mean()
    assert objective(other, batch)["distillation"].item() == pytest.approx(far.item(), rel=1e-5)


def test_wrong_data_and_networks_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.batch_size is 6, which has no place for two classes of 4"):
        task_from_settings(data(tmp_path, batch_size=6))
    with pytest.raises(DataError, match="no class has two images in the val split"):
        task_from_settings(data(tmp_path, val=npz(tmp_path / "single.npz", [0, 1, 2])))
    with pytest.raises(UnknownName, match="recall_at_1"):
        task_from_settings(data(tmp_path, metric="recall_at_2"))
    task: Any = task_from_settings(data(tmp_path))
    with pytest.raises(DataError, match=r"gives \[7, 2, 8, 8\] for a batch of 7 images; an embedding is one vector"):
        task.evaluate(nn.Conv2d(1, 2, 3, padding=1))
