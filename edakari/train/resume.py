"""Progress of a training and its folder, with the checkpoint to resume from and the history to read."""

from __future__ import annotations

import dataclasses as dc
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from edakari.core.files import write_json
from edakari.core.processes import Processes
from edakari.core.protocols import Hook, Schedule
from edakari.errors import ModelError
from edakari.train.checkpoint import Checkpoint, identity_in, read, write
from edakari.train.scope import Moved, Trained

__all__ = ["FitFolder", "History", "Progress", "checkpoint_in", "identity_of"]


@dc.dataclass(frozen=True)
class History:
    """Record of a training.

    Args:
        epochs: metrics of each epoch: "epoch", "lr", "loss", the loss terms, and "val_…" from the evaluation.
        steps: number of optimizer steps.
        seconds: training time in seconds over all runs, including interrupted ones.
    """

    epochs: tuple[Mapping[str, float], ...]
    steps: int
    seconds: float

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metrics of the evaluation after the last epoch, by their own names; empty without one."""
        last = self.epochs[-1] if self.epochs else {}
        return {name.removeprefix("val_"): value for name, value in last.items() if name.startswith("val_")}


STEPS = "steps per epoch"


class Pace(Protocol):
    """How often to write a checkpoint."""

    @property
    def checkpoint_seconds(self) -> float:
        """Seconds between two checkpoints."""

    @property
    def checkpoint_steps(self) -> int:
        """Optimizer steps between two checkpoints."""


class Progress:
    """Progress of a training: mutable state of a run, part of every checkpoint."""

    def __init__(self) -> None:
        self.step, self.done = 0, False
        self.epochs: list[Mapping[str, float]] = []
        self._sums: dict[str, torch.Tensor] = {}
        self._count = 0
        self._earlier, self._started = 0.0, time.monotonic()

    @classmethod
    def restored(cls, checkpoint: Checkpoint) -> Progress:
        """Restore the progress from a checkpoint."""
        progress, state = cls(), checkpoint.state["progress"]
        progress.step, progress.done = checkpoint.step, checkpoint.done
        progress.epochs, progress._sums = list(state["epochs"]), dict(state["sums"])
        progress._count, progress._earlier = state["count"], state["seconds"]
        return progress

    def state(self) -> dict[str, Any]:
        """Return the values to store in a checkpoint."""
        return {
            "epochs": self.epochs,
            "sums": self._sums,
            "count": self._count,
            "seconds": self.seconds,
            "processes": Processes.here().world,
        }

    @property
    def seconds(self) -> float:
        """Training time in seconds, over all runs so far."""
        return self._earlier + time.monotonic() - self._started

    def add(self, terms: Mapping[str, torch.Tensor]) -> None:
        """Add the loss terms of one step."""
        self.step, self._count = self.step + 1, self._count + 1
        for name, term in terms.items():
            # No .item() here: waiting for the device at every step would leave it idle. Apple's has no float64.
            exact = term.to(torch.float32 if term.device.type == "mps" else torch.float64)
            self._sums[name] = self._sums[name].to(term.device) + exact if name in self._sums else exact

    def means(self) -> dict[str, torch.Tensor]:
        """Return the mean of each loss term over the steps of this epoch so far."""
        return {name: value / max(1, self._count) for name, value in self._sums.items()}

    def end_epoch(self, figures: Mapping[str, float]) -> None:
        """Record the metrics of an epoch."""
        self.epochs.append(figures)
        self._sums, self._count = {}, 0

    def history(self) -> History:
        """Return the record of the training so far."""
        return History(tuple(self.epochs), self.step, self.seconds)


def checkpoint_in(folder: Path) -> Path:
    """Return the path of the checkpoint in a training's folder."""
    return folder / "checkpoint.safetensors"


