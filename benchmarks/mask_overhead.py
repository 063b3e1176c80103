"""What SMCP's masks cost in training, and gates and masks of SuperTickets: steps with them beside plain steps.

    python benchmarks/mask_overhead.py --output benchmarks/results/mask_overhead.json
    python benchmarks/mask_overhead.py --tickets --steps 60 --threads 1 --output benchmarks/results/mask_overhead.json

Of two copies of a network, one takes a plain step of SGD before every step that `fit` takes with the other one, whose
masks are soft, whose norms are scaled, and whose importance is gathered at every step: what slows the machine for
seconds slows both. The first pair is left out; the last step with masks also chooses them anew, which in training
happens once in --interval steps and is added as so much of a step. Wall time on all threads that are given; loading
images is not in it. Masks cost as much for one image as for many, so small batches show them at their dearest.

With --tickets, the steps are those of the small supernet, in batches of 32 and 128 images of 32 pixels: the penalty
closes gates, their average is kept, and 90 % of the weights are masked. Events and choices of masks, which come once in
many epochs, are not in it. It is process time of the CPU, so that other programs slow neither step. The results of the
other kind of run stay in the file.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from core import environment
from records import write_record
from torch import nn

import edakari
from edakari.core.budget import Budget
from edakari.core.method import Job
from edakari.core.protocols import Hook, Schedule, StepState
from edakari.cost import dense
from edakari.criteria import Magnitude
from edakari.graph import maskable_weights
from edakari.methods.masking.mask_updates import MaskUpdateHook
from edakari.methods.masking.masks import Masks, maskable
from edakari.methods.smcp import input_taylor
from edakari.methods.tickets import ProgressiveMask, ProgressiveMaskSettings
from edakari.methods.tickets.gate_search import GateSearch
from edakari.methods.tickets.search_settings import Duration, GateSearchSettings
from edakari.tasks import DataSettings, task_from_settings
from edakari.train import FitSettings, fit

CLASSES = 1000
RATES = {"lr": 1e-6, "momentum": 0.875, "weight_decay": 3e-5}
Batch = tuple[torch.Tensor, torch.Tensor]
Now = Callable[[], float]


class LastStep:
    """Masks are chosen after the last step, at the whole budget."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def due(self, step: int, epoch: int) -> bool:
        """See `edakari.methods.masking.mask_updates.MaskSchedule`."""
        return step == self.steps

    def over(self, step: int, epoch: int) -> bool:
        """See `edakari.methods.masking.mask_updates.MaskSchedule`."""
        return False

    def limit(self, dense: float, final: float, step: int, epoch: int) -> float:
        """See `edakari.methods.masking.mask_updates.MaskSchedule`."""
        return final


class Plain(Hook):
    """Steps of another network, one before each of the one that `fit` trains, and the seconds of each; run state."""

    def __init__(self, model: nn.Module, batch: Batch, now: Now = time.perf_counter) -> None:
        self.model, self.batch, self.seconds, self.now = model.train(), batch, list[float](), now
        self.optimizer = torch.optim.SGD(model.parameters(), **RATES)

    def before_step(self, state: StepState) -> None:
        """See `Hook`."""
        begun = self.now()
        loss(self.model, self.batch)["cross_entropy"].backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.seconds.append(self.now() - begun)


class Clock(Hook):
    """Seconds of every step from where this hook is called to where `last` is; run state."""

    def __init__(self, now: Now = time.perf_counter) -> None:
        self.begun, self.seconds, self.last, self.now = 0.0, list[float](), _Stop(self), now

    def before_step(self, state: StepState) -> None:
        """See `Hook`."""
        self.begun = self.now()


class _Stop(Hook):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def after_step(self, state: StepState) -> None:
        """See `Hook`."""
        self.clock.seconds.append(self.clock.now() - self.clock.begun)


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


def job_of(model: nn.Module, size: int, share: str) -> Job:
    """Network and budget."""
    graph = edakari.trace(model, torch.zeros(1, 3, size, size))
    task = task_from_settings(DataSettings(source="embedded:fashion"))
    budget = Budget.parse(f"macs<={share}").absolute(dense(graph))
    return Job(model, graph, graph.groups, task, budget, fit=lambda *args, **kwargs: None)


