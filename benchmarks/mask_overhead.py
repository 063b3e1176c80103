"""What SMCP's masks cost in training: steps with masks at half the multiply-accumulates beside plain steps.

    python benchmarks/mask_overhead.py --output benchmarks/results/mask_overhead.json

Turns of a few steps of one `fit` without masks and one with them, the first one changing. Masks are soft, norms are
scaled, and importance is gathered at every step. The first step of each is left out; the last one with masks also
chooses them anew, which in training happens once in --interval steps and is added as so much of a step. Wall time on
all threads that are given; loading images is not in it. Masks cost as much for one image as for many, so small batches
show them at their dearest.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from core import environment
from torch import nn

import edakari
from edakari.core.budget import Budget
from edakari.core.files import write_json
from edakari.core.method import Job
from edakari.core.protocols import Hook, Schedule, StepState
from edakari.cost import dense
from edakari.criteria import Magnitude
from edakari.methods.masking.masks import Masks, maskable
from edakari.methods.masking.rewire import Rewire
from edakari.methods.smcp import input_taylor
from edakari.tasks import DataSettings, task_from_settings
from edakari.train import FitSettings, fit

CLASSES = 1000
Batch = tuple[torch.Tensor, torch.Tensor]


class LastStep:
    """Masks are chosen after the last step, at the whole budget."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def due(self, step: int, epoch: int) -> bool:
        """See `edakari.methods.masking.rewire.Timetable`."""
        return step == self.steps

    def over(self, step: int, epoch: int) -> bool:
        """See `edakari.methods.masking.rewire.Timetable`."""
        return False

    def limit(self, dense: float, final: float, step: int, epoch: int) -> float:
        """See `edakari.methods.masking.rewire.Timetable`."""
        return final


class Clock(Hook):
    """Seconds of every step; run state.

    Args:
        first: the hook that is called before all others; None is this one.
    """

    def __init__(self, first: Clock | None = None) -> None:
        self.first = first or self
        self.begun = 0.0
        self.seconds: list[float] = []

    def before_step(self, state: StepState) -> None:
        """See `Hook`."""
        if self.first is self:
            self.begun = time.perf_counter()

    def after_step(self, state: StepState) -> None:
        """See `Hook`."""
        self.seconds.append(time.perf_counter() - self.first.begun)


class Images:
    """So many batches of random images, made before they are asked for."""

    def __init__(self, steps: int, batch: int, size: int) -> None:
        drawn = torch.Generator().manual_seed(0)
        self.batch = (
            torch.randn(batch, 3, size, size, generator=drawn),
            torch.randint(0, CLASSES, (batch,), generator=drawn),
        )
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self.steps):
            yield self.batch


def loss(network: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    """Cross-entropy."""
    return {"cross_entropy": nn.functional.cross_entropy(network(batch[0]), batch[1])}


def plain(model: nn.Module, images: Images, schedule: Schedule) -> list[float]:
    """Seconds of each step without masks."""
    clock = Clock()
    fit(model, loss, images, schedule, hooks=[clock], settings=FitSettings(device="cpu", progress=False))
    return clock.seconds


def masked(job: Job, kept: torch.Tensor, images: Images, schedule: Schedule) -> list[float]:
    """Seconds of each step with masks; the last one chooses them too."""
    masks = Masks(job.model, job.graph, maskable(job.graph, job.groups), "soft", scale_norms=True)
    masks.set(kept)
    hook = Rewire(masks, job, LastStep(len(images)), input_taylor)
    first = Clock()
    last = Clock(first)
    settings = FitSettings(device="cpu", progress=False)
    with masks.installed():
        fit(job.model, loss, images, schedule, hooks=[first, hook, last], settings=settings)
    return last.seconds


def job_of(model: nn.Module, size: int, share: str) -> Job:
    """Network and budget."""
    graph = edakari.trace(model, torch.zeros(1, 3, size, size))
    task = task_from_settings(DataSettings(source="embedded:fashion"))
    budget = Budget.parse(f"macs<={share}").absolute(dense(graph))
    return Job(model, graph, graph.groups, task, budget, fit=lambda *args, **kwargs: None)


def within(job: Job, share: str) -> torch.Tensor:
    """Masks that leave this share of the multiply-accumulates, by magnitude, bool [coordinates]."""
    masks = Masks(job.model, job.graph, maskable(job.graph, job.groups))
    scores = Magnitude().score(job.model, job.graph, (), None)
    plan = edakari.allocate(job.graph, scores, f"macs<={share}")
    kept = masks.kept.clone()
    for edit in plan.edits:
        if edit.group in masks.offsets:
            part = masks.part(edit.group)
            kept[part] = False
            kept[part.start + torch.tensor(edit.indices, dtype=torch.long)] = True
    return kept


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """All turns of one network."""
    job = job_of(edakari.build(arguments.model), arguments.size, arguments.share)
    other = copy.deepcopy(job.model)
    kept = within(job, arguments.share)
    images = Images(arguments.steps, arguments.batch, arguments.size)
    schedule = Schedule(epochs=1, lr=1e-6, momentum=0.875, weight_decay=3e-5)
    without: list[float] = []
    under: list[float] = []
    choosing: list[float] = []
    ratios: list[float] = []
    for turn in range(arguments.turns):
        order = (plain, masked) if turn % 2 == 0 else (masked, plain)
        seen = {
            way: plain(other, images, schedule) if way is plain else masked(job, kept, images, schedule)
            for way in order
        }
        without += seen[plain][1:]
        under += seen[masked][1:-1]
        choosing.append(seen[masked][-1])
        ratios.append(statistics.median(seen[masked][1:-1]) / statistics.median(seen[plain][1:]))
        print(f"turn {turn + 1}: {ratios[-1]:.3f} times {statistics.median(seen[plain][1:]):.2f} s", flush=True)
    plain_s, masked_s = statistics.median(without), statistics.median(under)
    choice_s = statistics.median(choosing) - masked_s
    return {
        "masked_coordinates": 1 - float(kept.double().mean()),
        "plain_step_s": plain_s,
        "masked_step_s": masked_s,
        "choice_s": choice_s,
        "ratio_of_turns": ratios,
        "ratio_steps": statistics.median(ratios),
        "ratio": statistics.median(ratios) + choice_s / arguments.interval / plain_s,
        "steps": [len(without), len(under)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="torchvision:resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5, help="of a turn, at least 3")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--share", default="50%")
    parser.add_argument("--interval", type=int, default=80, help="steps from one choice of masks to the next")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = {key: getattr(arguments, key) for key in ("model", "size", "batch", "share", "interval", "threads")}
    about = environment(["python", *sys.argv])
    result = {"environment": about, "settings": settings, **measured(arguments)}
    print(json.dumps(result, indent=2))
    if arguments.output:
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
