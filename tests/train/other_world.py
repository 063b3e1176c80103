"""Trainings that are stopped in the middle of an epoch and resumed by another number of processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.nn import functional

from edakari.core.processes import Processes
from edakari.core.protocols import Batch, Hook, Schedule, StepState
from edakari.tasks.loaders import ArrayBatches
from edakari.tasks.order import Order
from edakari.tasks.pixels import Pixels
from edakari.train import FitSettings, fit
from tests.train.problem import batches, network

SCHEDULE = Schedule(epochs=3, lr=0.05, momentum=0.9)
CASES = {"even": (64, 8, 11), "rest": (50, 16, 5)}
"""Images, images per batch, and the step before which the first training stops; 50 images leave 2 over."""


class Stop(Hook):
    """Ends a training at a step, as if its process ended."""

    def __init__(self, at: int) -> None:
        self.at = at

    def before_step(self, state: StepState) -> None:
        """See `Hook`."""
        if state.step == self.at:
            raise InterruptedError


def train(folder: Path, case: str, *, stop: bool = False) -> None:
    """Train in a folder, and write which images this process saw in each step, and the weights at the end."""
    count, size, at = CASES[case]
    source, here, model = batches(count).source, Processes.here(), network(norm=False)
    data = ArrayBatches(source, Order(count, size, 5, shuffle=True), Pixels((6, 6), 1, (0.5,), (0.25,)), views=1)
    seen: list[tuple[int, list[int]]] = []

    class Record(Hook):
        def before_step(self, state: StepState) -> None:
            seen.append((state.epoch, []))

    def objective(model: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        seen[-1][1].extend(batch[2].tolist())
        return {"ce": functional.cross_entropy(model(batch[0]), batch[1])}

    hooks: list[Any] = [Stop(at if stop else -1), Record()]
    settings = FitSettings(folder=folder, checkpoint_steps=1, device="cpu", progress=False)
    try:
        steps = fit(model, objective, data, SCHEDULE, hooks=hooks, settings=settings).steps
    except InterruptedError:
        steps = 0
    name = f"{'first' if stop else 'second'}-{here.rank}"
    (folder / f"{name}.json").write_text(json.dumps([seen, steps]))
    save_file(dict(model.state_dict()), folder / f"{name}.safetensors")


def main(folder: Path) -> None:
    """Stop trainings that one process will resume, and resume trainings that one process has stopped."""
    dist.init_process_group("gloo")
    for case in CASES:
        train(folder / f"{case}-2-1", case, stop=True)
        train(folder / f"{case}-1-2", case)