def within(job: Job, share: str) -> torch.Tensor:
    """Masks that leave this share of the multiply-accumulates, by magnitude, bool [channels]."""
    masks = Masks(job.model, job.graph, maskable(job.graph, job.groups))
    scores = Magnitude().score(job.model, job.graph, (), None)
    plan = edakari.allocate(job.graph, scores, f"macs<={share}")
    kept = masks.mask.clone()
    for edit in plan.edits:
        if edit.group in masks.offsets:
            part = masks.part(edit.group)
            kept[part] = False
            kept[part.start + torch.tensor(edit.indices, dtype=torch.long)] = True
    return kept


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """All steps of one network."""
    job = job_of(edakari.build(arguments.model), arguments.size, arguments.share)
    images = Images(arguments.steps, arguments.batch, arguments.size)
    plain, clock = Plain(copy.deepcopy(job.model), images.batch), Clock()
    masks = Masks(job.model, job.graph, maskable(job.graph, job.groups), "soft", scale_norms=True)
    masks.set(within(job, arguments.share))
    hook = MaskUpdateHook(masks, job, LastStep(arguments.steps), input_taylor)
    share = 1 - float(masks.mask.double().mean())
    settings = FitSettings(device="cpu", progress=True)
    with masks.installed():
        fit(
            job.model,
            loss,
            images,
            Schedule(epochs=1, **RATES),
            hooks=[plain, clock, hook, clock.last],
            settings=settings,
        )
    pairs = list(zip(plain.seconds[1:-1], clock.seconds[1:-1], strict=True))
    ratios = [masked / bare for bare, masked in pairs]
    plain_s, masked_s = (statistics.median(times) for times in zip(*pairs, strict=True))
    choice_s = clock.seconds[-1] - masked_s
    middle = statistics.quantiles(ratios, n=4)
    return {
        "masked_coordinates": share,
        "pairs": len(pairs),
        "plain_step_s": plain_s,
        "masked_step_s": masked_s,
        "choice_s": choice_s,
        "ratio_quartiles": [middle[0], middle[2]],
        "ratio_steps": middle[1],
        "ratio": middle[1] + choice_s / arguments.interval / plain_s,
    }


def with_tickets(batch: int, steps: int) -> dict[str, Any]:
    """All steps of one small supernet whose gates are penalised, and of whose weights nine in ten are masked."""
    model = edakari.build("edakari:supernet", preset="small")
    images = Images(steps, batch, 32)
    plain, clock = Plain(copy.deepcopy(model), images.batch, time.process_time), Clock(time.process_time)
    graph = edakari.trace(model, torch.zeros(1, 3, 32, 32))
    search = GateSearch(GateSearchSettings(rho=1e-3, warmup_epochs=0, interval=2), model, graph, Duration(2, steps))
    how = ProgressiveMaskSettings(target=0.9, interval=2, reactivation="persist")
    mask = ProgressiveMask(model, maskable_weights(graph), how)
    mask.choose(0, 0.9)
    settings = FitSettings(device="cpu", progress=False)
    hooks = [plain, clock, search, mask, clock.last]
    fit(model, loss, images, Schedule(epochs=1, **RATES), hooks=hooks, settings=settings)
    pairs = list(zip(plain.seconds[1:], clock.seconds[1:], strict=True))
    low, middle, high = statistics.quantiles([slow / bare for bare, slow in pairs], n=4)
    plain_s, ticket_s = (statistics.median(times) for times in zip(*pairs, strict=True))
    return {
        "model": "edakari:supernet, preset small",
        "batch": batch,
        "masked_weights": mask.sparsity,
        "gates": search.vector.units,
        "pairs": len(pairs),
        "plain_step_cpu_s": plain_s,
        "ticket_step_cpu_s": ticket_s,
        "ratio": middle,
        "ratio_quartiles": [low, high],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="torchvision:resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=30, help="of each network, at least 4")
    parser.add_argument("--share", default="50%")
    parser.add_argument("--interval", type=int, default=80, help="steps from one choice of masks to the next")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tickets", action="store_true", help="time gates and masks of SuperTickets instead")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    known = json.loads(arguments.output.read_text()) if arguments.output and arguments.output.is_file() else {}
    settings = {key: getattr(arguments, key) for key in ("model", "size", "batch", "share", "interval", "threads")}
    about = environment(["python", *sys.argv])
    if arguments.tickets:
        rows = [with_tickets(batch, arguments.steps) for batch in (32, 128)]
        result = {**known, "tickets": {"environment": about, "threads": arguments.threads, "rows": rows}}
    else:
        result = {**known, "environment": about, "settings": settings, **measured(arguments)}
    print(json.dumps(result, indent=2))
    if arguments.output:
        write_record(arguments.output, result)


if __name__ == "__main__":
    main()
