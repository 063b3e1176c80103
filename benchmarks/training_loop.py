"""CPU time of edakari's training loop, compared with a loop written by hand, alternately in one process.

    python benchmarks/training_loop.py --output benchmarks/results/training_loop.json

ResNet-20 on random images of 32 x 32 in batches of 128, SGD with Nesterov momentum and a cosine: both loops do the same
work and end with equal weights. Each round trains a copy of one network for some steps by either loop, and begins with
the other one than the round before. The ratio of a round is the median time of edakari's steps over that of the others.

The process starts itself anew with glibc's heap told to keep its pages. Otherwise a step of either loop asks the system
for tens of thousands of pages. How many depends on what the step before left behind, and edakari's loop took from 3 %
less to 18 % more than the other. `--default-heap` leaves the heap as it is.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from core import environment
from records import write_record
from torch import nn
from torch.nn import functional

import edakari
from edakari.core.protocols import Schedule
from edakari.train import FitSettings, fit

Batch = tuple[torch.Tensor, torch.Tensor]
LR, MOMENTUM, DECAY = 0.05, 0.9, 5e-4
HEAP = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(64 * 2**30)}
"""Variables of glibc: large tensors lie in the heap, and the heap keeps freed memory."""


class Timed:
    """Batches that collect the CPU time from each one to the next, which is that of a step."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.seconds: list[float] = []

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            start = time.process_time()
            yield batch
            self.seconds.append(time.process_time() - start)


def by_hand(model: nn.Module, batches: Timed) -> None:
    """Train as PyTorch's tutorials do."""
    model.train()
    params = list(model.parameters())
    groups = [
        {"params": [param for param in params if param.ndim > 1], "weight_decay": DECAY},
        {"params": [param for param in params if param.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, LR, momentum=MOMENTUM, nesterov=True)
    for step, (images, labels) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = LR * 0.5 * (1 + math.cos(math.pi * step / len(batches)))
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()


def by_fit(model: nn.Module, batches: Timed) -> None:
    schedule = Schedule(epochs=1, lr=LR, momentum=MOMENTUM, weight_decay=DECAY, warmup=0.0)
    settings = FitSettings(progress=False, device="cpu")
    fit(
        model,
        lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1]),
        batches,
        schedule,
        settings=settings,
    )


def timed(loop: Any, dense: nn.Module, batches: list[Batch]) -> tuple[list[float], float, nn.Module]:
    """Train a copy of a network; returns the seconds of each step and of what comes before and after, and the copy."""
    model, loader = copy.deepcopy(dense), Timed(batches)
    start = time.process_time()
    loop(model, loader)
    return loader.seconds, time.process_time() - start - sum(loader.seconds), model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="steps of each training; the first one is not counted")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--default-heap", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if not arguments.default_heap and not HEAP.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **HEAP})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dense = edakari.build("edakari:resnet20", weights="random")
    batches = [
        (torch.randn(arguments.batch, 3, 32, 32), torch.randint(0, 10, (arguments.batch,)))
        for _ in range(arguments.steps)
    ]
    loops = {"fit": by_fit, "by_hand": by_hand}
    for loop in loops.values():
        timed(loop, dense, batches[:1])  # imports and caches
    medians: dict[str, list[float]] = {name: [] for name in loops}
    every: dict[str, list[float]] = {name: [] for name in loops}
    rests: dict[str, list[float]] = {name: [] for name in loops}
    differences = []
    faults = -resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for number in range(arguments.rounds):
        models = {}
        for name in list(loops)[:: 1 if number % 2 else -1]:
            steps, rest, models[name] = timed(loops[name], dense, batches)
            medians[name].append(statistics.median(steps[1:]))
            every[name] += steps[1:]
            rests[name].append(rest)
        pairs = zip(models["fit"].parameters(), models["by_hand"].parameters(), strict=True)
        differences.append(max(float((one - other).detach().abs().max()) for one, other in pairs))
    faults += resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    ratios = [one / other for one, other in zip(medians["fit"], medians["by_hand"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    results = {
        "environment": environment(["python", *sys.argv]),
        "network": "edakari:resnet20",
        "batch": arguments.batch,
        "steps": arguments.steps,
        "rounds": arguments.rounds,
        "heap": "default" if arguments.default_heap else "keeps its pages",
        "page_faults_per_step": faults / (2 * arguments.rounds * arguments.steps),
        "cpu_s_per_step": {name: statistics.median(values) for name, values in every.items()},
        "cpu_s_per_step_spread": {name: [min(values), max(values)] for name, values in every.items()},
        "cpu_s_of_start_and_end": {name: statistics.median(values) for name, values in rests.items()},
        "ratio": middle,
        "ratio_quartiles": [low, high],
        "ratio_of_medians": statistics.median(every["fit"]) / statistics.median(every["by_hand"]),
        "ratio_of_least": min(every["fit"]) / min(every["by_hand"]),
        "largest_difference_of_weights": max(differences),
    }
    print({name: value for name, value in results.items() if name != "environment"})
    if arguments.output:
        write_record(arguments.output, results)


if __name__ == "__main__":
    main()
