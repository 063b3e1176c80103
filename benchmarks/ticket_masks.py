"""Accuracy of the masks of tickets, against random masks that leave each layer as many weights.

    python benchmarks/ticket_masks.py runs/tickets/classification_ticket_0.9_* --data DATA \
      --output benchmarks/results/ticket_masks.json

The tickets are folders of runs of tickets.py with classification, whose seeds their names end with; DATA is as there.
All arms have the structure of the ticket, and train for equal epochs on the same images, with masks that do not change:

- ticket: its masks, and the weights with which its training began.
- random: masks drawn at random, which leave as many weights of each parameter, and the same weights.
- with its weights: its masks, and the weights that it has been given by then.
- random, with its weights: the random masks, and the ticket's weights. Those that its own masks hide are as at the
  beginning, for a run does not store what is hidden.

Rows that are there are not repeated.
"""

from __future__ import annotations

import argparse
import dataclasses as dc
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
from edakari.core.plan import MaskWeights
from edakari.methods.tickets.baselines import rewind
from edakari.models import build, spec_of
from edakari.surgery import held_masks
from edakari.surgery.origin import steps_of

ARMS = ("ticket", "random", "with its weights", "random, with its weights")
PAIRS = {ARMS[0]: ARMS[1], ARMS[2]: ARMS[3]}
"""Arms that differ in the masks alone."""
SETTINGS = ("epochs", "steps", "batch", "lr", "size")
"""What a row depends on beside the code and the ticket."""


def initial(ticket: nn.Module, seed: int) -> Mapping[str, torch.Tensor]:
    """Weights with which the training of a ticket began, cut to its structure, without masks."""
    spec = spec_of(ticket)
    assert spec is not None, "the ticket is of no network with a name"
    torch.manual_seed(seed)
    network = build(spec)
    for step in steps_of(ticket):
        cuts = tuple(edit for edit in step.plan.edits if not isinstance(edit, MaskWeights))
        network = edakari.apply(network, dc.replace(step.plan, edits=cuts))
    return network.state_dict()


def redrawn(masks: Mapping[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Masks with the same number of weights that stay of each parameter, at random places."""
    drawn = torch.Generator().manual_seed(seed)
    order = {name: torch.randperm(mask.numel(), generator=drawn) for name, mask in masks.items()}
    return {name: mask.flatten()[order[name]].view_as(mask) for name, mask in masks.items()}


def row(arm: str, folder: Path, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Metrics after training, and what is left of the weights."""
    start, ticket = time.perf_counter(), edakari.load(folder / "pruned")
    data = {"train": [str(arguments.data / "train.npz")], "val": str(arguments.data / "test.npz")}
    task = short_task(
        seed, arguments.steps, arguments.batch, image_size=arguments.size, workers=arguments.workers, **data
    )
    own: Mapping[str, torch.Tensor] = held_masks(ticket)
    masks = redrawn(own, seed) if arm.startswith("random") else own
    weights = initial(ticket, seed)
    if arm.endswith("with its weights"):
        trained = ticket.state_dict()
        weights = {
            name: torch.where(own[name], value, weights[name]) if name in own else value
            for name, value in trained.items()
        }
    model = rewind(ticket, weights, masks)
    return {
        "arm": arm,
        "ticket": folder.name,
        "seed": seed,
        "metric": task.metric,
        **tuned(model, masks, task, schedule(arguments.epochs, arguments.lr), seed),
        "masked": sum(int((~mask).sum()) for mask in masks.values()),
        "seconds": time.perf_counter() - start,
    }


def summary(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the tickets by arm, and the differences of equal tickets."""
    values = {(each["arm"], each["ticket"]): each[each["metric"]] for each in rows.values()}
    own = {arm: [value for (of, _), value in values.items() if of == arm] for arm in ARMS}
    means = {
        arm: {"mean": statistics.mean(found), "range": [min(found), max(found)]} for arm, found in own.items() if found
    }
    differences = {
        f"{arm}, less {other}": {
            ticket: value - values[other, ticket]
            for (of, ticket), value in values.items()
            if of == arm and (other, ticket) in values
        }
        for arm, other in PAIRS.items()
    }
    return {**means, "differences": differences}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tickets", type=Path, nargs="+", help="folders of runs")
    parser.add_argument("--data", type=Path, required=True, help="folder of train.npz and test.npz")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--steps", type=int, default=36, help="of an epoch")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.3)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    settings = {key: getattr(arguments, key) for key in SETTINGS}
    results = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {}
    if results.get("settings", settings) != settings:
        raise SystemExit(f"{arguments.output} holds rows of other settings: {results['settings']}")
    rows = results.get("rows", {})
    head = {"environment": environment(["python", *sys.argv]), "settings": settings}
    for folder in arguments.tickets:
        for arm in ARMS:
            key = f"{arm}, {folder.name}"
            if key not in rows:
                rows[key] = row(arm, folder, int(folder.name.rpartition("_")[2]), arguments)
                write_record(arguments.output, {**head, "rows": rows, "means": summary(rows)})
                print(f"{key}: {rows[key]}", flush=True)


if __name__ == "__main__":
    main()
