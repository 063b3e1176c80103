"""How much faster two processes search than one, and whether they come to the same trail and plan.

    python benchmarks/ekg_ranks.py --output benchmarks/results/ekg_ranks.json

It needs as many free cores as processes; each has one thread. The whole of `prune` is timed: the epoch of the warm-up,
the search, and the statistics taken anew. One process and several take turns.
"""

from __future__ import annotations

import argparse
import dataclasses as dc
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core import environment
from records import write_record

from edakari.core.files import write_json

WORKER = "--worker"
SETTINGS = ("budget=macs<=75%", "method.warmup_images=64")


def work(arguments: argparse.Namespace) -> None:
    """One process of a search: its seconds, trail and plan, as JSON in a file of its own."""
    from accelerate import PartialState

    from edakari.core.method import Job
    from edakari.cost import dense
    from edakari.graph import trace
    from edakari.models import build
    from edakari.pipeline import read_recipe
    from edakari.tasks import task_from_settings
    from edakari.train import FitSettings, fitter

    PartialState(cpu=True)
    recipe = read_recipe(arguments.recipe, arguments.settings)
    model, task = build(recipe.model), task_from_settings(recipe.data, recipe.seed)
    graph = trace(model, task.example())
    log: list[Any] = []
    fit = fitter(task, FitSettings(device="cpu", seed=recipe.seed, progress=False))
    budget = recipe.budget.absolute(dense(graph))
    job = Job(model, graph, graph.groups, task, budget, fit, seed=recipe.seed)
    job = dc.replace(job, log=lambda stage, figures: log.append([stage, dict(figures)]))
    PartialState().wait_for_everyone()
    start = time.perf_counter()
    outcome = recipe.method.prune(job)
    seconds = time.perf_counter() - start
    found = {"seconds": seconds, "trail": log, "plan": outcome.plan.digest()}
    write_json(arguments.worker / f"{os.environ.get('RANK', '0')}.json", found)
    PartialState().destroy_process_group()


def launch(world: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """What each of some processes found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, WORKER, folder, "--recipe", arguments.recipe]
        command += [part for setting in arguments.settings for part in ("--set", setting)]
        workers = [subprocess.Popen(command, env=variables(rank, world, port)) for rank in range(world)]
        codes = [worker.wait() for worker in workers]
        if any(codes):
            raise SystemExit("a process failed")
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(world)]


def variables(rank: int, world: int, port: int) -> dict[str, str]:
    own = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    if world > 1:
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
        own |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    return {**os.environ, **own}


def compared(worlds: Sequence[int], repeats: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds by number of processes, and whether all came to the same."""
    seconds: dict[str, list[float]] = {str(world): [] for world in worlds}
    ends = set()
    steps = 0
    for _ in range(repeats):
        for world in worlds:
            found = launch(world, arguments)
            seconds[str(world)].append(max(each["seconds"] for each in found))
            ends |= {json.dumps([each["trail"], each["plan"]]) for each in found}
            steps = sum(stage.startswith("step") for stage, _ in found[0]["trail"])
            print(world, seconds[str(world)][-1], flush=True)
    medians = {world: statistics.median(times) for world, times in seconds.items()}
    faster = {world: medians[str(worlds[0])] / median for world, median in medians.items()}
    return {"seconds": seconds, "times_as_fast": faster, "same": len(ends) == 1, "steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(WORKER, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--recipe", default="recipes/fashion_cnn_ekg.yaml")
    parser.add_argument("--set", dest="settings", action="append", help=f"instead of {' '.join(SETTINGS)}")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/ekg_ranks.json"))
    arguments = parser.parse_args()
    arguments.settings = arguments.settings or list(SETTINGS)
    if arguments.worker:
        work(arguments)
        return
    found = compared(arguments.processes, arguments.repeats, arguments)
    head = {"recipe": arguments.recipe, "settings": arguments.settings, "cores": os.cpu_count()}
    write_record(arguments.output, {"environment": environment(["python", *sys.argv]), **head, **found})
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
