"""Pruning and int8 together: accuracy and latency of the dense and the pruned network in fp32 and int8.

    python benchmarks/int8.py DATA --network resnet20 --dense benchmarks/results/cifar10_grid_dense.safetensors
    python benchmarks/int8.py DATA --network mobilenetv2 --imagenet mobilenet_v2_imagenet_uint8.npz

DATA is the folder of CIFAR-10's train.npz and test.npz (`images`, uint8 [N, 32, 32, 3], and `labels`). ResNet-20 sees
images of 32 pixels; --dense names its weights. MobileNetV2 sees them at 96 pixels: it starts from the 8-bit ImageNet
codes that --imagenet names (`benchmarks/mobilenet_v2.py` reads them), and is fine-tuned first, once for all
seeds. Each arm is one `edakari prune` to a fraction of the int8 latency of the dense network, in ONNX Runtime on one
thread, with fine-tuning in fp32 and static quantisation at the end. Its four networks are then timed alternately. The
goal is a pruned network in int8 that is 2.5 times as fast as the dense one in fp32, and loses less than 1.5 points.
--quantize takes finished runs of another benchmark instead, such as those of benchmarks/cifar10.py, and quantises them;
it reads those that are quantised already.
An arm is a network with a seed and a number of epochs; those in the output are not run again, so that a stopped
benchmark goes on there. Run it on a quiet machine; --spread 1 accepts any noise, and is recorded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from core import environment
from records import write_record

from edakari.export.int8 import int8_instructions

SPEED, LOSS = 2.5, 0.015
"""The goal: so many times as fast, at a smaller loss of accuracy."""
COMMAND = ["python", *sys.argv]
ADAMW = ("optimizer=adamw", "weight_decay=0.01")
"""How MobileNetV2 is trained; ask for a learning rate of about 0.001."""
FACTORY = "benchmarks/mobilenet_v2.py:mobilenet_v2"
RECIPE = "recipes/cifar10_resnet20.yaml"


def command_line(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "edakari", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def sets(settings: list[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def test_images(arguments: argparse.Namespace) -> Path:
    """The file of the test images, or one of the first of them."""
    if not arguments.test:
        return arguments.data / "test.npz"
    path = arguments.work / f"test_{arguments.test}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with np.load(arguments.data / "test.npz") as found:
            np.savez(path, **{name: found[name][: arguments.test] for name in ("images", "labels")})
    return path


def network_settings(arguments: argparse.Namespace) -> list[str]:
    """What a recipe says of the network and its data."""
    data = [f"data.train=[{arguments.data}/train.npz]", f"data.val={test_images(arguments)}"]
    if arguments.limit:
        data.append(f"data.max_images={arguments.limit}")
    if arguments.network == "resnet20":
        return [*data, f"model.weights={arguments.dense}"]
    dense = arguments.dense or arguments.work / "mobilenetv2.safetensors"
    mean = ["data.mean=[0.502, 0.502, 0.502]", "data.std=[0.502, 0.502, 0.502]"]  # (x - 128) / 128
    adamw = [f"{part}.{each}" for part in ("train", "finetune") for each in ADAMW]
    found = [*data, *mean, *adamw, "data.image_size=96", f"model.name={FACTORY}"]
    if not dense.is_file():
        arguments.work.mkdir(parents=True, exist_ok=True)
        options = f"{{imagenet: {arguments.imagenet}, images: {arguments.data}/train.npz}}"
        start = [f"model.options={options}", "model.weights=as_built"]
        train = [f"train.epochs={arguments.dense_epochs}", f"train.lr={arguments.lr}"]
        command_line("train", RECIPE, "--trust", "--output", dense, *sets([*found, *start, *train]))
    return [*found, f"model.weights={dense}"]


def arm(seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One run of the command line, and what its report says of the four networks."""
    folder = arguments.work / f"{arguments.network}_{seed}_{arguments.epochs}"
    settings = [
        *network_settings(arguments),
        f"budget=latency<={arguments.share}%",
        "latency={runtime: onnxruntime, threads: 1, precision: int8}",
        f"latency.spread={arguments.spread}",
        f"method.name={arguments.method}",
        f"finetune.epochs={arguments.epochs}",
        f"finetune.lr={arguments.lr}",
        "finetune.precision=fp32",
        "measure=null",
        f"seed={seed}",
        f"data.seed={seed}",
    ]
    start = time.perf_counter()
    command_line("prune", RECIPE, "--trust", "--output", folder, *sets(settings))
    latency = json.loads((folder / "report.json").read_text())["latencies"]["latency"]
    return {
        "network": arguments.network,
        "seed": seed,
        "epochs": arguments.epochs,
        "method": arguments.method,
        "share": arguments.share,
        "spread": arguments.spread,
        "limit": arguments.limit,
        "test": arguments.test,
        "seconds": time.perf_counter() - start,
        "asked_ms": latency["limit_ms"],
        "relative_error": latency["relative_error"],
        "rounds": len(latency["rounds"]),
        **four_networks(folder),
    }


