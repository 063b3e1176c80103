"""The ablation of EKG's paper on ResNet-20 and CIFAR-10: knowledge in the search, knowledge in the fine-tuning.

    python benchmarks/ekg_ablation.py DATA --dense benchmarks/results/cifar10_resnet20.safetensors \
        --output benchmarks/results/ekg_ablation.json

DATA is the folder of train.npz and test.npz, as for cifar10.py. All arms start from one dense network and share recipe,
budget, images, augmentation, views, learning rate and seeds; they differ in what ARMS says, and in nothing else: arms
that search alike fine-tune the same network. The dense network is trained on alike in an arm of its own, since more
training alone makes it better or worse. A network is judged on the test images once, at the end of its training. A run
goes on where an earlier one stopped, and several may run side by side with other arms or seeds.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses as dc
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cifar10 import common, kept, trained

import edakari as ek
from edakari.core.method import Job, Outcome
from edakari.cost import dense as costs_of
from edakari.graph import trace
from edakari.models import build
from edakari.pipeline import read_recipe
from edakari.pipeline.context import chosen_groups
from edakari.tasks import task_from_settings
from edakari.train import BankTeaching, FitSettings, bank_in, fit, fitter, task_objective

RECIPE = "recipes/cifar10_resnet20_ekg.yaml"
BUDGET = "macs<=45%"
SEARCHES: Mapping[str, tuple[str, ...]] = {
    "none": ("method.knowledge=none",),
    "ensemble": ("method.knowledge=ensemble",),
    "single": ("method.knowledge=single",),
    "magnitude": ("method={name: magnitude}",),
    "dense": ("method={name: magnitude}", "budget=macs<=100%"),
}
ARMS: Mapping[str, tuple[str, bool]] = {
    "none / none": ("none", False),
    "ensemble / none": ("ensemble", False),
    "ensemble / ensemble": ("ensemble", True),
    "magnitude / none": ("magnitude", False),
    "dense, trained on": ("dense", False),
    "single / none": ("single", False),
    "dense": ("dense", False),
}
"""Who teaches in the search, and whether the memory bank does in the fine-tuning."""
SETTINGS = ("epochs", "lr", "limit", "batch", "dense_epochs")
"""What an arm's result depends on beside the code."""


@dc.dataclass(frozen=True)
class Searched:
    """The network of a search, and what it took."""

    recipe: Any
    job: Job
    outcome: Outcome
    seconds: float


def searched(search: str, seed: int, dense: Path, arguments: argparse.Namespace) -> Searched:
    settings = [
        *common(dense, seed, arguments),
        f"budget={BUDGET}",
        f"finetune.epochs={arguments.epochs}",
        f"finetune.lr={arguments.lr}",
        *SEARCHES[search],
    ]
    recipe = read_recipe(RECIPE, settings)
    model, task = build(recipe.model), task_from_settings(recipe.data, recipe.seed)
    graph = trace(model, task.example())
    folder = arguments.work / f"{search}_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    fitting = FitSettings(folder=folder, device="cpu", seed=seed)
    budget = recipe.budget.absolute(costs_of(graph))
    groups = chosen_groups(graph, recipe.limits)
    job = Job(model, graph, groups, task, budget, fitter(task, fitting), seed=seed, folder=folder)
    start = time.process_time()
    return Searched(recipe, job, recipe.method.prune(job), time.process_time() - start)


def arm_row(arm: str, found: Searched, arguments: argparse.Namespace) -> dict[str, Any]:
    """Fine-tune the network of a search, and judge it."""
    (search, taught), recipe, task = ARMS[arm], found.recipe, found.job.task
    start = time.process_time()
    folder = arguments.work / f"{search}_{recipe.seed}" / ("bank" if taught else "alone")
    objective = task_objective(task)
    if taught:
        teachers = found.outcome.teachers
        assert teachers is not None
        bank = bank_in(
            folder, task, {"plan": found.outcome.plan.digest()}, lambda: list(teachers(recipe.bank.teachers))
        )
        objective = BankTeaching(task, bank, recipe.bank.temperature, recipe.bank.gate, recipe.bank.share)
    banked = time.process_time()
    model = copy.deepcopy(found.outcome.model)
    if arm != "dense":
        settings = FitSettings(folder=folder / "fit", device="cpu", seed=recipe.seed)
        fit(model, objective, task.with_indices(recipe.teach.views), recipe.finetune, settings=settings)
    tuned = time.process_time()
    before, after = (costs_of(graph) for graph in (found.job.graph, ek.trace(model, task.example())))
    return {
        "arm": arm,
        "seed": recipe.seed,
        **{key: value for key, value in task.evaluate(model).items() if key in ("top1", "loss")},
        **{cost: after[cost] / before[cost] for cost in ("macs", "params")},
        "teachers_used": objective.used if isinstance(objective, BankTeaching) else None,
        "cpu_s": {"search": found.seconds, "bank": banked - start, "finetune": tuned - banked},
    }


def table(rows: Mapping[str, dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds of each arm."""
    lines = []
    for arm in ARMS:
        tops = [100 * row["top1"] for row in rows.values() if row["arm"] == arm]
        if tops:
            spread = statistics.stdev(tops) if len(tops) > 1 else float("nan")
            lines.append(f"{arm:22} {statistics.mean(tops):6.2f} ± {spread:4.2f}  (n={len(tops)})")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/ekg_ablation"), help="folder of what is kept")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--dense", type=Path, help="weights of the dense network; trained where there are none")
    parser.add_argument("--arms", nargs="+", default=list(ARMS)[:-2], choices=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=1, help="of fine-tuning; each image is seen twice in each")
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument("--limit", type=int, help="training images of every arm")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dense-epochs", type=int, default=12)
    arguments = parser.parse_args()
    dense = trained(arguments)
    settings = {key: getattr(arguments, key) for key in SETTINGS}
    for seed in arguments.seeds:
        last: dict[str, Searched] = {}
        for arm in arguments.arms:
            key, search = f"{arm}, seed {seed}", ARMS[arm][0]
            with kept(arguments.output, settings) as arms:
                there = key in arms
            if there:
                continue
            last = last if search in last else {search: searched(search, seed, dense, arguments)}
            row = arm_row(arm, last[search], arguments)
            with kept(arguments.output, settings) as arms:
                arms[key] = row
            print(f"{key}: {row['top1']:.2%}, {row['cpu_s']}", flush=True)
    with kept(arguments.output, settings) as arms:
        print(table(arms))


if __name__ == "__main__":
    main()
