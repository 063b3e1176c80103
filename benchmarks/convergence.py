"""How many networks and seconds a latency budget takes: twelve budgets on four networks, and six networks more.

    python benchmarks/convergence.py --output benchmarks/results/convergence.json

Each row is one `edakari prune` by magnitude, with random weights, on noise, without fine-tuning, to a fraction of the
dense network's latency in ONNX Runtime on one thread. Budgets of one network share a table, as runs of a user do; the
first fills it. Afterwards a process that knows nothing of edakari times the exported files in turns. Seconds of
measuring are those of the stages `latency` and `prune`. Rows in the output are not run again. Run it on a quiet
machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from budgets import timed
from core import environment
from records import write_record

RECIPE = "recipes/latency_mobilenetv2.yaml"
NETWORKS: Mapping[str, tuple[str, int, tuple[int, ...]]] = {
    # name: model, pixels, budgets in per cent of the dense latency
    "resnet20": ("edakari:resnet20", 32, (80, 65, 50)),
    "mobilenetv2_100": ("timm:mobilenetv2_100", 128, (80, 65, 50)),
    "regnetx_002": ("timm:regnetx_002", 128, (80, 65, 50)),
    "deit_tiny_patch16_224": ("timm:deit_tiny_patch16_224", 96, (80, 65, 50)),
    "efficientnet_b0": ("timm:efficientnet_b0", 96, (60,)),
    "mobilenetv3_large_100": ("timm:mobilenetv3_large_100", 128, (60,)),
    "densenet121": ("timm:densenet121", 64, (60,)),
    "convnext_atto": ("timm:convnext_atto", 128, (60,)),
    "vit_tiny_patch16_224": ("timm:vit_tiny_patch16_224", 96, (60,)),
    "unet": ("benchmarks/unet.py:unet", 64, (60,)),
}
COMMAND = ["python", *sys.argv]


def row(name: str, share: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One run of the command line, and its exported files timed afterwards."""
    model, pixels, _ = NETWORKS[name]
    folder, images = arguments.work / f"{name}_{share}", arguments.work / "images.npz"
    options = {"num_classes": 10, **({"img_size": pixels} if "patch16" in name else {})}
    settings = [
        f"model.name={model}",
        f"model.options={json.dumps(options)}",
        f"data={{train: [{images}], val: {images}, image_size: {pixels}, channels: 3}}",
        "measure=null",
        f"budget=latency<={share}%",
        f"latency.spread={arguments.spread}",
    ]
    command = ["prune", RECIPE, "--output", str(folder), "--overwrite", "--trust"]
    command += [part for setting in settings for part in ("--set", setting)]
    cache = {"EDAKARI_CACHE": str(arguments.work / "cache" / name)}
    run = [sys.executable, "-m", "edakari", *command]
    subprocess.run(run, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **cache})
    report = json.loads((folder / "report.json").read_text())
    latency, seconds = report["latencies"]["latency"], report["seconds"]
    files = {each: folder / "export" / f"{each}.onnx" for each in ("dense", "pruned")}
    after = timed(files, arguments.seconds)
    return {
        "share": share,
        "rounds": [each["relative_error"] for each in latency["rounds"]],
        "seconds": {"latency": seconds["latency"], "prune": seconds["prune"], "all": sum(seconds.values())},
        "median_error": (latency["fit"] or {}).get("median_error"),
        "own_off": latency["relative_error"],
        "after": after,
        "after_off": after["ratio"] / (share / 100) - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--seconds", type=float, default=8.0, help="how long the exported files are timed")
    parser.add_argument("--spread", type=float, default=0.15, help="largest accepted spread of a timing")
    parser.add_argument("--work", type=Path, default=Path("runs/convergence"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/convergence.json"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    np.savez(arguments.work / "images.npz", images=noise, labels=np.arange(64) % 10)
    rows: dict[str, Any] = json.loads(arguments.output.read_text())["runs"] if arguments.output.is_file() else {}
    for name in arguments.networks:
        for share in NETWORKS[name][2]:
            key = f"{name} to {share} %"
            if key in rows:
                continue
            rows[key] = row(name, share, arguments)
            write_record(arguments.output, {"environment": environment(COMMAND), "runs": rows, **summary(rows)})
            print(key, [f"{each:+.1%}" for each in rows[key]["rounds"]], rows[key]["seconds"], flush=True)


def summary(rows: Mapping[str, Any]) -> dict[str, Any]:
    """Medians over the rows."""
    measuring = [each["seconds"]["latency"] + each["seconds"]["prune"] for each in rows.values()]
    return {
        "median_rounds": statistics.median(len(each["rounds"]) for each in rows.values()),
        "median_measuring_s": statistics.median(measuring),
    }


if __name__ == "__main__":
    main()
