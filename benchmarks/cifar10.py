"""Accuracy of ResNet-20 on CIFAR-10 after pruning: our methods and torch-pruning's, with equal data and training.

    python benchmarks/cifar10.py DATA --work runs/cifar10 --output benchmarks/results/cifar10_grid.json --tune
    python benchmarks/cifar10.py DATA --work runs/cifar10 --output benchmarks/results/cifar10_grid.json

DATA is the folder of train.npz and test.npz (`images`, uint8 [N, 32, 32, 3], and `labels`). One dense network is
trained first, on all training images. Every arm then starts from it and sees the same number of images: a
method that trains while it prunes has its epochs taken from the fine-tuning. The network is judged once, at the end of
its training, on images that nothing was chosen by. --tune first tries three settings of each arm of the grid at one
budget, by training images alone, and records them; the best ones are then used. A run goes on where an earlier one
stopped, arm by arm; several may run side by side with other arms or seeds. --time then measures the latency of all
finished networks in one go, on a quiet machine. --limit 64 --batch 32 tries an arm at a thousandth of its length.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cifar10_arms import ARMS, BUDGETS, GRID, HELD_OUT, PEERS, PHASES, SMCP, TRIALS, TUNED_AT, best_trial, trial_key
from cifar10_results import add_times, kept, table

__all__ = ["SMCP", "common", "kept", "own_arm", "trained"]

RECIPE = "recipes/cifar10_resnet20.yaml"
LATENCY = ("latency.runtime=onnxruntime", "latency.repeats=200", "latency.spread=1.0")
"""The networks are timed again when all are there; what the loop sees may be noisy."""

PEER_BATCHES = 4
"""By which torch-pruning's Taylor scores are renewed in each of its 100 steps."""
ROUND_TO = 8
SETTINGS = ("epochs", "lr", "limit", "batch", "dense_epochs")
"""What an arm's result depends on beside the code."""


def trained(arguments: argparse.Namespace) -> Path:
    """The dense network."""
    path: Path = arguments.dense or arguments.work / "dense.safetensors"
    arguments.work.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        settings = [*data(arguments.data), "model.weights=random", f"train.epochs={arguments.dense_epochs}"]
        command_line("train", RECIPE, "--output", path, *sets(settings))
    return path


def data(folder: Path) -> list[str]:
    return [f"data.train=[{folder}/train.npz]", f"data.val={folder}/test.npz"]


