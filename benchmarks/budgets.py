"""Whether budgets in milliseconds are met: the exported ONNX files timed by code of their own, after `edakari prune`.

    python benchmarks/budgets.py --output benchmarks/results/budgets.json

For each network and budget one `edakari prune` with random weights and no fine-tuning, then the dense and the pruned
ONNX file in turns in plain ONNX Runtime, in a new process. Run it on a quiet machine. A run goes on where an earlier
one stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core import environment

RECIPES: Mapping[str, tuple[str, ...]] = {
    "edakari:resnet20, 32 pixels": ("recipes/latency_resnet20.yaml",),
    "timm:mobilenetv2_100, 128 pixels": ("recipes/latency_mobilenetv2.yaml",),
    "timm:deit_tiny_patch16_224, 96 pixels": (
        "recipes/latency_mobilenetv2.yaml",
        "model.name=timm:deit_tiny_patch16_224",
        "model.options={num_classes: 10, img_size: 96}",
        "data.image_size=96",
    ),
}
BUDGETS = (0.8, 0.6, 0.4)
COMMAND = ["python", *sys.argv]


def pruned(name: str, share: float, folder: Path) -> dict[str, Any]:
    """One run of the command line; what it says of the latency."""
    recipe, *overrides = RECIPES[name]
    settings = [f"budget=latency<={share:.0%}", *overrides]
    command = [sys.executable, "-m", "edakari", "prune", recipe, "--output", str(folder)]
    command += [part for setting in settings for part in ("--set", setting)]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    latency = json.loads((folder / "report.json").read_text())["latency"]
    return {
        "command": " ".join(["python", *command[1:]]),
        "seconds": time.perf_counter() - start,
        "limit_ms": latency["limit_ms"],
        "networks_measured": len(latency["rounds"]),
        "own_off": latency["off"],
    }


def timed(folder: Path, repeats: int) -> dict[str, Any]:
    """The exported files in turns, in a process that knows nothing of edakari."""
    done = subprocess.run(
        [sys.executable, __file__, "--time", str(folder / "export"), "--repeats", str(repeats)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def time_files(folder: Path, repeats: int) -> dict[str, Any]:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = {
        name: onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
        for name in ("dense", "pruned")
    }
    entry = sessions["dense"].get_inputs()[0]
    image = np.random.default_rng(0).standard_normal(entry.shape).astype("float32")
    calls: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(repeats):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, {entry.name: image})
            calls[name].append(1e3 * (time.perf_counter() - start))
    ratios = [p / d for p, d in zip(calls["pruned"], calls["dense"], strict=True)]
    return {f"{name}_ms": statistics.median(all_) for name, all_ in calls.items()} | {
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios)[::2],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/budgets"), help="folder of the runs")
    parser.add_argument("--repeats", type=int, default=1000, help="calls of each file")
    parser.add_argument("--time", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.time:
        print(json.dumps(time_files(arguments.time, arguments.repeats)))
        return
    found = json.loads(arguments.output.read_text()) if arguments.output and arguments.output.is_file() else {}
    rows: dict[str, Any] = found.get("runs", {})
    for name in RECIPES:
        for share in BUDGETS:
            key = f"{name} to {share:.0%}"
            if key in rows:
                continue
            folder = arguments.work / f"{name.split(',')[0].replace(':', '_')}_{share:.0%}"
            row = pruned(name, share, folder) | timed(folder, arguments.repeats)
            offs = {"off": row["ratio"] / share - 1, "off_ms": row["pruned_ms"] / row["limit_ms"] - 1}
            rows[key] = row | {"share": share, **offs}
            print(
                f"{key}: {row['ratio']:.4f} of the dense time ({offs['off']:+.1%} from the share), "
                f"{row['pruned_ms']:.4g} ms ({offs['off_ms']:+.1%} from {row['limit_ms']:.4g} ms)",
                flush=True,
            )
            if arguments.output:
                arguments.output.parent.mkdir(parents=True, exist_ok=True)
                arguments.output.write_text(
                    json.dumps({"environment": environment(COMMAND), "runs": rows}, indent=2) + "\n"
                )


if __name__ == "__main__":
    main()
