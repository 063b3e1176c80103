"""Mixup and cutmix: which images are mixed and how, the loss of mixed classes, and who must not see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from edakari.core.processes import Processes
from edakari.core.protocols import Schedule
from edakari.errors import DataError, EdakariError, RecipeError
from edakari.pipeline import recipe_from
from edakari.tasks import TASKS, DataSettings, task_from_settings
from edakari.tasks.classify import ClassificationSettings
from edakari.tasks.mixing import unmixed
from edakari.train import FitSettings, distillation, fit, task_objective

COUNT, CLASSES, SIZE = 28, 3, 8
ALPHAS = [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}]


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("arrays") / "images.npz"
    images = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(COUNT) % CLASSES)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, generator = tmp_path_factory.mktemp("folder"), np.random.default_rng(0)
    for number in range(COUNT):
        path = root / f"class{number % CLASSES}" / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(path)
    return root


def made(path: Path, seed: int = 0, augment: Any = "light", **options: float) -> Any:
    settings = DataSettings(
        task=ClassificationSettings(**options),
        source=str(path),
        val=str(path),
        image_size=SIZE,
        batch_size=8,
        augment=augment,
        workers=0,
        calibration_size=4,
    )
    return task_from_settings(settings, seed)


def passed(task: Any, epoch: int = 0, skip: int = 0) -> list[tuple[torch.Tensor, ...]]:
    batches = task.batches("train")
    batches.set_epoch(epoch)
    rest = batches.skip(skip) if skip else batches
    found = list(rest)
    assert len(found) == len(rest)
    return found


def alike(one: list[tuple[torch.Tensor, ...]], other: list[tuple[torch.Tensor, ...]]) -> bool:
    pairs = [(a, b) for first, second in zip(one, other, strict=True) for a, b in zip(first, second, strict=True)]
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def shares(images: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Fraction of each image, [N], that comes from the image itself, the rest being that of the image before it."""
    before = whole.roll(1, 0)
    apart = (whole - before).double().flatten(1)
    return ((images - before).double().flatten(1) * apart).sum(1) / apart.square().sum(1)


def test_mixup_blends_neighbours_and_their_classes_in_one_proportion_for_a_batch(arrays: Path) -> None:
    proportions = []
    for (images, labels), (whole, classes) in zip(passed(made(arrays, mixup=0.4)), passed(made(arrays)), strict=True):
        share = shares(images, whole)
        torch.testing.assert_close(share, share[:1].expand_as(share), rtol=0, atol=1e-5)
        own = functional.one_hot(classes, CLASSES).double()
        torch.testing.assert_close(labels.double(), share[0] * own + (1 - share[0]) * own.roll(1, 0), rtol=0, atol=1e-5)
        torch.testing.assert_close(images, share[0].float() * whole + (1 - share[0]).float() * whole.roll(1, 0))
        proportions.append(round(float(share[0]), 4))
    assert len(set(proportions)) == len(proportions)


def test_cutmix_pastes_a_rectangle_and_weighs_classes_by_its_area(arrays: Path) -> None:
    pasted, task = 0, made(arrays, augment="none", cutmix=1.0)
    for (images, labels), (whole, classes) in zip(passed(task), passed(unmixed(task)), strict=True):
        other = (images != whole).any(1)
        torch.testing.assert_close(images, torch.where(other[:, None], whole.roll(1, 0), whole), rtol=0, atol=0)
        rows, columns = other[0].any(1), other[0].any(0)
        assert torch.equal(other[0], rows[:, None] & columns[None])  # a rectangle, the same in all images of a batch
        assert torch.equal(other, other[:1].expand_as(other))
        area = other[0].double().mean()
        own = functional.one_hot(classes, CLASSES).double()
        torch.testing.assert_close(labels.double(), (1 - area) * own + area * own.roll(1, 0), rtol=0, atol=1e-6)
        pasted += int(0 < area < 1)
    assert pasted


def test_both_together_take_turns_at_random(arrays: Path) -> None:
    task, blended = made(arrays, mixup=0.4, cutmix=1.0), []
    for epoch in range(4):
        for (images, _), (whole, _) in zip(passed(task, epoch), passed(unmixed(task), epoch), strict=True):
            blended.append(bool(((images != whole) & (images != whole.roll(1, 0))).any()))
    assert len(set(blended)) == 2