def quantised_run(folder: Path) -> dict[str, Any]:
    """A finished run of another benchmark, quantised now if it was not before."""
    if not json.loads((folder / "report.json").read_text()).get("int8"):
        command_line("quantize", folder, "--trust")
    recipe = json.loads((folder / "report.json").read_text())["recipe"]
    return {
        "run": folder.name,
        "network": recipe["model"]["name"],
        "seed": recipe["seed"],
        "budget": recipe["budget"],
        "epochs": recipe["finetune"]["epochs"],
        **four_networks(folder),
    }


def four_networks(folder: Path) -> dict[str, Any]:
    """Accuracy and latency of the dense and the pruned network in fp32 and int8, as a run's report has them."""
    report = json.loads((folder / "report.json").read_text())
    corners = {f"{each['network']} {each['precision']}": each for each in report["int8"]["corners"]}
    dense, small = corners["dense fp32"], corners["pruned int8"]
    loss = dense["metrics"]["top1"] - small["metrics"]["top1"]
    return {
        "macs": report["networks"][-1]["costs"]["macs"] / report["networks"][0]["costs"]["macs"],
        "corners": {
            name: {
                "top1": each["metrics"]["top1"],
                "ms": each["latency"]["median_ms"],
                "iqr_ms": each["latency"]["spread"],
                "times_as_fast": 1.0 / each["latency"]["ratio"],
                "bytes": each["bytes"],
            }
            for name, each in corners.items()
        },
        "agreement": report["int8"]["agreement"],
        "loss": loss,
        "goal": 1.0 / small["latency"]["ratio"] >= SPEED and loss < LOSS,
    }


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {"arms": []}


def keep(made: dict[str, Any], path: Path) -> None:
    """Add an arm to the output, which another process may have changed."""
    about = {**environment(COMMAND), "int8_instructions": list(int8_instructions())}
    write_record(path, {"environment": about, "arms": [*read(path)["arms"], made]})
    print(json.dumps(made, indent=1))


def known(found: dict[str, Any], seed: int, arguments: argparse.Namespace) -> bool:
    wanted = {name: getattr(arguments, name) for name in ("network", "epochs", "method", "share", "limit", "test")}
    return any({**wanted, "seed": seed}.items() <= each.items() for each in found["arms"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of train.npz and test.npz")
    parser.add_argument("--network", choices=("resnet20", "mobilenetv2"), default="resnet20")
    parser.add_argument("--dense", type=Path, help="weights of the dense network")
    parser.add_argument("--imagenet", type=Path, help="8-bit ImageNet codes of MobileNetV2, an .npz file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--share", type=int, default=75, help="budget, in per cent of the dense network's int8 latency")
    parser.add_argument("--method", default="magnitude")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of fine-tuning after the cut")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--dense-epochs", type=int, default=5, help="epochs from ImageNet to CIFAR-10")
    parser.add_argument("--limit", type=int, default=0, help="largest number of training images; 0 takes all")
    parser.add_argument("--test", type=int, default=0, help="number of test images; 0 takes all")
    parser.add_argument("--spread", type=float, default=0.15, help="largest accepted spread of a timing")
    parser.add_argument("--work", type=Path, default=Path("runs/int8"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/int8.json"))
    parser.add_argument("--quantize", type=Path, nargs="+", default=[], help="finished runs to quantise instead")
    arguments = parser.parse_args()
    for folder in arguments.quantize:
        if not any(each.get("run") == folder.name for each in read(arguments.output)["arms"]):
            keep(quantised_run(folder), arguments.output)
    if arguments.quantize:
        return
    for seed in arguments.seeds:
        if known(read(arguments.output), seed, arguments):
            continue
        keep(arm(seed, arguments), arguments.output)


if __name__ == "__main__":
    main()
