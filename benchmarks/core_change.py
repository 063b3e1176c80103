"""CPU time of graph, scores, plan and cut, compared with that of an earlier commit, alternately in one run.

    python benchmarks/core_change.py --before e6f8074 --output benchmarks/results/core_change.json

Each of the two versions runs in a process of its own, on one thread; the two take turns, and each round begins with the
other one. CPU time in seconds; the ratio of a round is the time of this commit over that of the earlier one. `apply`
is handed the graph; `apply_alone` traces the network again. The network is copied for each round, which is not timed.
"""

from __future__ import annotations

import argparse
import copy
import gc
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from core import EXAMPLE, MAIN, NETWORKS, environment
from records import write_record
from torch import nn

HERE = Path(__file__).resolve()
ROOT = HERE.parents[1]


def stages(model: nn.Module) -> dict[str, float]:
    """CPU seconds of each stage."""
    import edakari
    from edakari.criteria import Magnitude

    plan_first = next(iter(inspect.signature(edakari.apply).parameters)) == "plan"
    clock, times = time.process_time, [time.process_time()]
    graph = edakari.trace(model, torch.zeros(EXAMPLE))
    times.append(clock())
    scores = Magnitude(p=2).score(model, graph, (), None)
    times.append(clock())
    plan = edakari.allocate(graph, scores, edakari.Budget.parse("macs<=50%"))
    times.append(clock())
    first = (plan, model) if plan_first else (model, plan)
    edakari.apply(*first, graph)
    times.append(clock())
    edakari.apply(*first)
    times.append(clock())
    names = ("trace", "score", "allocate", "apply", "apply_alone")
    found = {name: end - start for name, start, end in zip(names, times, times[1:], strict=False)}
    return {**found, "total": times[4] - times[0]}


def work(name: str) -> None:
    """Time the stages once for each line of the standard input."""
    import edakari

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dense = NETWORKS[name]().eval()
    print(Path(edakari.__file__).resolve().parents[1], flush=True)
    for _ in sys.stdin:
        model = copy.deepcopy(dense)
        gc.collect()
        print(json.dumps(stages(model)), flush=True)


class Worker:
    """A process that times the version of edakari in a folder."""

    def __init__(self, folder: Path, name: str, script: Path = HERE) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(script), "--worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        )
        found = self._line()
        if Path(found) != folder.resolve():
            raise SystemExit(f"the process of {folder} imported edakari from {found!r}")

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def time(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self._line())
        return found

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(name: str, folders: dict[str, Path], repeats: int) -> dict[str, Any]:
    """Medians, spreads and ratios of each stage; the first round is not counted."""
    workers = {version: Worker(folder, name) for version, folder in folders.items()}
    rounds: list[dict[str, dict[str, float]]] = []
    for index in range(repeats + 1):
        order = list(workers)[:: 1 if index % 2 else -1]
        rounds.append({version: workers[version].time() for version in order})
    for worker in workers.values():
        worker.close()
    return {stage: summary(rounds[1:], stage) for stage in rounds[0]["after"]}


def summary(rounds: list[dict[str, dict[str, float]]], stage: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for version in ("before", "after"):
        values = [each[version][stage] for each in rounds]
        found[f"{version}_cpu_s"] = statistics.median(values)
        found[f"{version}_cpu_s_spread"] = [min(values), max(values)]
    ratios = [each["after"][stage] / each["before"][stage] for each in rounds]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {**found, "ratio": middle, "ratio_quartiles": [low, high], "ratio_of_least": least(found)}


def least(found: dict[str, Any]) -> float:
    """Ratio of the least times, which other programs on the machine disturb least."""
    ratio: float = found["after_cpu_s_spread"][0] / found["before_cpu_s_spread"][0]
    return ratio


def commit(name: str) -> str:
    return subprocess.run(["git", "rev-parse", name], cwd=ROOT, capture_output=True, text=True, check=True).stdout[:12]


def unpack(name: str, folder: Path) -> None:
    """Write the package as it was at a commit into a new folder."""
    folder.mkdir()
    packed = subprocess.run(["git", "archive", name, "edakari"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed, check=True)


def show(name: str, entry: dict[str, Any]) -> None:
    for stage, found in entry.items():
        low, high = found["ratio_quartiles"]
        print(
            f"{name} {stage}: {found['before_cpu_s']:.3f} s before, {found['after_cpu_s']:.3f} s after; "
            f"ratio {found['ratio']:.3f} ({low:.3f} to {high:.3f}), of the least {found['ratio_of_least']:.3f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="the earlier commit")
    parser.add_argument("--after", default="HEAD", help="the commit that is compared with it")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--networks", nargs="+", default=MAIN, choices=list(NETWORKS))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker)
        return
    if arguments.before is None:
        parser.error("--before names the earlier commit")
    torch.set_num_threads(1)
    results: dict[str, Any] = {"environment": environment(["python", *sys.argv]), "repeats": arguments.repeats}
    results["commits"] = {"before": commit(arguments.before), "after": commit(arguments.after)}
    with tempfile.TemporaryDirectory() as folder:
        folders = {version: Path(folder) / version for version in ("before", "after")}
        for version, path in folders.items():
            unpack(getattr(arguments, version), path)
        results["networks"] = {}
        for name in arguments.networks:
            results["networks"][name] = compare(name, folders, arguments.repeats)
            show(name, results["networks"][name])
    if arguments.output:
        write_record(arguments.output, results)


if __name__ == "__main__":
    main()
