"""How far predicted latencies are off where a solver goes, for four ways to fit them; all networks timed in turns.

    python benchmarks/latency_corners.py --output benchmarks/results/latency_corners.json

The latency of the networks that a solver chooses by magnitudes, at several fractions of the dense latency, is predicted
from the table of their layers. A fit knows the dense network and either random ones, or half random ones and half that
a solver chose by random scores; and it has a time for each weight or not. Pruning runs use the last, with weights.
All fits know equally many networks. ONNX Runtime, one thread, batch 1.
"""

from __future__ import annotations

import argparse
import dataclasses as dc
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from core import environment
from records import write_record

import edakari
from edakari.core.plan import Plan
from edakari.core.space import Sizes, limited
from edakari.criteria import Magnitude
from edakari.latency import fit_latency, random_sizes
from edakari.latency.bench import Bench
from edakari.latency.model import fill_table, unfitted
from edakari.latency.predict import LatencyCost
from edakari.latency.runtimes import runtime_named
from edakari.latency.timing import RunSettings
from edakari.latency.widths import WidthLatency, first_channels

NETWORKS: Mapping[str, int] = {"timm:efficientnet_b0": 96, "timm:mobilenetv3_large_100": 128, "timm:densenet121": 64}
"""Networks, and their images' side in pixels."""
FRACTIONS = (0.45, 0.55, 0.65, 0.75)


@dc.dataclass(frozen=True)
class Unread:
    """A predicted latency that has no time for weights."""

    cost: LatencyCost

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cost, name)

    def weights(self, sizes: Sizes) -> float:
        return 0.0


def errors(cost: Any, known: Sequence[tuple[Sizes, float]], asked: Sequence[tuple[Sizes, float]]) -> dict[str, Any]:
    """A fit to known networks, and its relative errors on others."""
    fit = fit_latency(cost, *zip(*known, strict=True))
    off = []
    for sizes, measured in asked:
        layers = (cost.predict(sizes) - cost.constant) / cost.scale
        predicted = fit.constant_ms + fit.scale * layers + fit.weights_ms * cost.weights(sizes)
        off.append(predicted / measured - 1)
    return {
        "fit": dc.asdict(fit),
        "errors": off,
        "median": float(np.median(np.abs(off))),
        "largest": max(map(abs, off)),
    }


def compared(name: str, pixels: int, arguments: argparse.Namespace, cache: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    model, example = edakari.build(name).eval(), torch.randn(1, 3, pixels, pixels)
    graph = edakari.trace(model, example)
    groups = limited(graph.groups, round_to=8)
    bench = Bench(runtime_named("onnxruntime"), RunSettings(), example, arguments.repeats, 1.0, cache)
    latency = WidthLatency(model, graph, groups)
    cost = latency.cost(unfitted(fill_table(latency, bench, print)[0]))
    random = [first_channels(graph, sizes) for sizes in ({}, *random_sizes(groups, arguments.networks - 1))]
    mixed = list(latency.samples(arguments.networks, cost))
    scores = Magnitude().score(model, graph, (), None)
    asked = [edakari.allocate(graph, scores, f"latency<={100 * part}%", None, groups, [cost]) for part in FRACTIONS]
    plans: list[Plan] = [*random, *mixed, *asked]
    timed = bench.timed({str(index): edakari.apply(model, plan, graph) for index, plan in enumerate(plans)})
    found = [(plan.sizes(), timed[str(index)].median_ms) for index, plan in enumerate(plans)]
    first, last = len(random), len(random) + len(mixed)
    return {
        "pixels": pixels,
        "measured_ms": [measured for _, measured in found],
        "spread": float(np.median([timing.spread / timing.median_ms for timing in timed.values()])),
        "random, without weights": errors(Unread(cost), found[:first], found[last:]),
        "random": errors(cost, found[:first], found[last:]),
        "half chosen, without weights": errors(Unread(cost), found[first:last], found[last:]),
        "half chosen": errors(cost, found[first:last], found[last:]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(NETWORKS))
    parser.add_argument("--networks", type=int, default=8, help="networks that each fit knows")
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--cache", type=Path, help="folder of latency tables; a temporary one if it is not given")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module="torch")
    torch.set_num_threads(1)
    results: dict[str, Any] = {"environment": environment(["python", *sys.argv]), "networks": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            found = compared(name, NETWORKS[name], arguments, arguments.cache or Path(folder))
            results["networks"][name] = found
            for way, each in found.items():
                if isinstance(each, dict):
                    print(f"{name} {way}: median {each['median']:.1%}, largest {each['largest']:.1%}", flush=True)
            if arguments.output:
                write_record(arguments.output, results)


if __name__ == "__main__":
    main()
