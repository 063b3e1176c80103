"""Ultralytics' trainers around a training of edakari's, and around a network that is there."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from ultralytics.cfg import DEFAULT_CFG, get_cfg
from ultralytics.data import build_dataloader, build_yolo_dataset
from ultralytics.data.utils import check_det_dataset
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.models import yolo
from ultralytics.nn.tasks import BaseModel, guess_model_task

from edakari.core.arguments import found_as
from edakari.core.protocols import Batch, Hook
from edakari.errors import DataError, RecipeError, WrongArgument
from edakari.integrations.hook_calls import HookCalls
from edakari.integrations.session import Session
from edakari.train.accelerators import nested_tensors

__all__ = ["data_loader", "given_network_trainer", "network_loss", "session_trainer"]

TRAINERS = {
    "detect": yolo.detect.DetectionTrainer,
    "segment": yolo.segment.SegmentationTrainer,
    "pose": yolo.pose.PoseTrainer,
    "obb": yolo.obb.OBBTrainer,
    "classify": yolo.classify.ClassificationTrainer,
}


NAMELESS = {"mode": "train", "model": "given.yaml"}
"""What a trainer has to be told of a network that it is given; the file is never opened."""


def network_loss(network: nn.Module, batch: Batch) -> torch.Tensor:
    """Compute the loss of a batch by the network's own criterion; see `edakari.integrations.ultralytics.own_loss`."""
    images, targets = batch
    if not isinstance(getattr(network, "args", None), types.SimpleNamespace):
        network.args = get_cfg()
    # a criterion keeps numbers of the network that it was made for, so each network makes its own
    criterion: Any = cast(Any, network).init_criterion()
    loss: torch.Tensor = criterion(network(images), {**targets, "img": images})[0]
    return loss.sum()


def data_loader(data: str, split: str, overrides: Mapping[str, Any]) -> Any:
    """Make ultralytics' data loader of a split; see `edakari.integrations.ultralytics.image_batches`."""
    settings = get_cfg(overrides={"data": data, **overrides})
    described = check_det_dataset(data)
    if described.get(split) is None:
        raise DataError(f"{data} names no images for {split!r}")
    mode = "train" if split == "train" else "val"
    images = build_yolo_dataset(settings, described[split], settings.batch, described, mode=mode, rect=False)
    return build_dataloader(images, settings.batch, settings.workers, shuffle=mode == "train", rank=-1)


def given_network_trainer(network: nn.Module, hooks: Sequence[Hook]) -> type[Any]:
    """Make a trainer class for a network; see `edakari.integrations.ultralytics.trainer_for`."""
    if not isinstance(network, BaseModel):
        raise WrongArgument(
            f"trainer_for(network): takes a network of ultralytics, such as YOLO(...).model, found {found_as(network)}"
        )
    task = guess_model_task(network)
    if task not in TRAINERS:
        raise WrongArgument(f"trainer_for(network): task {task!r} is not offered; known: {', '.join(TRAINERS)}")
    base: Any = TRAINERS[task]
    given = cast(Any, network)

    class GivenNetworkTrainer(base):
        """Ultralytics' trainer with the network that it was given, and edakari's hooks."""

        def __init__(self, cfg: Any = DEFAULT_CFG, overrides: Any = None, _callbacks: Any = None) -> None:
            super().__init__(cfg, {**NAMELESS, **(overrides or {})}, _callbacks)

        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> nn.Module:
            """Return the given network."""
            classes, found = getattr(given.model[-1], "nc", None), self.data["nc"]
            if classes is not None and classes != found:
                raise DataError(f"the network has {classes} classes, but {self.args.data} has {found}")
            given.criterion = None  # made for another network
            # the trainer does so anyway, and warns of each parameter
            return network.requires_grad_(True)

        def setup_model(self) -> None:
            """Take the given network, whatever `model` names."""
            self.model = self.get_model()

        def _setup_train(self) -> None:
            super()._setup_train()
            self.calls, self.heard = HookCalls(network, hooks), False
            self.add_callback("on_train_batch_start", lambda trainer: trainer._begin())
            self.add_callback("on_train_batch_end", lambda trainer: trainer._hear())
            self.add_callback("on_train_epoch_end", lambda trainer: trainer.calls.end_epoch(trainer.optimizer))
            self.optimizer.register_step_post_hook(lambda *given: self.calls.after_step(self.optimizer))

        def optimizer_step(self) -> None:
            """Take the optimizer's step; hooks are called before its gradients are reset."""
            self._hear()
            super().optimizer_step()

        def _begin(self) -> None:
            self.heard = False
            self.calls.before_step(self.optimizer)

        def _hear(self) -> None:
            """Add the batch's loss to the step's, unless that has been done."""
            if not self.heard:
                self.calls.add(self.loss)
            self.heard = True

    return GivenNetworkTrainer


