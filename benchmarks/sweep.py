"""Sweeps: what they cost beside their runs, whether dead workers change a table, and what a limit on a loss finds.

    python benchmarks/sweep.py workers    # 24 runs on the embedded CNN by one worker, then by two, one of them killed
    python benchmarks/sweep.py loss cnn   # at most one point: the search against a fine grid of budgets
    python benchmarks/sweep.py page       # the page of 100 runs in Chromium

Results go to `benchmarks/results/sweep_*.json`. The trainings are short and see few images, so accuracies are low; both
sides of each comparison see the same.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import multiprocessing
import os
import queue
import random
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
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
from edakari.sweeps.entries import Entry
from edakari.sweeps.table import results_of
from edakari.sweeps.writing import write_results
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
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"
TELL = """
addEventListener("load", () => requestAnimationFrame(() => requestAnimationFrame(() => {
  const drawn = performance.now(), {responseEnd, loadEventEnd} = performance.getEntriesByType("navigation")[0];
  fetch("/", {method: "POST", body: JSON.stringify({response: responseEnd, load: loadEventEnd, drawn})});
})));
"""
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


def page(folder: Path) -> dict[str, Any]:
    """How long Chromium takes to open the page of 100 runs of 20 settings: their figures are made up, the page is real.

    The browser tells its own times to a server in this process: until the load event has ended, and until two frames
    after it are drawn.
    """
    runs = [made_up(folder / f"runs/{number}", f"method {number % 20}", number // 20) for number in range(100)]
    written = write_results(results_of("hundred runs", runs), folder).read_text(encoding="utf-8")
    served = written.replace("</body>", f"<script>{TELL}</script></body>").encode()
    times = [opened(folder / f"profile{number}", served) for number in range(9)]
    return {
        "runs": len(runs),
        "bytes": len(written.encode()),
        "browser": subprocess.run([CHROMIUM, "--version"], capture_output=True, text=True, check=True).stdout.strip(),
        "median_ms": {name: statistics.median(each[name] for each in times) for name in times[0]},
        "times_ms": times,
    }


def made_up(folder: Path, method: str, seed: int) -> Entry:
    draw = random.Random(f"{method} {seed}")
    shares = {"macs": draw.uniform(0.3, 0.6), "params": draw.uniform(0.3, 0.6)}
    return Entry(
        folder=str(folder),
        settings={"method": method, "budget": "macs<=60%", "seed": seed},
        budget="macs<=60%",
        seed=seed,
        metric="top1",
        metrics={"top1": draw.uniform(0.85, 0.93), "loss": draw.uniform(0.2, 0.5)},
        dense={"top1": 0.93, "loss": 0.2},
        costs={name: share * 1e7 for name, share in shares.items()},
        dense_costs=dict.fromkeys(shares, 1e7),
        examples=40_000,
        seconds=100.0,
        random=False,
    )


def opened(profile: Path, content: bytes) -> dict[str, float]:
    """Times of a fresh browser that opens a page, ms."""
    told: queue.Queue[dict[str, float]] = queue.Queue()

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content if self.path == "/" else b"")

        def do_POST(self) -> None:
            told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        options = (
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={profile}",
            "--window-size=1200,900",
        )
        browser = subprocess.Popen(
            [CHROMIUM, *options, "--remote-debugging-port=0", address], stderr=subprocess.DEVNULL
        )
        try:
            return told.get(timeout=120)
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()


def point(report: Any) -> dict[str, float]:
    dense, last = report["networks"][0], report["networks"][-1]
    return {
        "budget": report["budget"],
        "macs": last["costs"]["macs"] / dense["costs"]["macs"],
        "lost_points": 100 * (dense["metrics"]["top1"] - last["metrics"]["top1"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("workers", "loss", "page"))
    parser.add_argument("model", nargs="?", choices=tuple(TUNING), default="cnn")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--method", default="taylor")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train = {"model": options.model, "epochs": options.epochs, "method": options.method}
        kinds = {"workers": workers, "page": page, "loss": functools.partial(loss, **train)}
        found = kinds[options.what](folder)
    default = f"sweep_{options.what}{f'_{options.model}' if options.what == 'loss' else ''}.json"
    write_record(options.output or RESULTS / default, {"environment": environment(0), **found})


if __name__ == "__main__":
    main()
