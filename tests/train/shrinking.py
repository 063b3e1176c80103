"""Trainings in which a hook makes the network smaller, and the same ones with masks in its place."""

from __future__ import annotations

import dataclasses as dc
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

import edakari as ek
from edakari.core.plan import Plan
from edakari.core.processes import Processes
from edakari.core.protocols import Hook, Schedule, StepState
from edakari.testing import random_plan
from edakari.train import FitSettings, fit
from tests.surgery.masked_training import EXAMPLE, cnn, mask_all, masks_of, positions

SCHEDULE = Schedule(epochs=3, lr=0.02, warmup=0.2)
SCHEDULES = {
    "momentum": SCHEDULE,
    "adamw": dc.replace(SCHEDULE, optimizer="adamw", lr=0.005, weight_decay=0.05),
    "accumulated": dc.replace(SCHEDULE, accumulate=2),
    "averaged": dc.replace(SCHEDULE, ema=0.8),
    "clipped": dc.replace(SCHEDULE, clip=0.3),
    "all": dc.replace(SCHEDULE, optimizer="adamw", lr=0.005, accumulate=2, ema=0.8, clip=0.3),
}
QUIET = FitSettings(device="cpu", progress=False, seed=3)


class Stopped(Exception):
    pass


class Shrink(Hook):
    """Makes the network smaller after some epochs, by plans from a seed.

    Args:
        epochs: after which ones.
        stop: raise an error in this step, or after this epoch, right after the cut.
    """

    def __init__(self, epochs: Sequence[int] = (0, 1), stop: tuple[str, int] = ("", 0), kill: bool = False) -> None:
        self.epochs, self.stop, self.kill = epochs, stop, kill
        self.plan: Plan | None = None

    def after_step(self, state: StepState) -> None:
        self._stop(("step", state.step))

    def end_epoch(self, state: StepState) -> None:
        if state.epoch in self.epochs:
            graph = ek.trace(state.model, EXAMPLE)
            plan = self.made(graph, state.epoch)
            ek.shrink(state.model, plan, state.optimizer, *state.averages, graph=graph)
            self.plan = plan if self.plan is None else self.plan.then(plan)
        self._stop(("epoch", state.epoch))

    def made(self, graph: Any, epoch: int) -> Plan:
        return random_plan(graph, 0.7, epoch, drop=0.3)

    def state_dict(self) -> Mapping[str, Any]:
        return {"plan": "" if self.plan is None else self.plan.to_json()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.plan = Plan.from_json(state["plan"]) if state["plan"] else None

    def reshape(self, model: nn.Module) -> None:
        if self.plan is not None:
            ek.shrink(model, self.plan)

    def _stop(self, now: tuple[str, int]) -> None:
        if now == self.stop:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Stopped


class Mask(Hook):
    """Masks what a plan removes, in weights, gradients, states of the optimizer and averages: the oracle."""

    def __init__(self, model: nn.Module, epoch: int, plan: Callable[[nn.Module], Plan]) -> None:
        self.model, self.epoch, self.plan = model, epoch, plan
        self.where: Mapping[str, torch.Tensor] = {}

    def end_epoch(self, state: StepState) -> None:
        if state.epoch != self.epoch:
            return
        self.where = positions(state.model, self.plan(state.model))
        masks = masks_of(state.model, self.where)
        mask_all(state.optimizer, masks)
        for param, mask in masks.items():
            if param.requires_grad:
                param.register_hook(lambda gradient, mask=mask: gradient * mask)
        for average in state.averages:
            with torch.no_grad():
                for param, mask in zip(average.module.parameters(), masks.values(), strict=True):
                    param.mul_(mask)


def batches(count: int = 5, size: int = 6) -> list[Any]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(size * count, *EXAMPLE.shape[1:], generator=generator, dtype=torch.float64)
    return list(zip(images.split(size), (torch.arange(size * count) % 4).split(size), strict=True))


def objective(model: nn.Module, batch: Any) -> Mapping[str, torch.Tensor]:
    logits = model(batch[0])
    return {"ce": nn.functional.cross_entropy(logits, batch[1]), "size": 0.01 * logits.square().mean()}


def main(folder: str, epoch: int) -> None:
    """Train in a process that is killed right after a cut; or to the end, if there is no such epoch."""
    model = cnn()
    hook = Shrink(stop=("epoch", epoch), kill=True)
    settings = dc.replace(QUIET, folder=Path(folder))
    fit(model, objective, batches(), SCHEDULES["all"], hooks=[hook], settings=settings)
    save_file(model.state_dict(), Path(folder) / "final.safetensors")


class Shared:
    """This process's part of each batch."""

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Any:
        here = Processes.here()
        for images, labels in batches(4, 8):
            yield images[here.rank :: here.world], labels[here.rank :: here.world]


class Differing(Shrink):
    """Cuts other channels on each process: as many, so that shapes tell nothing."""

    def made(self, graph: Any, epoch: int) -> Plan:
        return random_plan(graph, 0.5, Processes.here().rank)


def plain() -> nn.Module:
    """A network without batch normalisation, whose statistics would differ between processes."""
    torch.manual_seed(4)
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).double()


def shared(folder: str) -> None:
    """Train by several processes; then with plans that differ between them."""
    model, here = plain(), Processes.here
    settings = dc.replace(QUIET, folder=Path(folder) / "fit")
    try:
        stop = ("epoch", 1)
        fit(model, objective, Shared(), SCHEDULES["all"], hooks=[Shrink(stop=stop)], settings=settings)
    except Stopped:
        model = plain()
        fit(model, objective, Shared(), SCHEDULES["all"], hooks=[Shrink()], settings=settings)
    world = here().world
    save_file(model.state_dict(), Path(folder) / f"{world}-{here().rank}.safetensors")
    if world > 1:
        said = ""
        try:
            fit(plain(), objective, Shared(), SCHEDULE, hooks=[Differing()], settings=QUIET)
        except ek.errors.ModelError as error:
            said = str(error)
        assert "by another on process 1" in said, said
