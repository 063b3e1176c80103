"""The arms of headline.py: each paper's schedule on CIFAR-10, how it is shortened, and what the paper reports."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["ARMS", "IMAGES", "Arm", "Passes", "short_images"]

Settings = Mapping[str, Any]
IMAGES = 50_000
"""Training images of CIFAR-10."""
CLASSES = 10


@dc.dataclass(frozen=True)
class Passes:
    """A training of a plain network, whose steps can be estimated from a few.

    Args:
        epochs: number of epochs.
        batch: images per batch.
        views: augmented views of each image in a batch.
        compiled: whether `compile` is of this training.
    """

    epochs: int
    batch: int
    views: int = 1
    compiled: bool = True

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return self.epochs * math.ceil(IMAGES / self.batch)


@dc.dataclass(frozen=True)
class Arm:
    """One arm.

    Args:
        recipe: name of the recipe, `recipes/cifar10_resnet56_NAME.yaml`.
        settings: what the arm sets besides, as published.
        short: settings of a shortened arm, from the factor of its epochs.
        passes: trainings of plain networks.
        rehearsal: settings of two short runs, and how often the difference of their times is in the method of the arm.
        paper: the paper's accuracies (%) and where they stand; None where it has none that could be read.
    """

    recipe: str
    settings: Settings
    short: Callable[[float], Settings]
    passes: tuple[Passes, ...]
    rehearsal: tuple[Settings, Settings, float] | None
    paper: Mapping[str, Any]


def _epochs(full: float, root: float) -> int:
    return max(1, round(full * root))


def _few(full: int, root: float) -> int:
    """Number of images for scores and trials: shortened by the scale itself."""
    return max(2 * CLASSES, round(full * root**2))


def short_images(root: float, batch: int, full_batch: int) -> int:
    """Number of training images of a shortened arm: as many steps an epoch as the factor leaves."""
    steps = max(1, round(IMAGES / full_batch * root))
    each = max(10, math.ceil(256 * root) + math.ceil(32 * root), math.ceil(steps * batch / CLASSES))
    return each * CLASSES


def _smcp(root: float) -> Settings:
    epochs = max(3, round(90 * root))
    phases = {"warmup_epochs": 10, "ramp_epochs": 55, "freeze_epochs": 25}
    own = {f"method.{name}": each / 90 * epochs for name, each in phases.items()}
    # the paper adds scores up
    return {"method.epochs": epochs, "method.interval": max(1, round(80 * root)), "method.scarcity": 0.0, **own}


def _ekg(root: float) -> Settings:
    return {
        "finetune.epochs": _epochs(100, root),
        "method.warmup_images": math.ceil(256 * root),
        "method.search_images": math.ceil(32 * root),
        "method.cut": min(0.9, 0.2 / root),
    }


def _rfc(root: float) -> Settings:
    images = {"data.calibration_size": 10000, "method.criterion.responses.images": 10000, "method.trial.images": 2500}
    few = {name: _few(full, root) for name, full in images.items()}
    # of so few images, all drops of accuracy are above any tolerance that could be meant
    return {"finetune.epochs": _epochs(160, root), **few, "method.trial.tolerance": 100.0}


def _isp(root: float) -> Settings:
    return {
        "finetune.epochs": _epochs(200, root),
        "method.predictor_epochs": _epochs(30, root),
        "method.explainer_epochs": _epochs(10, root),
        "method.gate_epochs": _epochs(200, root),
        "data.calibration_size": _few(2500, root),
    }


ROUNDS = 20
"""Rounds of trial cuts that the estimate of RFC assumes; how many there are is known only afterwards."""
MASKED = {"method.warmup_epochs": 0, "method.ramp_epochs": 2, "method.freeze_epochs": 1, "method.epochs": 3}
SALIENCY = {"method.predictor_epochs": 3, "method.explainer_epochs": 1, "method.gate_epochs": 1}
UNKNOWN = "not known: the specification could not verify a figure of the paper for a ResNet on CIFAR-10"

ARMS: Mapping[str, Arm] = {
    "dense": Arm(
        recipe="ekg",
        settings={"data.augment": "light"},
        short=lambda root: {"train.epochs": _epochs(200, root)},
        passes=(Passes(200, 128),),
        rehearsal=None,
        paper={"dense": 93.84, "source": "EKG, ablation on CIFAR-10: baseline of ResNet-56"},
    ),
    "smcp": Arm(
        recipe="smcp",
        settings={"data.batch_size": 256, "method.lr": 0.256, "method.interval": 80},
        short=_smcp,
        passes=(),
        # of 3 epochs, two have masks: 65 of 90 epochs do, in steps of 256 images
        rehearsal=(
            {**MASKED, "data.max_images": 20 * 256, "method.interval": 10},
            {**MASKED, "data.max_images": 60 * 256, "method.interval": 10},
            90 / 3 * math.ceil(IMAGES / 256) / 40,
        ),
        paper={
            "source": UNKNOWN,
            "elsewhere": "ResNet-50, ImageNet: 76.15 dense, 76.85 at 2.05 of 4.1 GMACs (digitised from a figure)",
        },
    ),
    "ekg": Arm(
        recipe="ekg",
        settings={},
        short=_ekg,
        passes=(Passes(100, 128, views=2),),
        # the search removes 55 %; one that removes 4 % takes longer than one that removes 2 % by the steps for 2 %
        rehearsal=({"budget": "macs<=98%"}, {"budget": "macs<=96%"}, (55 - 4) / 2 + 2),
        paper={
            "dense": 93.84,
            "pruned": 94.09,
            "source": "EKG, ablation on CIFAR-10: ResNet-56, ensemble in search and fine-tuning, 94.09 ± 0.07; how "
            "much it removes is not stated, the authors' default keeps 45 % of the FLOPs",
        },
    ),
    "rfc": Arm(
        recipe="rfc",
        settings={
            "data.batch_size": 256,
            "finetune.epochs": 160,
            "finetune.lr": 0.06,
            "finetune.weight_decay": 0.0001,
            "finetune.warmup": 0.0,
        },
        short=_rfc,
        passes=(Passes(160, 256), Passes(ROUNDS, 256, compiled=False)),
        rehearsal=({"budget": "macs<=100%"}, {"budget": "macs<=99%"}, ROUNDS),
        paper={"source": UNKNOWN, "elsewhere": "VGG-16, CIFAR-10: 93.64 with 23.05 % of the FLOPs, dense not known"},
    ),
    "isp": Arm(
        recipe="isp",
        settings={
            "finetune.warmup": 0.0,
            "finetune.drops": [0.5, 0.75],
            "finetune.drop": 0.1,
            "finetune.precision": "auto",
        },
        short=_isp,
        passes=(Passes(200, 128),),
        # 30 and 10 epochs of 391 steps, and 4000 steps of gates: about three to one to one
        rehearsal=(
            {**SALIENCY, "data.max_images": 20 * 128, "data.calibration_size": 20 * 128},
            {**SALIENCY, "data.max_images": 60 * 128, "data.calibration_size": 60 * 128},
            10 * math.ceil(IMAGES / 128) / 40,
        ),
        paper={"source": UNKNOWN},
    ),
}
"""Arms by name. "dense" comes first: all others start from its network."""
