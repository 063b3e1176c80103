"""Accuracy of SuperTickets against search and pruning one after the other, with equal epochs and equal sizes.

    python benchmarks/tickets.py DATA --work runs/tickets --output benchmarks/results/tickets_cifar10.json
    python benchmarks/tickets.py DATA --task segmentation --sparsity 0.9 --seeds 0 --work … --output …

DATA is the folder of train.npz and test.npz as in cifar10.py; for segmentation, a folder that the source `instances:`
reads. All arms begin with the same untrained supernet, end within --budget, and train for --epochs epochs and for
--retrain more with fixed masks ("with" retraining). An epoch is --steps batches of a new order of the images.

- ticket: search and pruning in one training.
- search, then prune: a search alone; then masks at once, by magnitude or by another of --scores.
- prune, then search: masks at once after a little more than half of the epochs, and the search behind them.
- lottery ticket: a search in half of the epochs; masks at once; what is left returns to its initial weights, and trains
  for the rest of the epochs and the retraining. It has no network without retraining.

Rows that are there are not repeated; a run that was interrupted continues.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from core import environment
from records import write_record
from short_training import schedule, short_task

import edakari
from edakari.core.protocols import Schedule
from edakari.methods.supertickets import SuperTickets
from edakari.methods.tickets.mask_schedule import MaskSettings
from edakari.methods.tickets.search_settings import GateSearchSettings
from edakari.methods.tickets.sequences import LotteryTicket, PruneThenSearch, SearchThenPrune
from edakari.models import ModelSpec, build

ARMS = ("ticket", "search, then prune", "prune, then search", "lottery ticket")
SETTINGS = ("task", "epochs", "retrain", "steps", "batch", "budget", "lr", "rho", "interval", "preset", "size")
"""What a row depends on beside the code."""


def task_of(seed: int, arguments: argparse.Namespace) -> Any:
    data: dict[str, Any]
    if arguments.task == "segmentation":
        data = {"source": f"instances:{arguments.data}"}
    else:
        data = {"train": [str(arguments.data / "train.npz")], "val": str(arguments.data / "test.npz")}
    return short_task(
        seed,
        arguments.steps,
        arguments.batch,
        task=arguments.task,
        image_size=arguments.size,
        workers=arguments.workers,
        **data,
    )


def tickets(epochs: int, arguments: argparse.Namespace) -> SuperTickets:
    interval = min(arguments.interval, epochs)
    search = GateSearchSettings(
        rho=arguments.rho, warmup_epochs=epochs / 6, interval=interval, min_saving=0.0, decay=0.9999
    )
    return SuperTickets(search=search, masks=MaskSettings(interval=2), schedule=schedule(epochs, arguments.lr))


def method_of(arm: str, arguments: argparse.Namespace) -> tuple[Any, Schedule]:
    """The method of an arm, and its retraining."""
    epochs, retraining = arguments.epochs, schedule(arguments.retrain, 0.3 * arguments.lr)
    if arm == "ticket":
        return tickets(epochs, arguments), retraining
    if arm == "prune, then search":
        return PruneThenSearch(tickets=tickets(epochs, arguments), after=epochs // 2 + 1), retraining
    if arm == "lottery ticket":
        rest = epochs - epochs // 2 + arguments.retrain
        return LotteryTicket(tickets=tickets(epochs // 2, arguments)), schedule(rest, arguments.lr)
    score: Any = arm.partition(" by ")[2] or "magnitude"
    return SearchThenPrune(tickets=tickets(epochs, arguments), score=score), retraining


def row(arm: str, sparsity: float, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Metrics without and with retraining, and what is left."""
    start, task = time.perf_counter(), task_of(seed, arguments)
    torch.manual_seed(seed)
    classes = 2 if arguments.task == "segmentation" else 10
    options = {"preset": arguments.preset, "num_classes": classes, "head": arguments.task}
    model = build(ModelSpec("edakari:supernet", options=options)).to(memory_format=torch.channels_last)
    method, retraining = method_of(arm, arguments)
    result = edakari.prune(
        model,
        task,
        f"{arguments.budget}, sparsity>={sparsity:.0%}",
        method,
        finetune=retraining,
        output=arguments.work / f"{arguments.task}_{arm}_{sparsity}_{seed}".replace(" ", "_").replace(",", ""),
        seed=seed,
        device="cpu",
    )
    graph = edakari.trace(result.model, task.example())
    weights = [result.model.get_parameter(name) for name in edakari.graph.maskable_weights(graph)]
    checked, finetuned = result.results.check, result.results.finetune
    assert checked is not None
    assert finetuned is not None
    return {
        "arm": arm,
        "sparsity": sparsity,
        "seed": seed,
        "metric": task.metric,
        "without": None if arm == "lottery ticket" else checked.metrics[task.metric],
        "with": finetuned.metrics[task.metric],
        **{cost: edakari.cost.dense(graph)[cost] for cost in ("macs", "params")},
        "weights": sum(weight.numel() for weight in weights),
        "left": sum(int(weight.count_nonzero()) for weight in weights),
        "seconds": time.perf_counter() - start,
    }


def summary(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and range over the seeds, by arm and sparsity."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for each in rows:
        groups.setdefault(f"{each['arm']}, {each['sparsity']:.0%}", []).append(each)
    found = {}
    for key, own in groups.items():
        values = {kind: [each[kind] for each in own] for kind in ("without", "with", "macs", "left")}
        there = {kind: value for kind, value in values.items() if None not in value}
        means = {kind: statistics.mean(value) for kind, value in there.items()}
        ranges = {
            f"{kind} range": [min(there[kind]), max(there[kind])] for kind in ("without", "with") if kind in there
        }
        found[key] = {"seeds": len(own), **means, **ranges}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/tickets"), help="folder of networks and checkpoints")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--task", default="classification", choices=("classification", "segmentation"))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--scores", nargs="*", default=[], help="scores other than magnitude of search, then prune")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.8, 0.9, 0.95])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--retrain", type=int, default=6)
    parser.add_argument("--steps", type=int, default=36, help="of an epoch")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--budget", default="macs<=50%")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--rho", type=float, default=1e-3, help="strength of the penalty at first")
    parser.add_argument("--interval", type=int, default=3, help="epochs between two searches")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    settings = {key: getattr(arguments, key) for key in SETTINGS}
    results = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {}
    if results.get("settings", settings) != settings:
        raise SystemExit(f"{arguments.output} holds rows of other settings: {results['settings']}")
    rows = results.get("rows", {})
    head = {"environment": environment(["python", *sys.argv]), "settings": settings}
    arms = [*arguments.arms, *(f"search, then prune by {score}" for score in arguments.scores)]
    for seed, sparsity, arm in itertools.product(arguments.seeds, arguments.sparsity, arms):
        key = f"{arm}, {sparsity:.0%}, seed {seed}"
        if key not in rows:
            rows[key] = row(arm, sparsity, seed, arguments)
            write_record(arguments.output, {**head, "rows": rows, "means": summary(rows.values())})
            print(f"{key}: {rows[key]}", flush=True)
    print(json.dumps(summary(rows.values()), indent=2))


if __name__ == "__main__":
    main()
