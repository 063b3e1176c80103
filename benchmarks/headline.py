"""Full schedules of the papers on CIFAR-10, for a machine with a GPU: dense, SMCP, EKG, RFC and ISP.

    python benchmarks/headline.py DATA --work runs/headline --output runs/headline.json --estimate
    python benchmarks/headline.py DATA --work runs/headline --output runs/headline.json
    python benchmarks/headline.py DATA --work runs/try --output runs/try.json --scale 0.001 --batch 8

DATA is the folder of train.npz and test.npz (`images`, uint8 [N, 32, 32, 3], and `labels`). Each arm is one command of
`edakari`: images lie on the device and are augmented there, in bf16 and channels last, and plain networks are compiled
(--compile). The first line measures some steps of each arm, and says how long each will take. The second trains the
dense network, then each arm; an arm that has run for --minutes is stopped and goes on when the same line is given
again. An arm that was estimated not to fit into one sitting is refused, unless --sittings allows several. The last line
tries everything on a CPU, at a thousandth of its steps: the product of epochs and steps per epoch is a thousandth, with
fewer images for scores and trials. Such a network cannot be judged.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar10_results import kept
from headline_arms import ARMS, Arm, short_images

__all__ = ["commands", "main"]

KEPT = ("network", "seed", "scale", "batch", "compile")
"""What an arm's result depends on beside the code."""
GRACE = 120
"""Seconds that a stopped arm has for its checkpoint."""


def commands(arguments: argparse.Namespace, name: str, changes: Mapping[str, Any] = {}) -> tuple[Path, list[str]]:
    """The recipe of an arm, and everything that is set in it."""
    arm, data = ARMS[name], short_data(arguments, name)
    recipe = Path("recipes") / f"cifar10_resnet56_{arm.recipe}.yaml"
    settings = {
        "data.train": f"[{data}/train.npz]",
        "data.val": f"{data}/test.npz",
        "data.device": "auto",
        "data.memory_format": "channels_last",
        "data.val_batch_size": 1000,
        "data.seed": arguments.seed,
        "model.name": f"edakari:{arguments.network}",
        "model.weights": dense(arguments),
        "seed": arguments.seed,
        "measure": None,
        "export": "[]",
        "compile": arguments.compile,
        **arm.settings,
        **({} if arguments.scale == 1 else arm.short(math.sqrt(arguments.scale))),
        **({} if arguments.batch is None else {"data.batch_size": arguments.batch}),
        **changes,
    }
    return recipe, [f"{key}={'null' if value is None else value}" for key, value in settings.items()]


def dense(arguments: argparse.Namespace) -> Path:
    """Weights of the dense network."""
    path: Path = arguments.work / "dense.safetensors"
    return path


def short_data(arguments: argparse.Namespace, name: str) -> Path:
    """The folder of data: DATA, or one with fewer images of each class."""
    folder: Path = arguments.data
    if arguments.scale == 1:
        return folder
    import numpy as np

    root, batch = math.sqrt(arguments.scale), full_batch(ARMS[name])
    sizes = {"train": short_images(root, arguments.batch or batch, batch), "test": max(100, int(1e4 * arguments.scale))}
    short = arguments.work / f"data_{sizes['train']}"
    for part, size in sizes.items():
        path = short / f"{part}.npz"
        if not path.is_file():
            short.mkdir(parents=True, exist_ok=True)
            with np.load(folder / f"{part}.npz") as found:
                images, labels = found["images"], found["labels"]
            each = math.ceil(size / len(np.unique(labels)))
            chosen = np.sort(np.concatenate([np.flatnonzero(labels == label)[:each] for label in np.unique(labels)]))
            np.savez(path, images=images[chosen], labels=labels[chosen])
    return short


def full_batch(arm: Arm) -> int:
    """Images per batch of an arm at its full length."""
    return int(arm.settings.get("data.batch_size", 128))


def run_arm(arguments: argparse.Namespace, name: str) -> tuple[float, bool]:
    """Run or continue an arm for at most one sitting; returns its seconds, and whether it is finished."""
    recipe, settings = commands(arguments, name)
    output = dense(arguments) if name == "dense" else arguments.work / name
    if name == "dense":
        settings = [each for each in settings if not each.startswith("model.weights=")] + ["model.weights=random"]
    words = ["train" if name == "dense" else "prune", str(recipe), "--output", str(output)]
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "edakari", *words, *(part for each in settings for part in ("--set", each))],
        stdout=subprocess.DEVNULL,
    )
    try:
        code = process.wait(60 * arguments.minutes)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # a training writes a checkpoint first
        process.wait(GRACE)
        return time.perf_counter() - start, False
    if code:
        raise SystemExit(f"{name}: edakari ended with code {code}")
    return time.perf_counter() - start, True


