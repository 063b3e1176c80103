"""Why SMCP's repeated choice lies behind one choice in a short training, and what cures it.

    python benchmarks/repeated_choice.py DATA --dense benchmarks/results/cifar10_grid_dense.safetensors \
      --output benchmarks/results/smcp_repeated.json

ResNet-20 on CIFAR-10 as in `cifar10.py`, one epoch of 22,500 images in batches of 64, 30 % of the multiply-accumulates.
All is judged by training images that nothing trains on. A run goes on where an earlier one stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import cifar10
from cifar10_arms import REPEATED, SMCP
from core import environment
from records import write_record

BUDGET = "macs<=30%"
MANY = {**REPEATED, "interval": 6}
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "one choice": ("smcp", SMCP),
    "15 choices by 6 steps, scores of the last": ("smcp", {**MANY, "median_of": 1}),
    "15 choices by 6 steps, medians over five": ("smcp", MANY),
    "4 choices by 18 steps, scores of the last": ("smcp", {**REPEATED, "median_of": 1}),
    "4 choices by 18 steps, medians over five": ("smcp", REPEATED),
}
MANY_PHASES = (0.05, 0.25, 0.7)


def phases_of(options: dict[str, Any]) -> tuple[float, float, float]:
    """Warm-up, ramp and freeze of an arm, in fractions of the training."""
    if options is SMCP:
        return cifar10.PHASES["smcp"]
    return cifar10.PHASES["smcp repeated"] if options["interval"] == REPEATED["interval"] else MANY_PHASES


def row_of(arm: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Top-1, widths and returned channels of an arm."""
    row = cifar10.own_arm(arm, BUDGET, seed, arguments.dense, arguments)
    report = json.loads(((arguments.work / row["onnx"]).parents[1] / "report.json").read_text())
    widths = {group["name"]: group["kept"] for group in report["groups"]}
    chosen = next(line for line in report["log"] if line["stage"] == "final masks")
    kept = {name: row[name] for name in ("top1", "macs", "seconds")}
    return {**kept, "widths": widths, "regrown_per_choice": chosen["regrown_per_choice"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/repeated_choice"), help="folder of the runs")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--dense", type=Path, required=True, help="weights of the dense network")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.set_defaults(limit=22500, batch=64, epochs=1, lr=0.02)
    arguments = parser.parse_args()
    arguments.data = cifar10.held_out(arguments)
    cifar10.ARMS, cifar10.PHASES = ARMS, {arm: phases_of(options) for arm, (_, options) in ARMS.items()}
    found = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {"budget": BUDGET, "arms": {}}
    for seed in arguments.seeds:
        for arm in ARMS:
            name = f"{arm}, seed {seed}"
            if name not in found["arms"]:
                found["arms"][name] = row_of(arm, seed, arguments)
                found["environment"] = environment(["python", *sys.argv])
                write_record(arguments.output, found)
                print(f"{name}: {found['arms'][name]['top1']:.2%}", flush=True)


if __name__ == "__main__":
    main()
