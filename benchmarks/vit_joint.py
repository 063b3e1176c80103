"""Widths and heads, tokens, or both under one budget, with equal training: accuracy by budget and seed.

    python benchmarks/vit_joint.py --output benchmarks/results/vit_joint.json
    python benchmarks/vit_joint.py --output mine.json --data data/photos --model timm:vit_tiny_patch16_224

Each arm prunes the same trained vision transformer by `taylor` scores: its heads and widths alone, its tokens alone, or
both, where the split is the one with the lowest loss on calibration images. One more arm may drop residual branches,
too. All networks are then trained alike. The budgets are multiply-accumulates and a latency in ONNX Runtime, one
thread. Rows that the output has are not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from core import processor
from records import write_record

import edakari
from edakari.errors import InfeasibleBudget

FRACTIONS = [0.0, 0.1, 0.25, 0.5, 0.75, 1.0]
TOKENS: Mapping[str, Mapping[str, Any] | None] = {
    "heads and widths": None,
    "tokens": {"fractions": [1.0]},
    "both": {"fractions": FRACTIONS},
    "both, branches too": {"fractions": FRACTIONS, "branches": [0, 1, 2]},
}
"""Settings of the tokens, by arm; None has no tokens at all."""


def recipe(arguments: argparse.Namespace, arm: str, budget: str, seed: int) -> dict[str, Any]:
    """The recipe of an arm."""
    tokens = TOKENS[arm] and {"selector": arguments.selector, **TOKENS[arm]}
    timed = {"runtime": "onnxruntime", "threads": 1, "batch": arguments.batch, "spread": arguments.spread}
    return {
        "model": {"name": arguments.model, "weights": arguments.weights},
        "data": {"source": arguments.data, "max_images": arguments.images},
        "method": {"name": "taylor", "tokens": tokens},
        "budget": budget,
        "latency": timed if "latency" in budget else {},
        "finetune": {"epochs": arguments.epochs, "lr": arguments.lr},
        "seed": seed,
        "device": "cpu",
    }


def row(arguments: argparse.Namespace, arm: str, budget: str, seed: int) -> dict[str, Any]:
    """Run an arm, and return what the table says of it."""
    start = time.process_time()
    found: dict[str, Any] = {"arm": arm, "budget": budget, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        try:
            run = edakari.run(recipe(arguments, arm, budget, seed), Path(folder) / "run")
        except InfeasibleBudget as error:
            return {**found, "infeasible": str(error)}
    report, pruned = run.report, run.results.prune
    assert pruned is not None
    dense, cut, trained = report["networks"]
    found |= {"dense_top1": dense["metrics"]["top1"]}
    found |= {"cut_top1": cut["metrics"]["top1"], "top1": trained["metrics"]["top1"]}
    found |= {"macs": trained["costs"]["macs"] / dense["costs"]["macs"]}
    found |= {"params": trained["costs"]["params"] / dense["costs"]["params"]}
    found |= {name: each.chosen.timing.pruned.ratio for name, each in pruned.latencies.items()}
    choice = report["log"][-1] if TOKENS[arm] else {}
    found |= {"by_tokens": choice.get("fraction by tokens"), "dropped": choice.get("dropped branches")}
    return {**found, "tokens": report["tokens"], "seconds": time.process_time() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--data", default="embedded:fashion", help="folder or file with images, as data.source")
    parser.add_argument("--model", default="edakari:fashion_vit")
    parser.add_argument("--weights", default="pretrained")
    parser.add_argument("--budgets", nargs="+", default=["macs<=60%", "latency<=60%"])
    parser.add_argument("--arms", nargs="+", default=list(TOKENS), choices=list(TOKENS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--selector", default="tome")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--images", type=int, default=None, help="training images; all if not given")
    parser.add_argument("--lr", type=float, default=0.0005)
    parser.add_argument("--batch", type=int, default=16, help="images per call where a latency is measured")
    parser.add_argument("--spread", type=float, default=0.15, help="largest spread of timings")
    arguments = parser.parse_args()
    settings = {key: value for key, value in vars(arguments).items() if key in SETTINGS}
    where = {"processor": processor(), "torch": torch.__version__, "command": " ".join(["python", *sys.argv])}
    known = json.loads(arguments.output.read_text(encoding="utf-8"))["rows"] if arguments.output.is_file() else {}
    for budget in arguments.budgets:
        for seed in arguments.seeds:
            for arm in arguments.arms:
                key = f"{budget}, {arm}, seed {seed}"
                if key in known:
                    continue
                known[key] = row(arguments, arm, budget, seed)
                print(key, known[key], flush=True)
                write_record(arguments.output, {"settings": settings, "environment": where, "rows": known})


SETTINGS = ("model", "data", "selector", "epochs", "images", "lr", "batch", "spread")

if __name__ == "__main__":
    main()