def found(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    """The figures of a finished arm, beside those of its paper."""
    own = json.loads(dense(arguments).with_suffix(".json").read_text())["metrics"]["top1"]
    row: dict[str, Any] = {"dense_top1": own, "top1": own}
    if name != "dense":
        report = json.loads((arguments.work / name / "report.json").read_text())
        networks = report["networks"]
        row = {
            "dense_top1": networks[0]["metrics"]["top1"],
            "cut_top1": networks[1]["metrics"]["top1"],
            "top1": networks[-1]["metrics"]["top1"],
            **{cost: networks[-1]["costs"][cost] / networks[0]["costs"][cost] for cost in ("macs", "params")},
        }
    paper = dict(ARMS[name].paper)
    if "pruned" in paper:
        paper["difference"] = round(paper["pruned"] - paper["dense"], 2)
    return {**row, "difference": 100 * (row["top1"] - row["dense_top1"]), "paper": paper}


def estimate(arguments: argparse.Namespace, settings: Mapping[str, Any]) -> None:
    """Measure some steps of each arm, and say how long it takes and whether it fits into a sitting."""
    from headline_estimate import STEPS, estimated

    for name in arguments.arms:
        seconds = estimated(
            ARMS[name],
            lambda changes, name=name: commands(arguments, name, changes),  # type: ignore[misc]
            arguments.compile,
            arguments.steps or STEPS,
            arguments.batch,
        )
        fits = seconds["seconds"] <= 60 * arguments.minutes
        with kept(arguments.output, settings, "estimates") as estimates:
            estimates[name] = {**seconds, "minutes": arguments.minutes, "fits": fits, "device": device()}
        told = ", ".join(f"{part} {value:.0f} s" for part, value in seconds.items() if part != "seconds")
        print(
            f"{name}: about {seconds['seconds']:.0f} s ({told}); "
            + (f"fits into {arguments.minutes:g} minutes" if fits else "WARNING: it will not fit into one sitting"),
            flush=True,
        )


def device() -> str:
    """The device that trains."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def refusal(arguments: argparse.Namespace, name: str, estimates: Mapping[str, Any]) -> str:
    """Why an arm is not begun; empty if it is."""
    known = estimates.get(name)
    if known is None or arguments.sittings or known["seconds"] <= 60 * arguments.minutes:
        return ""
    return (
        f"{name}: was estimated at {known['seconds']:.0f} s, more than {arguments.minutes:g} minutes; give --sittings "
        "to run it in several, or --network resnet20, or another --compile"
    )


def table(results: Mapping[str, Any]) -> str:
    """One line for each finished arm."""
    lines = [f"{'arm':6} {'top1':>7} {'minus dense':>12} {'paper':>7}  MACs"]
    for name in ARMS:
        row = results.get(name, {})
        if "top1" in row:
            paper = row["paper"].get("difference")
            told = "–" if paper is None else f"{paper:+.2f}"
            lines.append(f"{name:6} {row['top1']:7.2%} {row['difference']:+12.2f} {told:>7}  {row.get('macs', 1):.3f}")
    return "\n".join(lines)


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/headline"), help="folder of the runs")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--network", default="resnet56", choices=["resnet56", "resnet20"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=8.0, help="longest sitting of an arm")
    parser.add_argument("--sittings", action="store_true", help="also begin arms that need several")
    parser.add_argument("--compile", default="default", choices=["none", "default", "reduce-overhead"])
    parser.add_argument("--scale", type=float, default=1.0, help="0.001 tries each arm at a thousandth of its steps")
    parser.add_argument("--batch", type=int, help="images per batch, where an arm is only tried")
    parser.add_argument("--estimate", action="store_true", help="only say how long each arm takes here")
    parser.add_argument("--steps", type=int, help="steps of a training that an estimate takes")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Estimate the arms, or run each for a sitting."""
    arguments = parsed(words)
    settings = {key: getattr(arguments, key) for key in KEPT}
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.estimate:
        estimate(arguments, settings)
        return
    for name in arguments.arms:
        with kept(arguments.output, settings, "estimates") as estimates:
            why = refusal(arguments, name, estimates)
        with kept(arguments.output, settings) as arms:
            row = dict(arms.get(name, {}))
        if "top1" in row:
            continue
        if why or (name != "dense" and not dense(arguments).is_file()):
            print(why or f"{name}: waits for the dense network", flush=True)
            continue
        seconds, done = run_arm(arguments, name)
        row["sittings"] = [*row.get("sittings", []), seconds]
        if done:
            row |= {**found(arguments, name), "seed": arguments.seed, "device": device()}
        with kept(arguments.output, settings) as arms:
            arms[name] = row
        print(f"{name}: {seconds:.0f} s, {'finished' if done else 'goes on when called again'}", flush=True)
    if arguments.output.is_file():
        print(table(json.loads(arguments.output.read_text())["arms"]))


if __name__ == "__main__":
    main()
