"""Training by ultralytics' trainers: of any network by their loop, and of a pruned YOLO in place of a dense one.

Ultralytics has the licence AGPL-3.0, so edakari never installs it. It is imported only when a function here is called.
"""

from __future__ import annotations

import dataclasses as dc
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edakari.core.arguments import require
from edakari.core.optional import missing_packages, require_packages
from edakari.core.protocols import Batch, Hook, Objective, Schedule
from edakari.core.settings import settings
from edakari.errors import MissingPackage
from edakari.integrations.session import Asked, device_of, refuse_governed, session
from edakari.train.optim import make_optimizer

__all__ = ["ImageBatches", "UltralyticsFit", "fit", "image_batches", "own_loss", "trainer_for"]

GOVERNED = {
    "epochs": "epochs",
    "time": "epochs",
    "lr0": "lr",
    "lrf": "final_lr",
    "cos_lr": "curve",
    "optimizer": "optimizer",
    "momentum": "momentum",
    "weight_decay": "weight_decay",
    "warmup_epochs": "warmup",
    "nbs": "accumulate",
    "amp": "precision",
    "device": "precision",
}


@settings
class UltralyticsFit:
    """Training by the loop of ultralytics' trainers; make it with `edakari.integrations.ultralytics.fit`.

    Args:
        overrides: settings of an ultralytics trainer, such as `project`. Nothing is saved, plotted or validated.
    """

    overrides: Mapping[str, Any] = dc.field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_ultralytics()
        refuse_governed("edakari.integrations.ultralytics.fit", self.overrides, GOVERNED)

    def __call__(
        self,
        model: nn.Module,
        objective: Objective,
        schedule: Schedule,
        *,
        hooks: Sequence[Hook] = (),
        params: Sequence[torch.Tensor] | None = None,
        batches: Iterable[Batch] | None = None,
    ) -> None:
        """See `edakari.core.protocols.Fit`."""
        from edakari.integrations.ultralytics_trainer import session_trainer

        asked = Asked(model, objective, schedule, hooks, params, batches)
        with session(asked, device_of(asked)) as run, tempfile.TemporaryDirectory() as folder:
            run.optimizer = make_optimizer(run.params, run.schedule)
            session_trainer(run, {"save_dir": folder, **self.overrides}).train()


def fit(**overrides: Any) -> UltralyticsFit:
    """Make a training by the loop of ultralytics' trainers, for `edakari.prune(..., fit=...)`.

    The loop takes the batches and the loss of the task. `trainer_for` instead leaves data, augmentation, loss and
    validation to ultralytics.

    Args:
        overrides: settings of an ultralytics trainer.

    Raises:
        MissingPackage: ultralytics is not installed.
        SettingsError: a setting is one that the schedule decides, such as `lr0`.
    """
    return UltralyticsFit(overrides=overrides)


def trainer_for(network: nn.Module, hooks: Sequence[Hook] = ()) -> type[Any]:
    """Make a trainer class of ultralytics that trains a network as it is, instead of building it again from its YAML.

        YOLO("yolo11n.yaml").train(trainer=trainer_for(result.model), data="mine.yaml", epochs=50)

    Its checkpoints hold the pruned network, and `YOLO("best.pt")` reads them. A later `YOLO("best.pt").train(...)`
    needs a trainer of this function again; otherwise ultralytics builds the dense network.

    Args:
        network: an ultralytics network, such as a pruned `DetectionModel`; trained in place.
        hooks: hooks of edakari that are called around every optimizer step.

    Returns:
        A subclass of ultralytics' trainer for the network's task.

    Raises:
        MissingPackage: ultralytics is not installed.
        WrongArgument: the network is not one of ultralytics.
    """
    _require_ultralytics()
    require("trainer_for(network)", network=(network, nn.Module))
    from edakari.integrations.ultralytics_trainer import given_network_trainer

    return given_network_trainer(network, hooks)


@dc.dataclass(frozen=True)
class ImageBatches:
    """Batches of an ultralytics data loader as edakari reads them: images, then everything else.

    Args:
        loader: data loader whose batches are dicts with "img", uint8 [N, 3, H, W].
    """

    loader: Any

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, dict[str, Any]]]:
        for batch in self.loader:
            yield batch["img"].float() / 255, {key: value for key, value in batch.items() if key != "img"}


def image_batches(data: str | Path, split: str = "train", **overrides: Any) -> ImageBatches:
    """Read the images of a YOLO data set as ultralytics does, with its augmentation in "train".

    Args:
        data: path of the YAML file that describes the data set.
        split: "train", "val" or "test".
        overrides: settings of ultralytics, such as `imgsz`, `batch`, `workers` or `mosaic`.

    Raises:
        MissingPackage: ultralytics is not installed.
        DataError: the file names no images for the split.
    """
    _require_ultralytics()
    from edakari.integrations.ultralytics_trainer import data_loader

    return ImageBatches(data_loader(str(data), split, overrides))


def own_loss(network: nn.Module, batch: tuple[torch.Tensor, Mapping[str, Any]]) -> torch.Tensor:
    """Compute the loss that ultralytics trains a network with, as the `loss` of `edakari.Task.of`.

    Args:
        network: an ultralytics network.
        batch: images, float [N, 3, H, W] in 0 to 1, and a dict of "cls", "bboxes" and "batch_idx"; see `image_batches`.

    Returns:
        A scalar tensor.
    """
    _require_ultralytics()
    from edakari.integrations.ultralytics_trainer import network_loss

    return network_loss(network, batch)


def _require_ultralytics() -> None:
    if missing_packages("ultralytics"):
        raise MissingPackage(
            "training with ultralytics needs ultralytics, which is not installed; install it with: pip install "
            "ultralytics (its licence, AGPL-3.0, applies to what you distribute with it)",
            name="ultralytics",
        )
    require_packages("train", "training with ultralytics", "accelerate", "timm")
