"""CPU time of allocators under a budget of latency, compared with that of an earlier commit, alternately in one run.

    python benchmarks/solver_change.py --before 5c966f3 --output benchmarks/results/solver_change.json

Each of the two versions runs in a process of its own, on one thread. CPU seconds, the least of all rounds: other
programs on the machine only add to it. Networks are real. Scores are random, and so are the times of layers: those of
an imagined machine that computes in blocks of 32 channels, at every width that a table has. `cost` is the time that it
takes to make the cost of such a table; the allocators start from that cost. Where the versions find other sizes, the
ratio of the kept scores says which are better.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from core import NETWORKS
from versions import alternately, arguments_of, record

BUDGETS = {"latency<=60%": ("Threshold", "Knapsack"), "latency<=60%, params<=70%": ("Threshold", "Knapsack")}
SEED = 0


def imagined_ms(layer: Any, widths: Sequence[int]) -> float:
    """Time of a layer on a machine that computes in blocks of 32 channels; noise of 2 %."""
    blocks = np.prod([-(-width // 32) * 32 for width in widths], dtype=float) ** (1.0 / max(len(widths), 1))
    rng = np.random.default_rng(zlib.crc32(f"{layer} {tuple(widths)}".encode()))
    return float(0.002 + 1e-6 * blocks**1.7 * rng.uniform(1.0, 1.02))


def problem(name: str) -> tuple[Any, Sequence[Any], dict[str, torch.Tensor], Any]:
    """Graph, groups, scores and table of a network."""
    import edakari
    from edakari.core.space import limited
    from edakari.latency import wanted
    from edakari.latency.table import Key, Sample, Table

    with torch.device("meta"):
        model = NETWORKS[name]().eval()
    graph = edakari.trace(model, torch.zeros(1, 3, 224, 224))
    groups = limited(graph.groups, round_to=8)
    points = {point for each in wanted(graph, groups) for point in each.points()}
    times = {point: imagined_ms(*point) for point in points}
    samples = {point: Sample(ms, ms, 0.0, 10) for point, ms in times.items()}
    rng = np.random.default_rng(SEED)
    scores = {group.name: torch.from_numpy(rng.gamma(2.0, 1.0, group.size)) for group in graph.groups}
    return graph, groups, scores, Table(Path("imagined"), Key({}, "imagined", {}, {}), samples)


def work(name: str) -> None:
    """Time all stages once for each line of the standard input."""
    import edakari
    from edakari import solve
    from edakari.latency import latency_cost
    from edakari.methods.allocation import allocate

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    graph, groups, scores, table = problem(name)
    print(Path(edakari.__file__).resolve().parents[1], flush=True)
    clock = time.process_time
    for _ in sys.stdin:
        start = clock()
        cost = latency_cost(graph, table, groups)
        times, sizes, kept = {"cost": clock() - start}, {}, {}
        for budget, allocators in BUDGETS.items():
            for allocator in allocators:
                start = clock()
                plan = allocate(graph, scores, budget, getattr(solve, allocator)(), groups, [cost])
                times[f"{allocator}, {budget}"] = clock() - start
                sizes[f"{allocator}, {budget}"] = found = dict(plan.sizes())
                kept[f"{allocator}, {budget}"] = sum(
                    float(score.sort(descending=True).values[: found.get(group, len(score))].sum())
                    for group, score in scores.items()
                )
        print(json.dumps({"times": times, "sizes": sizes, "kept": kept}), flush=True)


def compare(name: str, folders: Mapping[str, Path], repeats: int) -> dict[str, Any]:
    """Least CPU seconds of each stage, and whether the sizes are the same."""
    rounds = alternately(name, folders, Path(__file__), repeats)
    found = {version: [each[version] for each in rounds] for version in folders}
    stages: dict[str, Any] = {}
    for stage in found["after"][0]["times"]:
        least = {version: min(each["times"][stage] for each in own) for version, own in found.items()}
        stages[stage] = {f"{version}_cpu_s": seconds for version, seconds in least.items()}
        sizes = [own[0]["sizes"].get(stage) for own in found.values()]
        stages[stage]["same_sizes"] = all(each == sizes[0] for each in sizes)
        if stage in found["after"][0]["kept"]:
            stages[stage]["ratio_of_kept_scores"] = found["after"][0]["kept"][stage] / found["before"][0]["kept"][stage]
        print(f"{name}, {stage}: {stages[stage]}", flush=True)
    return stages


def main() -> None:
    arguments = arguments_of(__doc__, 7, ("resnet50", "densenet121"))
    if arguments.worker:
        work(arguments.worker)
    else:
        record(arguments, lambda name, folders: compare(name, folders, arguments.repeats))


if __name__ == "__main__":
    main()
