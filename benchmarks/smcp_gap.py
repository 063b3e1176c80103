"""Why SMCP lies behind at 30 % of the multiply-accumulates: its widths, its channels, or its training?

    python benchmarks/smcp_gap.py DATA --output benchmarks/results/smcp_gap.json

ResNet-20 on CIFAR-10 as in `cifar10.py`, one epoch of 22,500 images in batches of 64. First, arms as there, some with
the other allocator: one knapsack or one threshold for scores that are normalised within groups (`taylor`, `magnitude`).
Then networks with the widths that each of three methods found, in which Taylor's ranking chooses the channels, all
fine-tuned alike: what is between these lies in the widths alone. A run goes on where an earlier one stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import cifar10
import torch
from cifar10_arms import ONE_CUT
from core import environment
from records import write_record

import edakari
from edakari.core.plan import Plan
from edakari.criteria import Taylor
from edakari.models import build
from edakari.pipeline.recipe import read_recipe
from edakari.solve import keep_best
from edakari.surgery import apply
from edakari.tasks import task_from_settings
from edakari.train import FitSettings, fit, task_objective

BUDGET = "macs<=30%"
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "taylor": ("taylor", ONE_CUT),
    "taylor, knapsack": ("taylor", {"allocator": "knapsack", **ONE_CUT}),
    "magnitude": ("magnitude", ONE_CUT),
    "magnitude, knapsack": ("magnitude", {"allocator": "knapsack", **ONE_CUT}),
    "smcp": ("smcp", cifar10.SMCP),
    "smcp, absolute figures": ("smcp", {**cifar10.SMCP, "average": "average"}),
    "smcp, no group below a quarter": ("smcp", {**cifar10.SMCP, "groups.min_channels": 0.25}),
}
EXCHANGED = ("taylor", "smcp", "magnitude")
"""Arms whose widths are given to Taylor's channels."""


def widths(plan: Path) -> dict[str, int]:
    """Sizes of the groups that a plan cuts."""
    return {edit["group"]: len(edit["indices"]) for edit in json.loads(plan.read_text())["edits"]}


def exchanged(sizes: dict[str, int], seed: int, arguments: argparse.Namespace) -> float:
    """Top-1 of a network of these widths whose channels Taylor's ranking chose, fine-tuned as all are."""
    settings = [f"finetune.epochs={arguments.epochs}", f"finetune.lr={arguments.lr}", f"budget={BUDGET}"]
    recipe = read_recipe(cifar10.RECIPE, [*cifar10.common(arguments.dense, seed, arguments), *settings])
    torch.manual_seed(seed)
    model, task = build(recipe.model), task_from_settings(recipe.data, recipe.seed)
    graph = edakari.trace(model, task.example())
    scores = Taylor().score(model, graph, task.batches("calibration"), task)
    small = apply(model, Plan(keep_best(scores, sizes), graph.fingerprint, graph.inputs))
    assert recipe.finetune is not None
    fitting = FitSettings(seed=seed, progress=False)
    fit(small, task_objective(task), task.batches("train"), recipe.finetune, settings=fitting)
    return task.evaluate(small)["top1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/smcp_gap"), help="folder of the runs")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--dense", type=Path, default=Path("benchmarks/results/cifar10_resnet20.safetensors"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.set_defaults(limit=22500, batch=64, epochs=1, lr=0.02)
    arguments = parser.parse_args()
    cifar10.ARMS = ARMS
    found = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {"arms": {}, "exchanged": {}}
    found["environment"] = environment(["python", *sys.argv])
    for seed in arguments.seeds:
        for arm in ARMS:
            name = f"{arm}, seed {seed}"
            if name not in found["arms"]:
                row = cifar10.own_arm(arm, BUDGET, seed, arguments.dense, arguments)
                sizes = widths((arguments.work / row["onnx"]).parents[1] / "plan.json")
                found["arms"][name] = {"top1": row["top1"], "macs": row["macs"], "widths": sizes}
                print(f"{name}: {row['top1']:.2%}", flush=True)
            if arm in EXCHANGED and name not in found["exchanged"]:
                found["exchanged"][name] = exchanged(found["arms"][name]["widths"], seed, arguments)
                print(f"widths of {name}, channels of taylor: {found['exchanged'][name]:.2%}", flush=True)
            write_record(arguments.output, found)


if __name__ == "__main__":
    main()
