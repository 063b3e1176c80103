r"""How often a network that sees only where it looks names the same class, before and after pruning by ISP.

    python benchmarks/isp_explainer.py DATA --weights resnet20.safetensors \
        --output benchmarks/results/isp_explainer.json
    python benchmarks/isp_explainer.py --runs runs/cifar10/isp_macs*50*_? --output ...    # of finished runs

DATA is a folder with CIFAR-10 as `train.npz` and `test.npz`: `images`, uint8 [N, 32, 32, 3], and `labels`. One run of
the recipe for each seed; a run that was killed goes on where it was. Masks are those of the true class, judged on the
test images by the predictor, which has seen training images only: with masks of the dense network against the dense
network's classes, with masks of the pruned network (before and after fine-tuning) against the pruned network's. Beside
each stands what comes of it when every image is seen through the mask of another image, which is what an explainer has
to beat.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from records import write_record

import edakari
from edakari.pipeline import read_recipe
from edakari.pipeline.explained import run_saliency
from edakari.pipeline.folder import RunFolder
from edakari.report.saliency import shares

RECIPE = Path(__file__).parents[1] / "recipes" / "cifar10_resnet20_isp.yaml"


def settings(arguments: argparse.Namespace, seed: int) -> list[str]:
    files = [f"data.train=[{arguments.data / 'train.npz'}]", f"data.val={arguments.data / 'test.npz'}"]
    fixed = [*files, f"seed={seed}"]
    fixed += [f"model.weights={arguments.weights}", "measure=null", "export=[]"]
    return [*fixed, *arguments.set]


def run(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    folder = arguments.work / f"seed{seed}"
    start = time.perf_counter()
    result = edakari.run(read_recipe(arguments.recipe, settings(arguments, seed)), folder)
    entry = {"seed": seed, "seconds": time.perf_counter() - start, "resumed": not result.fresh}
    return {**entry, **judged(folder, arguments.images)}


def finished(folder: Path, images: int) -> dict[str, Any]:
    """A run that was made before, with the settings that it had."""
    content = RunFolder(folder).recipe()
    method = {key: value for key, value in content["method"].items() if key != "name"}
    trained = {"limit": content["data"]["max_images"], "epochs": content["finetune"]["epochs"]}
    return {"seed": content["seed"], "method": method, **trained, **judged(folder, images)}


def judged(folder: Path, images: int) -> dict[str, Any]:
    """Figures of a finished run."""
    report = json.loads((folder / "report.json").read_text())
    networks = {network["name"]: network for network in report["networks"]}
    dense, last = networks["dense"], report["networks"][-1]
    entry: dict[str, Any] = {}
    entry["top1"] = {name: network["metrics"]["top1"] for name, network in networks.items()}
    entry["macs_share"] = last["costs"]["macs"] / dense["costs"]["macs"]
    for stage in ("pruned", "finished"):
        entry[stage] = shares(run_saliency(folder, images, stage))
    return entry


def environment() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=RECIPE.parent)
    return {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of train.npz and test.npz")
    parser.add_argument("--weights", type=Path, help="of the dense network")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--runs", type=Path, nargs="+", help="folders of finished runs, in place of new ones")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=10000, help="test images that are looked at")
    parser.add_argument("--work", type=Path, default=Path("runs/isp_explainer"), help="where runs go on from")
    parser.add_argument("--set", action="append", default=[], help="key=value in the recipe; may be given again")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if not arguments.runs and not (arguments.data and arguments.weights):
        parser.error("give DATA and --weights, or --runs")
    results: dict[str, Any] = {"environment": environment(), "runs": []}
    for each in arguments.runs or arguments.seeds:
        entry = finished(each, arguments.images) if arguments.runs else run(arguments, each)
        results["runs"].append(entry)
        before, after = entry["pruned"], entry["finished"]
        print(
            f"seed {entry['seed']}: agreement {before['agreement_dense']:.1%} dense ({before['chance_dense']:.1%} by "
            f"chance), {before['agreement_pruned']:.1%} pruned, {after['agreement_pruned']:.1%} fine-tuned; overlap "
            f"{before['overlap_median']:.1%}, {after['overlap_median']:.1%}; top-1 {entry['top1']}",
            flush=True,
        )
        if arguments.output:
            write_record(arguments.output, results)


if __name__ == "__main__":
    main()
