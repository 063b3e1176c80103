"""Runs that are killed, and go on: whether plan, weights and report are those of a run that nobody disturbed.

    python benchmarks/kills.py --output benchmarks/results/kills.json
    python benchmarks/kills.py --methods magnitude smcp --boundaries 3 --random 1 --output kills.json  # a short one

For each method a tiny recipe is run once to its end. Then it is run again and again, each time in a folder of its own
and in a process that ends by SIGKILL: right before or right after one of its files takes its place (boundaries, spread
over all of them), or at a random moment. The same recipe is given again until it ends. What it left is compared with
the undisturbed run: the digest of the plan, the bytes of the weights before and after fine-tuning, everything in the
report but times, dates and the command; and the names of all files, so that none may be left that was being written.

Each kill is written to the output when it is judged, so that a benchmark that was stopped goes on. Processes are forked
import edakari
from this one, which has imported all that they need and computed nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import write_record

from edakari.pipeline import recipe_from
from edakari.train.resume import FitFolder

NETS = """
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn


def cnn():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3))


def vit():
    torch.manual_seed(0)
    return VisionTransformer(img_size=8, patch_size=2, in_chans=1, embed_dim=16, depth=3, num_heads=2, num_classes=3)
"""
MASKS = {"epochs": 4, "warmup_epochs": 1, "ramp_epochs": 1, "freeze_epochs": 1, "interval": 1, "lr": 0.01}
BANK = {"epochs": 2, "lr": 0.05, "views": 2, "teacher": "bank", "bank": {"teachers": 3}}
RECIPES: dict[str, dict[str, Any]] = {
    "magnitude": {"method": {"name": "magnitude", "iterations": 2, "recovery_epochs": 1}},
    "smcp": {"method": {"name": "smcp", **MASKS}},
    "ekg": {"method": {"name": "ekg", "warmup_images": 8, "search_images": 8}, "finetune": BANK},
    "isp": {"method": {"name": "isp", "predictor_epochs": 1, "explainer_epochs": 1, "gate_epochs": 6, "gate_lr": 0.5}},
    "spvit": {
        "model": "vit",
        "method": {"name": "spvit", "blocks": [1, 2], "training": {"selector_epochs": 1, "joint_epochs": 2}},
        "budget": "macs<=80%",
    },
}


def recipe_of(method: str, folder: Path) -> Any:
    """A recipe that takes seconds; its network and images are written where they are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "val.npz").is_file():
        (folder / "nets.py").write_text(NETS)
        rng = np.random.default_rng(0)
        for name, count in (("train", 48), ("val", 24)):
            labels = np.arange(count) % 3
            images = (rng.integers(0, 60, (count, 8, 8, 1)) + labels[:, None, None, None] * 60).astype(np.uint8)
            np.savez(folder / f"{name}.npz", images=images, labels=labels.astype(np.int64))
    own = RECIPES[method]
    data = {"train": [str(folder / "train.npz")], "val": str(folder / "val.npz"), "batch_size": 16, "augment": "light"}
    content = {
        "model": {"name": f"{folder}/nets.py:{own.get('model', 'cnn')}", "weights": "random"},
        "data": data,
        "method": own["method"],
        "budget": own.get("budget", "macs<=50%"),
        "finetune": own.get("finetune", {"epochs": 2, "lr": 0.05, "distill": {"weight": 0.5}}),
        "device": "cpu",
    }
    return recipe_from(content)


