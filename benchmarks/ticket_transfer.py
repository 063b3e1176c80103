"""Accuracy of tickets of SuperTickets on another task, against training the same structure and masks from scratch.

    python benchmarks/ticket_transfer.py runs/tickets/classification_ticket_0.9_0 instances:NUCLEI --name nuclei \
      --head segmentation --classes 2 --output benchmarks/results/ticket_transfer.json
    python benchmarks/ticket_transfer.py runs/tickets/segmentation_ticket_0.9_0 camvid:CAMVID --name camvid \
      --classes 11 --output …

The ticket is the folder of a run of tickets.py, whose seed its name ends with; the source is as in a recipe.

- transferred: the ticket with a new prediction layer, or with a new head.
- from scratch: the same structure, masks and layers, all with initial weights.

Both train with the same masks, epochs and images. Rows that are there are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from core import environment
from records import write_record
from short_training import schedule, short_task, tuned
from torch import nn

import edakari
from edakari.models import build, spec_of
from edakari.surgery import held_masks
from edakari.surgery.origin import steps_of

ARMS = ("transferred", "from scratch")
SETTINGS = ("head", "classes", "epochs", "steps", "batch", "lr", "size")
"""What a row depends on beside the code and the ticket."""


def redrawn(ticket: nn.Module, seed: int) -> nn.Module:
    """A network with the structure and masks of a ticket, and initial weights."""
    spec = spec_of(ticket)
    assert spec is not None, "the ticket is of no network with a name"
    torch.manual_seed(seed)
    network = build(spec)
    for step in steps_of(ticket):
        network = edakari.apply(network, step.plan)
    return network


def row(arm: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Metrics after training, and what is left of the weights."""
    start = time.perf_counter()
    task = short_task(
        seed,
        arguments.steps,
        arguments.batch,
        task="segmentation",
        source=arguments.source,
        image_size=tuple(arguments.size),
        workers=arguments.workers,
    )
    ticket = edakari.load(arguments.ticket)
    network = ticket if arm == "transferred" else redrawn(ticket, seed)
    where = {"head": arguments.head} if arguments.head else {"reinitialise": True}
    model = edakari.transfer(network, arguments.classes, example=task.example(), seed=seed, **where)
    masks = held_masks(model)
    return {
        "arm": arm,
        "seed": seed,
        "metric": task.metric,
        **tuned(model, masks, task, schedule(arguments.epochs, arguments.lr), seed),
        "masked": sum(int((~mask).sum()) for mask in masks.values()),
        "weights": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": time.perf_counter() - start,
    }


def summary(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the seeds by arm, and the differences of equal seeds."""
    found: dict[str, Any] = {}
    values = {(each["arm"], each["seed"]): each[each["metric"]] for each in rows.values()}
    for arm in ARMS:
        own = [value for (of, _), value in values.items() if of == arm]
        if own:
            found[arm] = {"mean": statistics.mean(own), "range": [min(own), max(own)], "seeds": len(own)}
    pairs = {
        seed: value - values[ARMS[1], seed]
        for (arm, seed), value in values.items()
        if arm == ARMS[0]
        if (ARMS[1], seed) in values
    }
    return {**found, "differences": pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ticket", type=Path, help="folder of a run")
    parser.add_argument("source", help="data of the new task, as data.source in a recipe")
    parser.add_argument("--name", required=True, help="name of the new task in the results")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--head", help="new head of the supernet; omit to replace the prediction layer alone")
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=24, help="of an epoch")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--size", type=int, nargs=2, default=[128, 128], help="height and width")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    settings = {
        "ticket": arguments.ticket.name,
        "source": arguments.source.partition(":")[0],
        **{key: getattr(arguments, key) for key in SETTINGS},
    }
    results = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {}
    found = results.get(arguments.name, {})
    if found.get("settings", settings) != settings:
        raise SystemExit(f"{arguments.output} holds rows of {arguments.name} with other settings: {found['settings']}")
    rows = found.get("rows", {})
    for seed in arguments.seeds:
        for arm in ARMS:
            key = f"{arm}, seed {seed}"
            if key in rows:
                continue
            rows[key] = row(arm, seed, arguments)
            print(f"{arguments.name}, {key}: {rows[key]}", flush=True)
            head = {"environment": environment(["python", *sys.argv]), "settings": settings}
            results[arguments.name] = {**head, "rows": rows, "means": summary(rows)}
            write_record(arguments.output, results)


if __name__ == "__main__":
    main()
