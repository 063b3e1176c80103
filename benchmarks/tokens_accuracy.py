"""Accuracy of token pruning at equal measured latency, before and after equal fine-tuning.

    python benchmarks/tokens_accuracy.py --output benchmarks/results/tokens_accuracy.json
    python benchmarks/tokens_accuracy.py --data train_a.npz train_b.npz --val test.npz --image-size 32 --work work …

Without --data it runs on the embedded ViT and the embedded Fashion-MNIST; with it on a ViT of patches of 4 x 4 that is
trained first, once for each seed. Arms: SPViT, DynamicViT-like, EViT, ToMe, random; each at 70 % and 50 % of the dense
network's latency in ONNX Runtime (batch 1, one thread, met by measurement). Training-free figures are of the network
cut at once (for SPViT and DynamicViT two epochs train the selectors alone, the network stays as it is);
fine-tuned ones of equally many epochs for every arm. Each arm is a run folder of its own under --work: a killed
benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from edakari.core.files import write_json
from edakari.run import prune, recipe_from
from edakari.run.pipeline import train_dense

ARMS: dict[str, dict[str, Any]] = {
    "spvit": {"name": "spvit"},
    "dynamicvit": {"name": "dynamicvit"},
    "evit": {"name": "evit"},
    "tome": {"name": "tome"},
    "random": {"name": "random_tokens"},
}
LEARNED = ("spvit", "dynamicvit")
VIT = """
from timm.models.vision_transformer import VisionTransformer


def vit(num_classes: int = 10):
    return VisionTransformer(
        img_size=32, patch_size=4, num_classes=num_classes, embed_dim=192, depth=9, num_heads=3, mlp_ratio=2
    )
"""


def recipe(arm: str, share: float, seed: int, tuned: bool, arguments: argparse.Namespace) -> dict[str, Any]:
    """The recipe of one arm: selectors of the learned ones are trained inside of the method, all others afterwards."""
    epochs = arguments.epochs if tuned else 0
    method = dict(ARMS[arm])
    finetune: dict[str, Any] | None = None
    if arguments.blocks and arm != "tome":
        method["blocks"] = arguments.blocks
    if arm in LEARNED:
        head = min(1, epochs)
        method |= {"selector_epochs": head if tuned else 2, "joint_epochs": epochs - head}
        method |= {"selector_lr": arguments.selector_lr, "joint_lr": arguments.lr}
    elif epochs:
        finetune = {
            "epochs": epochs,
            "lr": arguments.lr,
            "optimizer": "adamw",
            "weight_decay": 0.05,
            "distill": {"weight": 0.5, "temperature": 1.0},
        }
    return {
        "model": model(arguments, seed),
        "data": data(arguments),
        "method": method,
        "budget": f"latency<={share:.0%}",
        "latency": {"repeats": arguments.repeats, "spread": arguments.spread},
        "finetune": finetune,
        "seed": seed,
        "device": arguments.device,
    }


def model(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    if not arguments.data:
        return {"name": "edakari:fashion_vit", "weights": "pretrained"}
    return {"name": f"{arguments.work / 'vit.py'}:vit", "weights": str(arguments.work / f"dense-{seed}.safetensors")}


def data(arguments: argparse.Namespace) -> dict[str, Any]:
    if not arguments.data:
        return {"source": "embedded:fashion"}
    return {"train": list(map(str, arguments.data)), "val": str(arguments.val), "batch_size": 128}


def trained(seed: int, arguments: argparse.Namespace) -> None:
    """The dense network of a seed, unless it is there."""
    path = arguments.work / f"dense-{seed}.safetensors"
    if not arguments.data or path.exists():
        return
    (arguments.work / "vit.py").write_text(VIT)
    content = {
        "model": {"name": f"{arguments.work / 'vit.py'}:vit"},
        "data": data(arguments),
        "method": "tome",
        "budget": "macs<=100%",
        "train": {"epochs": arguments.dense_epochs, "lr": 1e-3, "optimizer": "adamw", "weight_decay": 0.05},
        "seed": seed,
        "device": arguments.device,
    }
    train_dense(recipe_from(content), path)


def ran(arm: str, share: float, seed: int, tuned: bool, arguments: argparse.Namespace) -> dict[str, Any]:
    """Figures of one run, from its folder where it is finished."""
    name = f"{arm}-{share:g}-{seed}-{'tuned' if tuned else 'free'}"
    start = time.perf_counter()
    report = prune(recipe_from(recipe(arm, share, seed, tuned, arguments)), arguments.work / name).report
    dense, last = report["networks"][0], report["networks"][-1]
    timed = report["latency"]
    return {
        "accuracy": last["metrics"][report["metric"]],
        "dense_accuracy": dense["metrics"][report["metric"]],
        "latency_share": timed["measured"]["median_ms"] / timed["dense"]["median_ms"],
        "macs_share": last["costs"]["macs"] / dense["costs"]["macs"],
        "seconds": time.perf_counter() - start,
    }


def summary(rows: dict[str, dict[str, Any]]) -> list[str]:
    groups: dict[str, list[float]] = {}
    for name, row in rows.items():
        arm, share, _, kind = name.rsplit("-", 3)
        groups.setdefault(f"{kind} {share} {arm}", []).append(row["accuracy"])
    return [
        f"{name}: {statistics.mean(values):.4f} over {len(values)} seeds" for name, values in sorted(groups.items())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="npz files of the training images")
    parser.add_argument("--val", type=Path, help="npz file of the validation images")
    parser.add_argument("--work", type=Path, default=Path("runs/tokens_accuracy"))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--shares", type=float, nargs="+", default=[0.7, 0.5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", default=["free", "tuned"], choices=["free", "tuned"])
    parser.add_argument("--blocks", type=int, nargs="*", default=[], help="of the selectors; empty: after each quarter")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--dense-epochs", type=int, default=60)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--selector-lr", type=float, default=5e-3)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--spread", type=float, default=0.15, help="largest accepted, as a share of the median")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "environment": {
            "command": " ".join(["python", *sys.argv]),
            "date": time.strftime("%Y-%m-%d"),
            "cores": os.cpu_count(),
        },
        "rows": {},
    }
    if arguments.output and arguments.output.is_file():
        results["rows"] = json.loads(arguments.output.read_text())["rows"]
    for seed in arguments.seeds:
        trained(seed, arguments)
        for share in arguments.shares:
            for arm in arguments.arms:
                for kind in arguments.kinds:
                    name = f"{arm}-{share:g}-{seed}-{kind}"
                    if name in results["rows"]:
                        continue
                    results["rows"][name] = row = ran(arm, share, seed, kind == "tuned", arguments)
                    print(f"{name}: {row['accuracy']:.4f} of {row['dense_accuracy']:.4f}, "
                          f"{row['latency_share']:.0%} of the time", flush=True)  # fmt: skip
                    if arguments.output:
                        write_json(arguments.output, results)
    print("\n".join(summary(results["rows"])))


if __name__ == "__main__":
    main()
