"""CPU time of graph, scores, plan and cut, compared with that of an earlier commit, alternately in one run.

    python benchmarks/core_change.py --before e6f8074 --output benchmarks/results/core_change.json

Each of the two versions runs in a process of its own, on one thread; the two take turns, and each round begins with the
other one. CPU time in seconds; the ratio of a round is the time of this commit over that of the earlier one. `apply`
is handed the graph; `apply_alone` traces the network again. The network is copied for each round, which is not timed.
"""

from __future__ import annotations

import copy
import gc
import inspect
import json
import statistics
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from core import EXAMPLE, MAIN, NETWORKS
from torch import nn
from versions import alternately, arguments_of, record

HERE = Path(__file__).resolve()


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


def compare(name: str, folders: Mapping[str, Path], repeats: int) -> dict[str, Any]:
    """Medians, spreads and ratios of each stage; the first round is not counted."""
    rounds = alternately(name, folders, HERE, repeats + 1)
    found = {stage: summary(rounds[1:], stage) for stage in rounds[0]["after"]}
    show(name, found)
    return found


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


def show(name: str, entry: dict[str, Any]) -> None:
    for stage, found in entry.items():
        low, high = found["ratio_quartiles"]
        print(
            f"{name} {stage}: {found['before_cpu_s']:.3f} s before, {found['after_cpu_s']:.3f} s after; "
            f"ratio {found['ratio']:.3f} ({low:.3f} to {high:.3f}), of the least {found['ratio_of_least']:.3f}",
            flush=True,
        )


def main() -> None:
    arguments = arguments_of(__doc__, 15, MAIN)
    if arguments.worker:
        work(arguments.worker)
    else:
        record(arguments, lambda name, folders: compare(name, folders, arguments.repeats))


if __name__ == "__main__":
    main()
