"""Accuracy of token pruning at equal measured latency, before and after equal fine-tuning.

    python benchmarks/tokens_accuracy.py plan --output benchmarks/results/tokens_accuracy.json   # a quiet machine
    python benchmarks/tokens_accuracy.py train --output benchmarks/results/tokens_accuracy.json
    python benchmarks/tokens_accuracy.py time --output benchmarks/results/tokens_accuracy.json   # a quiet machine

The embedded ViT on the embedded Fashion-MNIST: SPViT, DynamicViT-like, EViT, ToMe and random dropping, each at 70 % and
50 % of the dense network's latency in ONNX Runtime, one thread, batches of 16: alone, an image takes this network so
little that choosing tokens costs what it saves. `plan` finds the numbers of tokens, by measurement. `train` judges the
networks cut at once ("free"; DynamicViT's predictors are trained alone before, for they know nothing otherwise) and
after as many epochs on the same images for every arm ("tuned"), all with the dense network as the teacher. Validation
images are looked at once for each row, and nothing was chosen by them. One more arm is SPViT with the numbers of tokens
of random dropping: what it would be if its selectors took no time; and DynamicViT-like begins once as its authors have
it, once as SPViT's selectors do. `time` measures all networks again, in turns.
Every step goes on where it stopped.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses as dc
import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from core import processor
from records import write_record
from torch import nn

import edakari
from edakari.core.budget import Budget
from edakari.core.method import Job, registered
from edakari.core.plan import Plan
from edakari.core.protocols import Schedule
from edakari.cost import dense
from edakari.latency.bench import Bench
from edakari.latency.runtimes import runtime_named
from edakari.latency.timing import RunSettings
from edakari.models import build
from edakari.pipeline import PruneSettings, run_given
from edakari.pipeline.settings import LatencySettings
from edakari.surgery import apply
from edakari.surgery.tokens import token_sites
from edakari.tasks import DataSettings, task_from_settings
from edakari.tasks.classify import Classification
from edakari.tasks.own import Task
from edakari.train import FitSettings, distillation, fit, fitter

ARMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "SPViT": ("spvit", {"training": {"selector_epochs": 0}}),
    "SPViT, two selectors": ("spvit", {"training": {"selector_epochs": 0}, "blocks": (1, 3)}),
    "DynamicViT-like": ("dynamicvit", {"training": {"selector_epochs": 1}, "start": "random"}),
    "DynamicViT-like, SPViT's start": ("dynamicvit", {"training": {"selector_epochs": 0}}),
    "EViT": ("evit", {}),
    "ToMe": ("tome", {}),
    "random": ("random_tokens", {}),
    "SPViT, choice for nothing": ("spvit", {"training": {"selector_epochs": 0}}),
}
FOR_NOTHING = "SPViT, choice for nothing"
LEARNED = ("SPViT", "SPViT, two selectors", "DynamicViT-like", "DynamicViT-like, SPViT's start", FOR_NOTHING)
CHANCE = ("DynamicViT-like", "random")
"""Arms whose networks depend on the seed even without training."""
COUNTS_OF = {FOR_NOTHING: "random", "DynamicViT-like, SPViT's start": "DynamicViT-like"}
"""Arms with the numbers of tokens of another one; the second of these is the same network with other weights."""
SETTINGS = ("epochs", "lr", "limit")
"""What a result depends on beside the code."""


def method(arm: str, **more: Any) -> Any:
    """The pruning method of an arm."""
    name, settings = ARMS[arm]
    return registered()[name](**{**settings, **more})


def planned(arm: str, share: float, model: nn.Module, bench: Bench) -> dict[str, Any]:
    """Numbers of tokens at which an arm takes this fraction of the dense time, whatever its selectors have learned."""
    own = method(arm)
    own = dc.replace(own, start="unlike") if hasattr(own, "start") else own
    timed = LatencySettings(
        runtime=bench.runtime.name, batch=len(bench.example), repeats=bench.repeats, spread=bench.spread
    )
    settings = PruneSettings(method=own, budget=Budget.parse(f"latency<={share:.0%}"), latency=timed, device="cpu")
    plan = run_given(model, Task.of(bench.example[:1]), settings, notify=told).plan
    return {"blocks": [edit.block for edit in plan.tokens()], "counts": [edit.count for edit in plan.tokens()]}


def told(stage: str, state: str, found: Any) -> None:
    """Print what a long measurement says of its progress."""
    if state == "log":
        print(f"  {found['stage']}", flush=True)


def job(model: nn.Module, task: Classification, seed: int) -> Job:
    """What a method gets; the numbers of tokens are fixed, so the budget allows all."""
    graph = edakari.trace(model, task.example())
    budget = Budget.parse("macs<=100%").absolute(dense(graph))
    settings = FitSettings(seed=seed)
    return Job(copy.deepcopy(model), graph, (), task, budget, fitter(task, settings), seed=seed)


def pruned(arm: str, counts: list[int], tuned: bool, given: Job, arguments: argparse.Namespace) -> nn.Module:
    """The network of an arm, trained for as many epochs as all others."""
    patches = token_sites(given.model, given.task.example()).patches[0]
    more: dict[str, Any] = {"keep_ratios": tuple(count / patches for count in counts)}
    left = arguments.epochs if tuned else 0
    if arm in LEARNED:
        # SPViT's masks are dear: one epoch with them, the rest with tokens removed
        alone = method(arm).training.selector_epochs
        joint = min(left, 1) if arm != "DynamicViT-like" else max(0, left - alone)
        rates = {"joint_lr": arguments.lr, "selector_lr": arguments.selector_lr}
        more["training"] = dc.replace(method(arm).training, joint_epochs=joint, **rates)
        left -= min(left, joint + (alone if tuned else 0))
    teacher = copy.deepcopy(given.model)
    model = method(arm, **more).prune(given).model
    if left:
        schedule = Schedule(epochs=left, lr=arguments.lr, optimizer="adamw", weight_decay=0.05)
        objective = distillation(given.task, teacher, 0.5, 1.0)
        fit(model, objective, given.task.batches("train"), schedule, settings=FitSettings(seed=given.seed))
    return model


def ran(arm: str, share: float, seed: int, tuned: bool, results: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    task = task_from_settings(DataSettings(max_images=arguments.limit, seed=seed, pad=2))
    torch.manual_seed(seed)
    start = time.perf_counter()
    given = job(build("edakari:fashion_vit", weights="pretrained"), task, seed)
    model = pruned(arm, results["plans"][f"{arm} {share:g}"]["counts"], tuned, given, arguments)
    return {
        "arm": arm,
        "share": share,
        "seed": seed,
        "tuned": tuned,
        "top1": task.evaluate(model)["top1"],
        "macs": dense(edakari.trace(model, task.example()))["macs"] / given.budget.terms[0].limit,
        "seconds": time.perf_counter() - start,
    }


def train(results: Any, arguments: argparse.Namespace) -> None:
    """All rows that are missing, seed by seed."""
    missing = [name for name in planned_names(arguments) if name not in results["plans"]]
    if missing:
        raise SystemExit(f"{arguments.output} has no numbers of tokens of {', '.join(missing)}: run `plan` first")
    settings = {name: getattr(arguments, name) for name in SETTINGS}
    if results.setdefault("settings", settings) != settings:
        raise SystemExit(f"{arguments.output} was made with {results['settings']}, not with {settings}")
    if "dense_top1" not in results:
        model = build("edakari:fashion_vit", weights="pretrained")
        results["dense_top1"] = task_from_settings(DataSettings()).evaluate(model)["top1"]
    rows = results.setdefault("rows", {})
    for seed in arguments.seeds:
        for tuned in (False, True):
            for share in arguments.shares:
                for arm in arguments.arms:
                    name = f"{arm} {share:g} {seed} {'tuned' if tuned else 'free'}"
                    if name in rows or (not tuned and seed and arm not in CHANCE):
                        continue
                    rows[name] = ran(arm, share, seed, tuned, results, arguments)
                    print(f"{name}: {rows[name]['top1']:.4f}, {rows[name]['seconds']:.0f} s", flush=True)
                    write_record(arguments.output, results)


def planned_names(arguments: argparse.Namespace) -> list[str]:
    """Names of the plans that are asked for; those that others take their numbers of tokens from come first."""
    needed = dict.fromkeys([*(COUNTS_OF[arm] for arm in arguments.arms if arm in COUNTS_OF), *arguments.arms])
    return [f"{arm} {share:g}" for share in arguments.shares for arm in needed]


def plan(results: Any, model: nn.Module, bench: Bench, arguments: argparse.Namespace) -> None:
    """Numbers of tokens that are missing."""
    for name in planned_names(arguments):
        if name not in results["plans"]:
            arm, _, share = name.rpartition(" ")
            other = COUNTS_OF.get(arm)
            found = dict(results["plans"][f"{other} {share}"]) if other else planned(arm, float(share), model, bench)
            results["plans"][name] = found
            print(name, found["counts"], flush=True)
            write_record(arguments.output, results)


def timed(results: Any, model: nn.Module, bench: Bench) -> None:
    """All networks and the dense one in turns; their times do not depend on their weights."""
    if not results["plans"]:
        raise SystemExit("there are no networks to time; run the step `plan` first")
    graph, sites, networks = edakari.trace(model, bench.example), token_sites(model, bench.example), {}
    for name, found in results["plans"].items():
        design = method(name.rpartition(" ")[0]).design(sites)
        design = dc.replace(design, blocks=tuple(map(sites.names.index, found["blocks"])))
        edits = design.edits(tuple(found["counts"]))
        networks[name] = apply(model, Plan(edits, graph.fingerprint, graph.inputs)).eval()
    timings = bench.timed({"dense": model, **networks})
    results["dense"] = dc.asdict(timings["dense"])
    for name in networks:
        timing = timings[name]
        results["plans"][name] |= {"latency": timing.ratio, "median_ms": timing.median_ms, "spread": timing.spread}
        print(f"{name}: {timing.ratio:.1%} of {timings['dense'].median_ms:.3g} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("plan", "train", "time"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--shares", type=float, nargs="+", default=[0.7, 0.5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--limit", type=int, default=None, help="of the training images; all of them otherwise")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--selector-lr", type=float, default=5e-3)
    parser.add_argument("--batch", type=int, default=16, help="images of a call that is timed")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument(
        "--spread", type=float, default=0.5, help="largest accepted in `plan`, as a share of the median"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {"plans": {}}
    results.setdefault("environment", {})[arguments.step] = " ".join(["python", *sys.argv])
    results["environment"] |= {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "timm", "onnxruntime")},
    }
    if arguments.step == "train":
        train(results, arguments)
        return
    model, example = build("edakari:fashion_vit", weights="pretrained"), torch.zeros(arguments.batch, 1, 28, 28)
    bench = Bench(runtime_named("onnxruntime"), RunSettings(threads=1), example, arguments.repeats, arguments.spread)
    if arguments.step == "plan":
        plan(results, model, bench, arguments)
    else:
        timed(results, model, bench)
    write_record(arguments.output, results)


if __name__ == "__main__":
    main()
