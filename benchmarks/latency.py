"""How far predicted latencies are off: random sub-networks timed whole, against the table of their layers.

    python benchmarks/latency.py --output benchmarks/results/latency.json

One `edakari measure --calibrate` for each network and runtime, at one thread and batch 1. Each sub-network is predicted
by a fit to all the others. The machine must be quiet: the spread in the result says whether it was. A killed run goes
on where its tables are, if it is given the same --cache.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from records import write_record

NETWORKS = ("torchvision:resnet50", "torchvision:mobilenet_v2", "timm:vit_small_patch16_224")


def calibrated(network: str, runtime: str, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "edakari", "measure", network, "--calibrate", "--json", "--runtime", runtime]
    command += ["--networks", str(arguments.networks), "--repeats", str(arguments.repeats), "--threads", "1"]
    command += ["--step", str(arguments.step), *(["--cache", str(arguments.cache)] if arguments.cache else [])]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)["runtimes"][runtime]
    return {**result, "command": " ".join(command[1:]), "whole_s": time.perf_counter() - start}


def environment() -> dict[str, Any]:
    return {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(NETWORKS))
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime"])
    parser.add_argument("--networks", type=int, default=20, help="random sub-networks of each network")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--step", type=int, default=8)
    parser.add_argument("--cache", type=Path, help="folder of latency tables; a new one measures all afresh")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    results: dict[str, Any] = {"environment": environment(), "networks": {}}
    for network in arguments.models:
        for runtime in arguments.runtimes:
            result = calibrated(network, runtime, arguments)
            results["networks"].setdefault(network, {})[runtime] = result
            fit = result["fit"]
            print(
                f"{network} in {runtime}: median error {fit['median_error']:.1%}, worst {fit['worst_error']:.1%}, rank "
                f"correlation {fit['rank_correlation']:.3f}; spread {result['spread']:.1%}; {result['filled']} points "
                f"in {result['fill_s']:.0f} s ({result['expected_s']:.0f} s expected)",
                flush=True,
            )
            if arguments.output:
                write_record(arguments.output, results)


if __name__ == "__main__":
    main()