def session_trainer(run: Session, overrides: Mapping[str, Any]) -> Any:
    """Make a trainer that trains a session's network on its batches.

    Args:
        run: the training, with its optimizer.
        overrides: settings of the trainer.

    Raises:
        RecipeError: the schedule asks for fp16.
    """
    if run.schedule.precision == "fp16":
        raise RecipeError("ultralytics.fit: schedule precision 'fp16' is not offered here; use 'bf16' or 'fp32'")
    decided = {"epochs": run.schedule.epochs, "warmup_epochs": 0, "amp": False, "device": _device_name(run.device)}
    quiet = {
        "plots": False,
        "save": False,
        "val": False,
        "patience": 0,
        "close_mosaic": 0,
        "batch": 1,
        "exist_ok": True,
    }
    trainer = SessionTrainer(overrides={**NAMELESS, **quiet, **overrides, **decided})
    trainer.session = run
    return trainer


class SessionTrainer(BaseTrainer):
    """The loop of ultralytics' trainers on a session's network, batches, optimizer and learning rates."""

    session: Session

    def get_dataset(self) -> dict[str, Any]:
        """Return what the trainer asks of a data set; the batches are the session's."""
        return {"train": None, "val": None, "nc": 0, "names": {}, "channels": 3}

    def setup_model(self) -> None:
        """Take the session's network."""
        self.model = _Scored(self.session)

    def get_validator(self) -> Any:
        """Return nothing that could be validated by; figures of an epoch are edakari's."""
        return types.SimpleNamespace(metrics=types.SimpleNamespace(keys=[]))

    def preprocess_batch(self, batch: Batch) -> dict[str, Any]:
        """Move a batch to the device; the loop shows the size of "img"."""
        moved = nested_tensors().send_to_device(batch, self.device)
        images = next(
            (leaf for leaf in tree_leaves(moved) if isinstance(leaf, torch.Tensor) and leaf.ndim), torch.zeros(1)
        )
        return {"img": images, "batch": moved}

    def optimizer_step(self) -> None:
        """Take the step after the last batch of a group, which the loop itself knows nothing of."""
        run = self.session
        if self.model.taken < run.group_size:
            return
        assert run.optimizer is not None
        if run.schedule.clip > 0:
            torch.nn.utils.clip_grad_norm_(run.params, run.schedule.clip)
        run.set_rate()
        run.optimizer.step()
        run.after_step()
        run.optimizer.zero_grad()
        self.model.taken = 0

    def validate(self) -> tuple[dict[str, float], float]:
        """Validate nothing."""
        return {}, 0.0

    def save_model(self) -> bool:
        """Save nothing; edakari keeps the result."""
        return False

    def save_metrics(self, metrics: Any) -> None:
        """Save nothing."""

    def final_eval(self) -> None:
        """Evaluate nothing."""

    def _build_train_pipeline(self) -> None:
        self.train_loader = self.test_loader = _Loader(self.session)
        self.accumulate, self.optimizer = 1, self.session.optimizer
        self._setup_scheduler()
        self.add_callback("on_train_batch_start", lambda trainer: trainer.model.begin())
        self.add_callback("on_train_epoch_end", lambda trainer: trainer.session.end_epoch())

    def _setup_scheduler(self) -> None:
        self.lf = lambda epoch: 1.0
        optimizer: Any = self.optimizer
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.lf)

    def _model_train(self) -> None:
        # the trainer has set `requires_grad` of all parameters when it began
        active = {id(tensor) for tensor in self.session.params}
        for parameter in self.session.network.parameters():
            parameter.requires_grad_(id(parameter) in active)
        self.session.network.train()


class _Scored(nn.Module):
    """The network as ultralytics' loop calls it: from a batch to its loss, and the loss again for display."""

    criterion = None

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.network, self.taken = session.network, 0
        self._session = session

    def __deepcopy__(self, memo: Any) -> nn.Module:
        """Return an empty module: the trainer averages a copy, but averages are the session's."""
        return nn.Module()

    def begin(self) -> None:
        """Begin a step with the first batch of a group."""
        if self.taken == 0:
            self._session.before_step()

    def forward(self, given: Mapping[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the part of the step's loss that a batch has."""
        half = self._session.schedule.precision == "bf16"
        precision = torch.autocast(self._session.device.type, torch.bfloat16) if half else contextlib.nullcontext()
        with precision:
            loss: torch.Tensor = self.network(given["batch"])
        self.taken += 1
        return loss / self._session.group_size, {"loss": loss.detach()}


class _Loader:
    """A session's batches with what ultralytics' loop asks of a data loader."""

    num_workers, batch_size, drop_last = 0, 1, False

    def __init__(self, session: Session) -> None:
        self.batches = session.batches
        self.dataset = self.sampler = range(len(session.batches))

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def reset(self) -> None:
        """Nothing is prefetched."""


def _device_name(device: torch.device) -> str:
    return str(device.index or 0) if device.type == "cuda" else device.type