def forked(work: Callable[[], None], after: float | None = None) -> int:
    """Run something in a process of its own.

    Args:
        work: what to run.
        after: seconds until it is killed; None lets it end.

    Returns:
        How it ended: 0, or -9 where it was killed.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(method: str, work: Path, folder: Path, boundary: int | None = None, count_to: Path | None = None) -> None:
    """Prune in this process, and end it by SIGKILL at a boundary.

    Args:
        method: name.
        work: where recipe and data lie.
        folder: of the run.
        boundary: 2k is right before the k-th file takes its place, 2k + 1 right after; None is no kill.
        count_to: where to write how many boundaries there were, and what was imported.
    """
    import edakari

    torch.set_num_threads(1)
    replace, seen = os.replace, [0]

    def counted(source: Any, target: Any) -> None:
        for step in (0, 1):
            if step == 1:
                replace(source, target)
            if boundary is not None and seen[0] == boundary:
                os.kill(os.getpid(), signal.SIGKILL)
            seen[0] += 1

    os.replace = counted
    FitFolder.due = lambda own, progress, pace: own.path is not None  # checkpoints at every step
    edakari.run(recipe_of(method, work), folder)
    if count_to is not None:
        count_to.write_text(json.dumps({"boundaries": seen[0], "modules": sorted(sys.modules)}))


def found(folder: Path) -> dict[str, Any]:
    """What has to be the same."""
    report = json.loads((folder / "report.json").read_text())
    for key in ("seconds", "environment"):
        report.pop(key)
    names = ("weights.safetensors", "pruned/weights.safetensors")
    return {
        "plan": hashlib.sha256((folder / "plan.json").read_bytes()).hexdigest(),
        "weights": [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names],
        "report": report,
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
    }


def judged(method: str, work: Path, whole: dict[str, Any], moment: dict[str, Any]) -> dict[str, Any]:
    """Kill a run, let it go on, and compare."""
    folder, boundary = work / "killed", moment.get("boundary")
    after = moment["share"] * moment["seconds"] if "random" in moment else None
    shutil.rmtree(folder, ignore_errors=True)
    code = forked(lambda: run(method, work, folder, boundary), after)
    stages = sorted(path.stem for path in (folder / "stages").glob("*.json"))
    parts = len(list(folder.rglob("*.part")))
    ended = forked(lambda: run(method, work, folder))
    row = {"killed": code == -signal.SIGKILL, "stages": len(stages), "parts": parts, "ended": ended == 0}
    if ended:
        return {**row, "same": False, "differing": ["it did not go on"]}
    after_all = found(folder)
    differing = [key for key in whole if whole[key] != after_all[key]]
    return {**row, "same": not differing, "differing": differing}


def moments(method: str, boundaries: int, arguments: argparse.Namespace, seconds: float) -> Iterator[dict[str, Any]]:
    """When to kill: boundaries spread evenly, then random moments."""
    count = min(arguments.boundaries, boundaries)
    for index in range(count):
        yield {"method": method, "boundary": index * boundaries // count, "of": boundaries}
    rng = random.Random(f"{arguments.seed} {method}")
    for number in range(arguments.random):
        yield {"method": method, "random": number, "share": round(rng.uniform(0.02, 0.98), 3), "seconds": seconds}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file; kills that it holds are not done again")
    parser.add_argument("--methods", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--boundaries", type=int, default=12, help="kills at file boundaries, for each method")
    parser.add_argument("--random", type=int, default=6, help="kills at random moments, for each method")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    arguments = parser.parse_args()
    importlib.import_module("timm")
    results = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {"kills": []}
    results |= {"date": time.strftime("%Y-%m-%d"), "python": platform.python_version(), "torch": torch.__version__}
    for method in arguments.methods:
        with tempfile.TemporaryDirectory() as name:
            judge(method, Path(name), arguments, results)
    bad = [row for row in results["kills"] if not row["same"]]
    print(f"{len(results['kills'])} kills, {len(bad)} of which did not end as an undisturbed run")
    sys.exit(bool(bad))


def judge(method: str, work: Path, arguments: argparse.Namespace, results: dict[str, Any]) -> None:
    """All kills of one method."""
    known = {(row["method"], row.get("boundary"), row.get("random")) for row in results["kills"]}
    folder, count = work / "whole", work / "count"
    if forked(lambda: run(method, work, folder, count_to=count)):
        raise SystemExit(f"{method}: the undisturbed run failed")
    whole, noted = found(folder), json.loads(count.read_text())
    for name in noted["modules"]:  # here and once, not in each process: that is most of what a tiny run takes
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    start = time.monotonic()
    forked(lambda: run(method, work, work / "again"))
    seconds = time.monotonic() - start
    if found(work / "again") != whole:
        raise SystemExit(f"{method}: two undisturbed runs differ")
    for moment in moments(method, noted["boundaries"], arguments, seconds):
        if (method, moment.get("boundary"), moment.get("random")) in known:
            continue
        row = judged(method, work, whole, moment)
        while not row["killed"]:  # the run had ended before
            moment["share"] = round(moment["share"] / 2, 3)
            row = judged(method, work, whole, moment)
        results["kills"].append({**moment, **row})
        print(json.dumps(results["kills"][-1]), flush=True)
        write_record(arguments.output, results)


if __name__ == "__main__":
    main()
