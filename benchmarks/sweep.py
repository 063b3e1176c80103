"""Sweeps: what they cost beside their runs, whether dead workers change a table, and what a limit on a loss finds.

    python benchmarks/sweep.py workers    # 24 runs on the embedded CNN by one worker, then by two, one of them killed
    python benchmarks/sweep.py loss cnn   # at most one point: the search against a fine grid of budgets

Results go to `benchmarks/results/sweep_*.json`. The trainings are short and see few images, so accuracies are low; both
sides of each comparison see the same.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from records import write_record

import edakari
import edakari.sweeps.sweeping as sweeping
from edakari.pipeline import recipe_from
from edakari.pipeline.environment import environment

METHODS = ("magnitude", "taylor", "fpgm", "bn_scale")
BUDGETS = ("macs<=50%", "macs<=30%")
SEEDS = (0, 1, 2)
DATA = {"source": "embedded:fashion", "max_images": 512}
TUNING: dict[str, dict[str, Any]] = {
    "cnn": {"lr": 0.02},
    "vit": {"lr": 0.001, "optimizer": "adamw", "weight_decay": 0.01},
}
GRID = 12
RESULTS = Path(__file__).parent / "results"


def recipe(model: str, epochs: int, **changes: Any) -> dict[str, Any]:
    return {
        "model": {"name": f"edakari:fashion_{model}", "weights": "pretrained"},
        "data": DATA,
        "method": "magnitude",
        "budget": "macs<=50%",
        "finetune": {"epochs": epochs, **TUNING[model], "distill": {"weight": 0.5}},
        "device": "cpu",
        **changes,
    }


def sweep_settings() -> dict[str, Any]:
    axes = {"method": list(METHODS), "budget": list(BUDGETS), "seed": list(SEEDS)}
    return {"recipe": recipe("cnn", 1), "axes": axes, "name": "benchmark"}


def worker(folder: str, timed: Any) -> None:
    """One worker; tells the seconds of the sweep and of its runs."""
    import torch

    torch.set_num_threads(1)
    inner, seconds = sweeping.run, []

    def run(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        found = inner(*arguments, **options)
        seconds.append(time.perf_counter() - start)
        return found

    sweeping.run = run
    start = time.perf_counter()
    sweeping.sweep(sweep_settings(), folder)
    timed.put({"sweep_s": time.perf_counter() - start, "runs_s": sum(seconds), "runs": len(seconds)})


def table(folder: Path) -> list[Any]:
    """The rows of a sweep without times and folders."""
    rows = json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"]
    for row in rows:
        row.pop("seconds")
        for run in row["runs"]:
            run.pop("seconds")
            run.pop("folder")
    return sorted(rows, key=lambda row: json.dumps(row["settings"]))


def shared(folder: Path) -> dict[str, int]:
    """How often each shared result was computed, from the files that hold them."""
    names = [path.name.partition("-")[0] for path in (folder / "shared").iterdir() if path.suffix != ".lock"]
    return {name: names.count(name) for name in sorted(set(names))}


def workers(folder: Path) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    timed = context.Queue()

    def started(place: Path) -> Any:
        process = context.Process(target=worker, args=(str(place), timed))
        process.start()
        return process

    quiet, loud, kills = folder / "quiet", folder / "loud", []
    alone = started(quiet)
    alone.join()
    cost = timed.get(timeout=60)
    draw = random.Random(0)
    steady, victim = started(loud), started(loud)
    while len(kills) < 2:
        time.sleep(draw.uniform(0.5, 1.5) * cost["sweep_s"] / 8)
        finished = len(list((loud / "runs").glob("*/stages/report.json")))
        assert victim.is_alive(), "the sweep was over before the kill"
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        kills.append({"finished_runs": finished})
        victim = started(loud)
    steady.join()
    victim.join()
    ended = [steady.exitcode, victim.exitcode]
    others = [timed.get(timeout=60) for _ in range(2)]
    return {
        "methods": METHODS,
        "budgets": BUDGETS,
        "seeds": SEEDS,
        "one_worker": cost,
        "overhead": cost["sweep_s"] / cost["runs_s"] - 1,
        "shared_of_one_worker": shared(quiet),
        "kills": kills,
        "exit_codes": ended,
        "two_workers": others,
        "shared_of_two_workers": shared(loud),
        "same_table": table(quiet) == table(loud),
    }


def loss(folder: Path, model: str, epochs: int, method: str) -> dict[str, Any]:
    """At most one point: the network that a search finds, against the best of a fine grid of budgets."""
    attempts: list[str] = []

    def notify(stage: str, state: str, found: Any) -> None:
        if stage == "search":
            attempts.append(found)

    start = time.perf_counter()
    content = recipe(model, epochs, method=method, budget="macs<=100%, top1_drop<=1")
    found = edakari.run(recipe_from(content), folder / "search", notify=notify)
    seconds = time.perf_counter() - start
    chosen = point(found.report)
    steps = [chosen["macs"] * (1 + 0.04 * offset) for offset in range(-GRID // 2, GRID // 2 + 1)]
    grid = []
    for share in steps:
        if 0.02 < share < 1:
            budget = f"macs<={share * 100:.2f}%"
            asked = recipe_from({**content, "budget": budget})
            result = edakari.run(asked, folder / f"grid-{share:.4f}", shared=folder / "shared")
            grid.append(point(result.report))
    within = [each for each in grid if each["lost_points"] <= 1]
    best = min((each["macs"] for each in within), default=None)
    return {
        "model": model,
        "method": method,
        "epochs": epochs,
        "found": chosen,
        "attempts": attempts,
        "seconds": seconds,
        "grid": grid,
        "best_of_grid": best,
        "above_best": chosen["macs"] / best - 1 if best else None,
    }


def point(report: Any) -> dict[str, float]:
    dense, last = report["networks"][0], report["networks"][-1]
    return {
        "budget": report["budget"],
        "macs": last["costs"]["macs"] / dense["costs"]["macs"],
        "lost_points": 100 * (dense["metrics"]["top1"] - last["metrics"]["top1"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("workers", "loss"))
    parser.add_argument("model", nargs="?", choices=tuple(TUNING), default="cnn")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--method", default="taylor")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train = options.model, options.epochs, options.method
        found = workers(folder) if options.what == "workers" else loss(folder, *train)
    default = f"sweep_{options.what}{'' if options.what == 'workers' else f'_{options.model}'}.json"
    write_record(options.output or RESULTS / default, {"environment": environment(0), **found})


if __name__ == "__main__":
    main()