def held_out(arguments: argparse.Namespace) -> Path:
    """A folder of data as DATA, in which a part of the training images is judged by."""
    import numpy as np

    folder: Path = arguments.work / "tuning"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "test.npz").is_file():
        with np.load(arguments.data / "train.npz") as found:
            arrays = {key: found[key] for key in ("images", "labels")}
        order = np.random.default_rng(7).permutation(len(arrays["labels"]))
        out = min(HELD_OUT, len(order) // 5)
        for name, chosen in (("train", order[out:]), ("test", order[:out])):
            np.savez(folder / f"{name}.npz", **{key: values[chosen] for key, values in arrays.items()})
    return folder


def sets(settings: list[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def command_line(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "edakari", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def common(dense: Path, seed: int, arguments: argparse.Namespace) -> list[str]:
    """What every arm's recipe has."""
    limit = [f"data.max_images={arguments.limit}"] if arguments.limit else []
    return [
        *data(arguments.data),
        *limit,
        f"data.batch_size={arguments.batch}",
        "data.memory_format=channels_last",
        f"model.weights={dense}",
        f"seed={seed}",
        f"data.seed={seed}",
        "measure=null",
        "finetune.distill=null",
        "finetune.precision=fp32",
    ]


def own_arm(
    arm: str, budget: str, seed: int, dense: Path, arguments: argparse.Namespace, changes: Mapping[str, Any] = {}
) -> dict[str, Any]:
    """One of our methods by the command line."""
    method, options = ARMS[arm]
    options = {**options, **changes}
    own = arguments.epochs if method in ("smcp", "halp") else 0
    if own:
        names = ("warmup_epochs", "ramp_epochs", "freeze_epochs")
        phases = {name: part * own for name, part in zip(names, PHASES.get(arm, ()), strict=False)}
        options = {**options, **phases, "epochs": own, "lr": arguments.lr}
    folder = arguments.work / f"{arm}_{budget}_{seed}".replace(" ", "")
    settings = common(dense, seed, arguments)
    keys = {key if "." in key else f"method.{key}": value for key, value in options.items()}
    settings += [f"method.name={method}", *(f"{key}={value}" for key, value in keys.items())]
    settings += [f"budget={budget}", f"finetune.epochs={arguments.epochs - own}", f"finetune.lr={arguments.lr}"]
    settings += LATENCY if "latency" in budget else ()
    start = time.perf_counter()
    command_line("prune", RECIPE, "--output", folder, *sets(settings))
    report = json.loads((folder / "report.json").read_text())
    networks = report["networks"]
    return {
        "seconds": time.perf_counter() - start,
        "dense_top1": networks[0]["metrics"]["top1"],
        "cut_top1": networks[1]["metrics"]["top1"],
        "top1": networks[-1]["metrics"]["top1"],
        **{cost: networks[-1]["costs"][cost] / networks[0]["costs"][cost] for cost in ("macs", "params")},
        "onnx": str((folder / "export" / "pruned.onnx").relative_to(arguments.work)),
    }


def peer_arm(
    arm: str, budget: str, seed: int, dense: Path, arguments: argparse.Namespace, changes: Mapping[str, Any] = {}
) -> dict[str, Any]:
    """torch-pruning's pruner, globally ranked and in small steps as in its own examples; our data and fine-tuning."""
    import torch

    import edakari as ek
    from edakari.cost import dense as costs_of
    from edakari.export import to_onnx
    from edakari.models import build
    from edakari.pipeline.recipe import read_recipe
    from edakari.tasks import task_from_settings
    from edakari.train import FitSettings, fit, task_objective

    settings = [f"finetune.epochs={arguments.epochs}", f"finetune.lr={arguments.lr}", f"budget={budget}"]
    settings += LATENCY if "latency" in budget else ()
    recipe = read_recipe(RECIPE, [*common(dense, seed, arguments), *settings])
    start = time.perf_counter()
    torch.manual_seed(seed)
    model, task = build(recipe.model), task_from_settings(recipe.data, recipe.seed)
    assert recipe.finetune is not None
    before = costs_of(ek.trace(model, task.example()))
    dense_top1 = task.evaluate(model)["top1"]
    small = shrunk(arm, model, task, share_of(budget, model, task), changes)
    after, cut_top1 = costs_of(ek.trace(small, task.example())), task.evaluate(small)["top1"]
    folder = arguments.work / f"{arm}_{budget}_{seed}".replace(" ", "")
    fit(
        small,
        task_objective(task),
        task.batches("train"),
        recipe.finetune,
        settings=FitSettings(folder=folder, seed=seed, progress=False),
    )
    onnx = folder / "pruned.onnx"
    onnx.unlink(missing_ok=True)
    to_onnx(copy.deepcopy(small).eval(), task.example(), onnx)
    return {
        "seconds": time.perf_counter() - start,
        "dense_top1": dense_top1,
        "cut_top1": cut_top1,
        "top1": task.evaluate(small)["top1"],
        **{cost: after[cost] / before[cost] for cost in ("macs", "params")},
        "onnx": str(onnx.relative_to(arguments.work)),
    }


def share_of(budget: str, model: Any, task: Any) -> Callable[[Any], float]:
    """How much of the dense network's cost a network has, over what the budget allows."""
    import edakari as ek
    from edakari.cost import dense
    from edakari.latency.runtimes import runtime_named
    from edakari.latency.timing import RunSettings, measure

    cost, limit = budget.split("<=")
    allowed = float(limit.rstrip("%")) / 100
    if cost == "latency":
        runtime = runtime_named("onnxruntime")

        def timed(small: Any) -> float:
            pair = {"dense": model, "pruned": small}
            return measure(pair, task.example(), runtime, settings=RunSettings(), repeats=200)["pruned"].ratio / allowed

        return timed
    whole = dense(ek.trace(model, task.example()))[cost]
    return lambda small: dense(ek.trace(small, task.example()))[cost] / whole / allowed


def shrunk(arm: str, model: Any, task: Any, share: Callable[[Any], float], changes: Mapping[str, Any]) -> Any:
    """The first network on the pruner's way that is within the budget."""
    import torch
    import torch_pruning as tp

    small = copy.deepcopy(model).eval()
    taylor = arm.endswith("taylor")
    kind = tp.importance.GroupTaylorImportance if taylor else tp.importance.GroupMagnitudeImportance
    pruner = tp.pruner.MetaPruner(
        small,
        task.example(),
        importance=kind(**({} if taylor else {"p": 2}), normalizer=changes.get("normalizer", "mean")),
        global_pruning=True,
        pruning_ratio=1.0,
        max_pruning_ratio=changes.get("max_pruning_ratio", 1.0),
        iterative_steps=100,
        round_to=ROUND_TO,
        ignored_layers=[layer for layer in small.modules() if isinstance(layer, torch.nn.Linear)],
    )
    widths: tuple[int, ...] = ()
    for _ in range(100):
        if taylor:
            small.zero_grad()
            for batch in itertools.islice(task.batches("calibration"), PEER_BATCHES):
                sum(task.loss(task.outputs(small, batch), batch).values()).backward()
        pruner.step()
        found = tuple(parameter.numel() for parameter in small.parameters())
        if found != widths and share(small) <= 1:
            break
        widths = found
    small.zero_grad(set_to_none=True)
    return small


def tune(dense: Path, settings: Mapping[str, Any], arguments: argparse.Namespace) -> None:
    """Try the settings of each arm of the grid, by training images alone."""
    own = argparse.Namespace(**{**vars(arguments), "data": held_out(arguments), "work": arguments.work / "tuning"})
    asked = [(arm, *trial) for arm in arguments.arms for trial in enumerate(TRIALS.get(arm, ()))]
    for arm, number, changes in asked:
        key = trial_key(arm, number)
        with kept(arguments.output, settings, "trials") as trials:
            there = key in trials
        if not there:
            own.work = arguments.work / "tuning" / str(number + 1)
            row = (own_arm if arm in ARMS else peer_arm)(arm, TUNED_AT, 0, dense, own, changes)
            with kept(arguments.output, settings, "trials") as trials:
                trials[key] = {"settings": changes, "budget": TUNED_AT, "top1": row["top1"]}
                print(f"{key}: {row['top1']:.2%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/cifar10"), help="folder of the runs")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--dense", type=Path, help="weights of the dense network; trained where there are none")
    parser.add_argument("--arms", nargs="+", default=list(GRID), choices=[*ARMS, *PEERS])
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=1, help="of training after the dense network, in every arm")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--limit", type=int, help="training images of every arm; the dense network has all")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dense-epochs", type=int, default=12)
    parser.add_argument("--tune", action="store_true", help="only try the settings of the arms")
    parser.add_argument("--untuned", action="store_true", help="take each arm's own settings, without trials")
    parser.add_argument("--time", action="store_true", help="only measure the latency of what is there")
    arguments = parser.parse_args()
    dense = trained(arguments)
    settings = {key: getattr(arguments, key) for key in SETTINGS}
    if arguments.tune:
        tune(dense, settings, arguments)
        return
    if arguments.time:
        with kept(arguments.output, settings) as arms:
            add_times(arms, arguments.work, 500)
    for seed, budget, arm in itertools.product(arguments.seeds, arguments.budgets, arguments.arms):
        key = f"{arm}, {budget}, seed {seed}"
        with kept(arguments.output, settings) as arms:
            there = key in arms
        if not there and not arguments.time:
            with kept(arguments.output, settings, "trials") as trials:
                changes = {} if arguments.untuned else best_trial(trials, arm)
            row = (own_arm if arm in ARMS else peer_arm)(arm, budget, seed, dense, arguments, changes)
            with kept(arguments.output, settings) as arms:
                arms[key] = {"arm": arm, "budget": budget, "seed": seed, "tuned": dict(changes), **row}
                print(f"{key}: {row['top1']:.2%} at {row['macs']:.1%} of the MACs", flush=True)
    print(table(json.loads(arguments.output.read_text())["arms"]))


if __name__ == "__main__":
    main()
