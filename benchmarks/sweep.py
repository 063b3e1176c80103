"""Sweeps: what they cost beside their runs, whether dead workers change a table, and what a limit on a loss finds.

    python benchmarks/sweep.py overhead   # 24 runs on the embedded CNN by one worker: what the sweep takes besides them
    python benchmarks/sweep.py workers    # the same, then by two workers, one of them killed twice
    python benchmarks/sweep.py loss cnn   # at most one point: the search against a fine grid of budgets

Results go to `benchmarks/results/sweep_*.json`. The trainings are short and see few images, so accuracies are low; both
sides of each comparison see the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import write_record

import edakari
import edakari.sweeps.sweeping as sweeping
from edakari.pipeline import recipe_from
from edakari.pipeline.environment import environment
from edakari.tasks.registry import task_from_settings
from edakari.tasks.settings import DataSettings
from edakari.tasks.sources.shipped import embedded

METHODS = ("magnitude", "taylor", "fpgm", "bn_scale")
BUDGETS = ("macs<=50%", "macs<=30%")
SEEDS = (0, 1, 2)
DATA = {"source": "embedded:fashion", "max_images": 512}
TUNING: dict[str, dict[str, Any]] = {
    "cnn": {"lr": 0.02},
    "vit": {"lr": 0.001, "optimizer": "adamw", "weight_decay": 0.01},
}
GRID = (-0.24, -0.2, -0.16, -0.12, -0.08, -0.04, 0.04)
"""Budgets of the grid, as fractions above that of the network that the search finds."""
IMAGES = 4000
"""Images of each training against a limit on the loss."""
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


@dataclasses.dataclass(frozen=True)
class Seconds:
    """Seconds by the clock, and of the processor."""

    clock: float
    processor: float

    @classmethod
    def now(cls) -> Seconds:
        return cls(time.perf_counter(), time.process_time())

    def since(self) -> Seconds:
        now = self.now()
        return Seconds(now.clock - self.clock, now.processor - self.processor)


def worker(folder: str, timed: Any) -> None:
    """One worker; tells the seconds of the sweep and of its runs, by the clock and of the processor.

    The first optimizer of a process makes torch import its compiler. A run by itself pays that, too, so it counts
    neither for the sweep nor for the runs, and is told apart.
    """
    torch.set_num_threads(1)
    before = Seconds.now()
    torch.optim.SGD([torch.zeros(1)], lr=0.1)
    first, inner, runs = before.since(), sweeping.run, []

    def run(*arguments: Any, **options: Any) -> Any:
        start = Seconds.now()
        found = inner(*arguments, **options)
        runs.append(start.since())
        return found

    sweeping.run = run
    start = Seconds.now()
    sweeping.sweep(sweep_settings(), folder)
    whole, own = start.since(), Seconds(sum(each.clock for each in runs), sum(each.processor for each in runs))
    timed.put(
        {
            "sweep": dataclasses.asdict(whole),
            "own": dataclasses.asdict(own),
            "runs": len(runs),
            "first_optimizer": dataclasses.asdict(first),
        }
    )


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


def started(folder: Path, timed: Any) -> Any:
    """A worker in a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=worker, args=(str(folder), timed))
    process.start()
    return process


def overhead(folder: Path) -> dict[str, Any]:
    """One worker that nothing disturbs: what the sweep takes besides its runs, and what is computed once."""
    timed = multiprocessing.get_context("spawn").Queue()
    started(folder / "quiet", timed).join()
    cost = timed.get(timeout=60)
    return {
        "methods": METHODS,
        "budgets": BUDGETS,
        "seeds": SEEDS,
        "one_worker": cost,
        "overhead": {kind: cost["sweep"][kind] / cost["own"][kind] - 1 for kind in ("clock", "processor")},
        "shared_of_one_worker": shared(folder / "quiet"),
    }