@pytest.mark.parametrize("alphas", ALPHAS, ids=str)
@pytest.mark.parametrize("source", ["arrays", "folder"])
def test_any_number_of_processes_and_a_resumed_training_see_the_same_images(
    source: str, alphas: dict[str, float], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = request.getfixturevalue(source)
    alone = passed(made(path, **alphas), epoch=1)
    assert alike(passed(made(path, **alphas), epoch=1), alone)
    assert alike(passed(made(path, **alphas), epoch=1, skip=2), alone[2:])
    assert not alike(passed(made(path, **alphas), epoch=2), alone)
    assert not alike(passed(made(path, seed=1, **alphas), epoch=1), alone)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(Processes, "here", lambda rank=rank: Processes(rank, 2))
        parts.append(passed(made(path, **alphas), epoch=1))
    joined = [tuple(map(torch.cat, zip(*both, strict=True))) for both in zip(*parts, strict=True)]
    assert alike(joined, alone)


def test_only_training_images_are_mixed(arrays: Path) -> None:
    task, plain = made(arrays, mixup=0.4), made(arrays)
    for split in ("val", "calibration"):
        assert alike(list(task.batches(split)), list(plain.batches(split)))
    with pytest.raises(DataError, match=r"leave mixup and cutmix out of data\.task"):
        task.with_indices()
    parts = [np.arange(6)]
    assert alike(list(task.batches_at("train", parts)), list(plain.batches_at("train", parts)))
    assert alike(passed(unmixed(task)), passed(plain))
    assert alike(passed(made(arrays, mixup=0.0, cutmix=0.0)), passed(plain))
    assert unmixed(plain) is not plain.data
    other = object()
    assert unmixed(other) is other  # type: ignore[arg-type, comparison-overlap]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, CLASSES))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_both_classes(arrays: Path, smoothing: float) -> None:
    task, model = made(arrays, mixup=0.4, label_smoothing=smoothing), network()
    for images, labels in passed(task):
        log, aims = model(images).log_softmax(1), labels * (1 - smoothing) + smoothing / CLASSES
        expected = -(aims * log).sum(1).mean()
        torch.testing.assert_close(task_objective(task)(model, (images, labels))["cross_entropy"], expected)


def test_a_teacher_sees_the_mixed_images(arrays: Path) -> None:
    task, model, seen = made(arrays, cutmix=1.0), network(), []
    teacher = network()
    teacher.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    batch = passed(task)[0]
    terms, alone = distillation(task, teacher, 0.5)(model, batch), task_objective(task)(model, batch)
    assert torch.equal(seen[0], batch[0])
    assert terms["distillation"].item() == pytest.approx(0, abs=1e-6)  # the same network, on the same images
    assert terms["cross_entropy"].item() == pytest.approx(alone["cross_entropy"].item() / 2)


def test_a_network_trains_on_mixed_images_and_is_evaluated_on_whole_ones(arrays: Path) -> None:
    task, model = made(arrays, augment="none", mixup=0.2, cutmix=1.0), network()
    before = task.evaluate(model)
    settings = FitSettings(progress=False, device="cpu")
    fit(model, task_objective(task), task.batches("train"), Schedule(epochs=8, lr=0.05), settings=settings)
    assert task.evaluate(model)["top1"] > before["top1"]


def content(task: Any, **more: Any) -> dict[str, Any]:
    return {
        "model": "edakari:fashion_cnn",
        "data": {"task": task},
        "budget": "macs<=50%",
        "method": "magnitude",
        **more,
    }


@pytest.mark.parametrize("name", [each for each in TASKS.names() if each != "classification"])
def test_other_tasks_refuse_it(name: str) -> None:
    with pytest.raises(RecipeError, match="mixup"):
        recipe_from(content({"name": name, "mixup": 0.2}))


def test_negative_parameters_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"data\.task\.cutmix"):
        recipe_from(content({"name": "classification", "cutmix": -1.0}))


@pytest.mark.parametrize("tuning", [{"views": 2}, {"teacher": "bank"}], ids=str)
def test_what_needs_whole_images_refuses_it(tuning: dict[str, Any]) -> None:
    ((key, _),) = tuning.items()
    recipe = content({"name": "classification", "mixup": 0.2}, finetune={"epochs": 1, **tuning})
    with pytest.raises(EdakariError, match=rf"finetune\.{key}.* leave mixup and cutmix out"):
        recipe_from(recipe)