class FitFolder:
    """Folder of a training; without a path nothing is written.

    Args:
        path: the folder, or None.
        identity: values that identify the training.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self.path, self.identity = path, identity
        self._written_at, self._written_step = time.monotonic(), 0

    def due(self, progress: Progress, pace: Pace) -> bool:
        """Return whether it is time to write a checkpoint."""
        if self.path is None:
            return False
        by_steps = pace.checkpoint_steps > 0 and progress.step - self._written_step >= pace.checkpoint_steps
        by_time = pace.checkpoint_seconds > 0 and time.monotonic() - self._written_at >= pace.checkpoint_seconds
        return by_steps or by_time

    def read(self) -> Checkpoint | None:
        """Read the checkpoint to resume from; None if there is none.

        Raises:
            RunFolderError: the checkpoint is damaged or belongs to another training.
        """
        if self.path is None:
            return None
        path, now = checkpoint_in(self.path), self.identity[STEPS]
        then = identity_in(path).get(STEPS) if path.is_file() else None
        if then is None or abs(then - now) != 1:
            return read(path, self.identity)
        # another number of processes takes another last batch, or none, if the images do not divide into batches
        found = read(path, {**self.identity, STEPS: then})
        if found is None or found.state["progress"].get("processes") in (None, Processes.here().world):
            return read(path, self.identity)
        epoch, position = divmod(found.step, then)
        return dc.replace(found, step=epoch * now + min(position, now - 1))

    def write(self, progress: Progress, chosen: Trained, hooks: Sequence[Hook], parts: Mapping[str, Any]) -> None:
        """Write the checkpoint and the history.

        Raises:
            RunFolderError: the disk is full; the earlier checkpoint is intact.
        """
        if self.path is None:
            return
        state = {
            "model": chosen.model.state_dict(),
            "other": list(chosen.other),
            "hooks": [dict(hook.state_dict()) for hook in hooks],
            "progress": progress.state(),
            **parts,
        }
        write(checkpoint_in(self.path), Checkpoint(self.identity, progress.step, progress.done, state))
        history = progress.history()
        content = {"epochs": history.epochs, "steps": history.steps, "seconds": history.seconds, "done": progress.done}
        write_json(self.path / "history.json", content)
        self._written_at, self._written_step = time.monotonic(), progress.step

    def restore(self, found: Checkpoint, chosen: Trained, hooks: Sequence[Hook]) -> Moved:
        """Restore the hooks' state, the network's structure and the tensors from a checkpoint, in place.

        Returns:
            The trained parameters that the network has no longer, as hooks had made it smaller.
        """
        self._written_step = found.step
        for hook, state in zip(hooks, found.state["hooks"], strict=True):
            hook.load_state_dict(state)
        for hook in hooks:
            hook.reshape(chosen.model)
        moved = chosen.follow()
        _require_shapes(chosen.model, found.state["model"])
        chosen.model.load_state_dict(found.state["model"])
        with torch.no_grad():
            for param, value in zip(chosen.other, found.state["other"], strict=True):
                param.copy_(value)
        return moved


def _require_shapes(model: nn.Module, stored: Mapping[str, torch.Tensor]) -> None:
    """Refuse to load weights of another structure.

    Raises:
        ModelError: a hook had made the network smaller, and has no `reshape` that does so again.
    """
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    kept = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    name = next((name for name in {**found, **kept} if found.get(name) != kept.get(name)), None)
    if name is not None:
        raise ModelError(
            f"fit: {name!r} is {found.get(name, 'not there')} in the network and {kept.get(name, 'not there')} in the "
            "checkpoint. A hook that makes the network smaller needs a method reshape(model) that does it again when "
            "the training is resumed (see edakari.core.protocols.Hook)"
        )


def identity_of(
    chosen: Trained, schedule: Schedule, seed: int, per_epoch: int, hooks: Sequence[Hook]
) -> Mapping[str, Any]:
    """Return the values that identify a training; checkpoints with other values are rejected.

    The initial weights are not part of the identity, because computations that produce them may differ in the last bits
    between runs.
    """
    own = {id(param) for param in chosen.own}
    return {
        "schedule": _identity_of(schedule),
        "seed": seed,
        STEPS: per_epoch,
        "model": {name: list(tensor.shape) for name, tensor in chosen.model.state_dict().items()},
        "trained": [name for name, param in chosen.model.named_parameters() if id(param) in own],
        "other": [list(param.shape) for param in chosen.other],
        "hooks": [type(hook).__qualname__ for hook in hooks],
    }


def _identity_of(schedule: Schedule) -> Mapping[str, Any]:
    curve: Any = schedule.curve
    if curve is None:
        return dc.asdict(schedule)
    own = {field.name: getattr(curve, field.name) for field in dc.fields(curve)} if dc.is_dataclass(curve) else {}
    return {**dc.asdict(dc.replace(schedule, curve=None)), "curve": {"name": type(curve).__qualname__, **own}}
