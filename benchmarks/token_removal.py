"""What a joint training step of token selectors takes where pruned tokens are removed, compared with masked.

    python benchmarks/token_removal.py --output benchmarks/results/token_removal.json

Of two copies of a network with three selectors, one masks pruned tokens (`joint_strategy: mask`), the other one
removes them (`topk`). They take steps alternately: forward pass of network and teacher, loss, backward pass, AdamW. It
is process time of the CPU on one thread, so that other programs slow neither step. The first pairs are left out.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from core import environment
from records import write_record
from torch import nn

import edakari
from edakari.core.budget import Budget
from edakari.core.method import Job
from edakari.core.plan import KeepTokens
from edakari.cost import dense
from edakari.methods.tokens.training import TokenLoss, TokenTrainer
from edakari.surgery.tokens import Adaptive, attach, token_sites

SKIPPED = 2
CASES = (
    ("edakari:fashion_vit", 1, 28, 32, (1, 2, 3)),
    ("timm:deit_tiny_patch16_224", 3, 224, 2, (3, 6, 9)),
)
"""Name, channels and size of the images, images per batch, and blocks with selectors."""
RATIOS = ((0.7, 0.49, 0.343), (0.5, 0.25, 0.125))


def cross_entropy(network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The loss."""
    return nn.functional.cross_entropy(network(batch[0]), batch[1])


def students(case: Any, ratios: Sequence[float]) -> tuple[TokenTrainer, TokenTrainer]:
    """The trainers of one network, masking and removing."""
    name, channels, size, _, blocks = case
    torch.manual_seed(0)
    model, example = edakari.build(name, weights="random").train(), torch.zeros(1, channels, size, size)
    task = edakari.Task.of(example, loss=cross_entropy)
    graph = edakari.trace(model.eval(), example)
    budget = Budget.parse("macs<=100%").absolute(dense(graph))
    job = Job(model, graph, (), task, budget, fit=lambda *args, **kwargs: None)
    sites = token_sites(model, example)
    counts = [max(1, int(ratio * sites.patches[block])) for ratio, block in zip(ratios, blocks, strict=True)]
    edits = [
        KeepTokens(sites.names[block], count, "spvit", (("package", "append"), ("proportional", True)))
        for block, count in zip(blocks, counts, strict=True)
    ]
    made = []
    for strategy in ("mask", "topk"):
        student = Adaptive(attach(copy.deepcopy(model), edits, example, 0)).train()
        student.training_rule, student.training_strategy = "count", strategy
        teacher = copy.deepcopy(model).eval().requires_grad_(False)
        made.append(TokenTrainer(job, student, teacher, sites.blocks[-1], ratios, TokenLoss()))
    return made[0], made[1]


def measured(case: Any, ratios: Sequence[float], pairs: int) -> dict[str, Any]:
    """Seconds of both kinds of steps, taken alternately."""
    name, channels, size, batch, blocks = case
    drawn = torch.Generator().manual_seed(0)
    images = torch.randn(batch, channels, size, size, generator=drawn)
    labels = torch.randint(0, 10, (batch,), generator=drawn)
    trainers = students(case, ratios)
    optimizers = [torch.optim.AdamW(each.student.parameters(), lr=1e-6) for each in trainers]
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs + SKIPPED):
        for trainer, optimizer, taken in zip(trainers, optimizers, seconds, strict=True):
            start = time.process_time()
            sum(trainer.objective(trainer.student, (images, labels)).values()).backward()
            optimizer.step()
            optimizer.zero_grad()
            taken.append(time.process_time() - start)
    masked, removed = (each[SKIPPED:] for each in seconds)
    low, middle, high = statistics.quantiles([few / all_ for few, all_ in zip(removed, masked, strict=True)], n=4)
    return {
        "model": name,
        "batch": batch,
        "blocks": blocks,
        "keep_ratios": ratios,
        "pairs": pairs,
        "masked_step_cpu_s": statistics.median(masked),
        "removed_step_cpu_s": statistics.median(removed),
        "ratio": middle,
        "ratio_quartiles": [low, high],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"environment": environment(["python", *sys.argv]), "rows": []}
    for case in CASES:
        for ratios in RATIOS:
            result["rows"].append(measured(case, ratios, arguments.pairs))
            print(json.dumps(result["rows"][-1]), flush=True)
            if arguments.output:
                write_record(arguments.output, result)


if __name__ == "__main__":
    main()