def workers(folder: Path) -> dict[str, Any]:
    """Two workers, one of which is killed twice, against one that nothing disturbs."""
    quiet, timed = overhead(folder), multiprocessing.get_context("spawn").Queue()
    loud, kills, draw = folder / "loud", [], random.Random(0)
    steady, victim = started(loud, timed), started(loud, timed)
    while len(kills) < 2:
        time.sleep(draw.uniform(0.5, 1.5) * quiet["one_worker"]["sweep"]["clock"] / 8)
        finished = len(list((loud / "runs").glob("*/stages/report.json")))
        if not victim.is_alive():
            raise RuntimeError(f"a worker ended before its kill, with exit code {victim.exitcode}")
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        kills.append({"finished_runs": finished})
        victim = started(loud, timed)
    steady.join()
    victim.join()
    return {
        **quiet,
        "kills": kills,
        "exit_codes": [steady.exitcode, victim.exitcode],
        "two_workers": [timed.get(timeout=60) for _ in range(2)],
        "shared_of_two_workers": shared(loud),
        "same_table": table(folder / "quiet") == table(loud),
    }


def divided(folder: Path) -> dict[str, Any]:
    """Write data of which one half of the embedded test images chooses the budget; the other half is "judge.npz".

    Returns:
        The recipe's `data`.
    """
    train, test = embedded("fashion", "train"), embedded("fashion", "test")
    order = np.random.default_rng(0).permutation(len(test.labels))
    halves = {"val": order[: len(order) // 2], "judge": order[len(order) // 2 :]}
    for name, part in {"train": train, **{name: test.take(np.sort(half)) for name, half in halves.items()}}.items():
        np.savez(folder / f"{name}.npz", images=part.images, labels=part.labels, class_names=np.array(part.classes))
    files = {"train": [str(folder / "train.npz")], "val": str(folder / "val.npz")}
    return {**files, "mean": [0.286], "std": [0.353], "max_images": IMAGES, "workers": 0}


@torch.no_grad()
def judged(model: str, network: torch.nn.Module, data: dict[str, Any]) -> dict[str, float]:
    """What a network loses on the images that chose nothing: points of top-1, and their standard error."""
    asked = {**data, "train": tuple(data["train"]), "val": data["val"].replace("val.npz", "judge.npz")}
    task = task_from_settings(DataSettings(**asked))
    networks = [edakari.models.build(f"edakari:fashion_{model}", weights="pretrained").eval(), network.eval()]
    right = [
        torch.cat([task.outputs(each, batch).argmax(1) == batch[1] for batch in task.batches("val")]).double()
        for each in networks
    ]
    lost = right[0] - right[1]
    error = float(lost.std()) / len(lost) ** 0.5
    return {"images": len(lost), "lost_points": 100 * float(lost.mean()), "standard_error": 100 * error}


def loss(folder: Path, model: str, epochs: int, method: str) -> dict[str, Any]:
    """At most one point: the network that a search finds, against the best of a fine grid of budgets."""
    attempts: list[Any] = []

    def notify(stage: str, state: str, found: Any) -> None:
        if stage == "search":
            attempts.append(found)
            print(found, flush=True)

    start, data = time.perf_counter(), divided(folder)
    content = recipe(model, epochs, method=method, data=data, budget="macs<=100%, top1_drop<=1")
    found = edakari.run(recipe_from(content), folder / "search", notify=notify)
    seconds, chosen = time.perf_counter() - start, point(found.report)
    grid = []
    for offset in GRID:
        budget = f"macs<={chosen['macs'] * (1 + offset) * 100:.2f}%"
        asked = recipe_from({**content, "budget": budget})
        grid.append(
            point(edakari.run(asked, folder / f"grid{offset}", shared=folder / "search.search" / "shared").report)
        )
        print(grid[-1], flush=True)
    best = min(each["macs"] for each in (*grid, chosen) if each["lost_points"] <= 1)
    return {
        "model": model,
        "method": method,
        "epochs": epochs,
        "images": IMAGES,
        "found": {**chosen, "judged": judged(model, found.model, data)},
        "attempts": attempts,
        "seconds": seconds,
        "grid": grid,
        "best_of_grid": best,
        "above_best": chosen["macs"] / best - 1,
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
    parser.add_argument("what", choices=("overhead", "workers", "loss"))
    parser.add_argument("model", nargs="?", choices=tuple(TUNING), default="cnn")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--method", default="taylor")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train = {"model": options.model, "epochs": options.epochs, "method": options.method}
        kinds = {"overhead": overhead, "workers": workers, "loss": functools.partial(loss, **train)}
        found = kinds[options.what](folder)
    default = f"sweep_{options.what}{f'_{options.model}' if options.what == 'loss' else ''}.json"
    write_record(options.output or RESULTS / default, {"environment": environment(0), **found})


if __name__ == "__main__":
    main()
