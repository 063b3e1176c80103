"""Token pruning of the DeiT-S shape in ONNX Runtime: the speed-up beside what the multiply-accumulates promise.

    python benchmarks/tokens.py --output benchmarks/results/tokens.json

Random weights (time does not depend on them). Every network is timed in turns with the dense one, at batch 1 and 8, one
thread; the first in each round changes. Arms: selectors of SPViT after each quarter of the network, the class token's
attention at the same counts, and ToMe's reference schedule (13 tokens merged in front of every block but the first).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from core import processor
from records import write_record
from torch import nn

import edakari
from edakari.core.plan import KeepTokens, Plan
from edakari.cost import macs
from edakari.latency.runtimes import runtime_named
from edakari.latency.timing import RunSettings, measure
from edakari.methods.spvit import SoftTokenPruning
from edakari.methods.token_baselines import AttentionTokens
from edakari.surgery.tokens import token_sites

RATIOS = (0.7, 0.5)
MERGED = 13


def arms(model: nn.Module, example: torch.Tensor) -> dict[str, tuple[KeepTokens, ...]]:
    """Edits of each arm."""
    sites = token_sites(model, example)
    designs = {"spvit": SoftTokenPruning().design(sites), "evit": AttentionTokens().design(sites)}
    found = {}
    for ratio in RATIOS:
        for name, design in designs.items():
            found[f"{name}, ratio {ratio}"] = design.edits(design.counts(1 - ratio))
    found[f"tome, r={MERGED}"] = tuple(
        KeepTokens(name, sites.patches[0] - MERGED * index, "tome") for index, name in enumerate(sites.names) if index
    )
    return found


def timed(name: str, batch: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every arm beside the dense network."""
    model = edakari.build(name)
    example = torch.randn(1, 3, 224, 224)
    graph = edakari.trace(model, example)
    dense = macs(graph).total({})
    networks = {
        arm: edakari.apply(model, Plan(edits, graph.fingerprint, graph.inputs))
        for arm, edits in arms(model, example).items()
    }
    timings = measure(
        {"dense": model, **networks},
        torch.cat([example] * batch),
        runtime_named(arguments.runtime),
        settings=RunSettings(threads=arguments.threads, warmup=arguments.warmup),
        repeats=arguments.repeats,
    )
    rows = {}
    for arm, network in networks.items():
        promised = dense / macs(edakari.trace(network, example)).total({})
        speedup = timings["dense"].median_ms / timings[arm].median_ms
        rows[arm] = {
            "ms": timings[arm].median_ms,
            "spread_ms": timings[arm].spread,
            "speedup": speedup,
            "promised": promised,
            "reached": speedup / promised,
            "gained": (speedup - 1) / (promised - 1),
        }
    return {"dense_ms": timings["dense"].median_ms, "dense_spread_ms": timings["dense"].spread, "arms": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="timm:deit_small_patch16_224")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    results: dict[str, Any] = {
        "environment": {
            "command": " ".join(["python", *sys.argv]),
            "date": time.strftime("%Y-%m-%d"),
            "processor": processor(),
            "cores": os.cpu_count(),
            "load_before": os.getloadavg(),
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "timm", "onnxruntime")},
        },
        "model": arguments.model,
        "batches": {},
    }
    for batch in arguments.batches:
        found = timed(arguments.model, batch, arguments)
        results["batches"][str(batch)] = found
        print(f"batch {batch}: dense {found['dense_ms']:.1f} ms")
        for arm, row in found["arms"].items():
            print(
                f"  {arm}: {row['ms']:.1f} ms, {row['speedup']:.2f} x where the MACs promise {row['promised']:.2f} x: "
                f"{row['reached']:.0%}",
                flush=True,
            )
        if arguments.output:
            write_record(arguments.output, results)


if __name__ == "__main__":
    main()
