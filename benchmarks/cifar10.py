"""Accuracy of ResNet-20 on CIFAR-10 after pruning: our methods and torch-pruning's, with equal data and training.

    python benchmarks/cifar10.py DATA --work runs/cifar10 --output benchmarks/results/cifar10.json

DATA is the folder of train.npz and test.npz (`images`, uint8 [N, 32, 32, 3], and `labels`). One dense network is
trained first, on all training images. Every arm then starts from it and sees the same number of images: a
method that trains while it prunes has its epochs taken from the fine-tuning. The network is judged once, at the end of
its training, on images that nothing was chosen by. A run goes on where an earlier one stopped, arm by arm; several may
run side by side with other arms or seeds. --time then measures the latency of all finished networks in one go, on a
quiet machine.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import fcntl
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from core import environment
from records import write_record

RECIPE = "recipes/cifar10_resnet20.yaml"
LATENCY = ("latency.runtime=onnxruntime", "latency.repeats=200", "latency.spread=1.0")
"""The networks are timed again when all are there; what the loop sees may be noisy."""

SMCP = {
    "warmup_epochs": 0,
    "interval": 1000,
    "average": "squares",
    "norm_scale": "none",
    "momentum": 0.9,
    "weight_decay": 0.0005,
    "lr_warmup": 0.05,
}
"""Masks are chosen once. On a quarter of these images, at 30 % of the multiply-accumulates, that gave 76.1 % after one
pass where two to four choices gave 64 to 72 %, other settings differing too; see results/smcp_short.json."""
RFC = {"data.calibration_size": 5000}
DLRFC = {
    "data.calibration_size": 2560,
    "criterion": {"responses": {"images": 2560}},
    "trial": {"images": 512, "tolerance": 4.0, "recovery_epochs": 0},
}
"""Without training between the rounds, which a short schedule has no room for; of few images, larger drops show."""
ISP = {
    "data.calibration_size": 1280,
    "predictor_epochs": 1,
    "explainer_epochs": 1,
    "explain_share": 0.25,
    "mask_widths": [0.156, 0.344],
    "gate_epochs": 10,
    "gate_lr": 0.1,
}
"""Predictor, explainer and gates are trained beside it, each with fewer images than the fine-tuning has; the network's
own weights stay as they are meanwhile."""
RAMP, FREEZE = 0.0, 0.92
"""Shares of the training in which the budget tightens, and in which the masks stay: its fine-tuning is within it."""

ARMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    **{name: (name, {}) for name in ("magnitude", "bn_scale", "fpgm", "taylor")},
    "smcp": ("smcp", SMCP),
    "rfc": ("rfc", RFC),
    "dlrfc": ("dlrfc", DLRFC),
    "isp": ("isp", ISP),
}
"""Method and its settings, or with a dot in their names any of the recipe's, by the arm's name."""

PEERS = ("torch-pruning group norm", "torch-pruning taylor")
BUDGETS = ("macs<=50%", "macs<=30%", "latency<=60%")
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


def own_arm(arm: str, budget: str, seed: int, dense: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One of our methods by the command line."""
    method, options = ARMS[arm]
    own = arguments.epochs if method == "smcp" else 0
    if own:
        phases = {"epochs": own, "ramp_epochs": RAMP * own, "freeze_epochs": FREEZE * own}
        options = {**options, **phases, "lr": arguments.lr}
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


def peer_arm(arm: str, budget: str, seed: int, dense: Path, arguments: argparse.Namespace) -> dict[str, Any]:
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
    small = shrunk(arm, model, task, share_of(budget, model, task))
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


def shrunk(arm: str, model: Any, task: Any, share: Callable[[Any], float]) -> Any:
    """The first network on the pruner's way that is within the budget."""
    import torch
    import torch_pruning as tp

    small = copy.deepcopy(model).eval()
    taylor = arm.endswith("taylor")
    pruner = tp.pruner.MetaPruner(
        small,
        task.example(),
        importance=tp.importance.GroupTaylorImportance() if taylor else tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=1.0,
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


def add_times(arms: Mapping[str, dict[str, Any]], work: Path, repeats: int) -> None:
    """The exported files of all arms beside the dense one, in turns with it, in plain ONNX Runtime."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1

    def session(path: object) -> Any:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    image = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype("float32")
    dense = session(next(work.glob("magnitude_*/export/dense.onnx")))
    for row in arms.values():
        if not (work / row["onnx"]).is_file():
            continue
        pruned, ratios = session(work / row["onnx"]), []
        name = pruned.get_inputs()[0].name
        for _ in range(repeats):
            times = []
            for each in (dense, pruned):
                start = time.perf_counter()
                each.run(None, {name: image})
                times.append(time.perf_counter() - start)
            ratios.append(times[1] / times[0])
        row["latency"] = statistics.median(ratios)


def table(results: Mapping[str, Any]) -> str:
    """Mean and standard deviation over the seeds of each arm."""
    lines = []
    for budget in BUDGETS:
        for arm in (*ARMS, *PEERS):
            rows = [row for row in results.values() if (row["arm"], row["budget"]) == (arm, budget)]
            if rows:
                tops = [100 * row["top1"] for row in rows]
                spread = statistics.stdev(tops) if len(tops) > 1 else float("nan")
                means = [statistics.mean(row.get(cost, float("nan")) for row in rows) for cost in ("macs", "latency")]
                lines.append(
                    f"{budget:14} {arm:26} {statistics.mean(tops):6.2f} ± {spread:4.2f}  (n={len(tops)})  "
                    f"MACs {means[0]:.3f}  latency {means[1]:.3f}"
                )
    return "\n".join(lines)


@contextlib.contextmanager
def kept(path: Path, settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The arms that are there, for one process at a time; what changes is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = json.loads(path.read_text()) if path.is_file() else {"settings": settings, "arms": {}}
        if results["settings"] != settings:
            raise SystemExit(f"{path} holds arms of other settings: {results['settings']}")
        arms = copy.deepcopy(results["arms"])
        yield arms
        if arms != results["arms"]:
            about = environment(["python", *sys.argv])
            write_record(path, {"environment": about, "settings": settings, "arms": arms})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/cifar10"), help="folder of the runs")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--dense", type=Path, help="weights of the dense network; trained where there are none")
    parser.add_argument("--arms", nargs="+", default=[*ARMS, *PEERS], choices=[*ARMS, *PEERS])
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=1, help="of training after the dense network, in every arm")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--limit", type=int, help="training images of every arm; the dense network has all")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dense-epochs", type=int, default=12)
    parser.add_argument("--time", action="store_true", help="only measure the latency of what is there")
    arguments = parser.parse_args()
    dense = trained(arguments)
    settings = {key: getattr(arguments, key) for key in SETTINGS}
    if arguments.time:
        with kept(arguments.output, settings) as arms:
            add_times(arms, arguments.work, 500)
    for seed, budget, arm in itertools.product(arguments.seeds, arguments.budgets, arguments.arms):
        key = f"{arm}, {budget}, seed {seed}"
        with kept(arguments.output, settings) as arms:
            there = key in arms
        if not there and not arguments.time:
            row = (own_arm if arm in ARMS else peer_arm)(arm, budget, seed, dense, arguments)
            with kept(arguments.output, settings) as arms:
                arms[key] = {"arm": arm, "budget": budget, "seed": seed, **row}
            print(f"{key}: {row['top1']:.2%} in {row['seconds']:.0f} s", flush=True)
    with kept(arguments.output, settings) as arms:
        print(table(arms))


if __name__ == "__main__":
    main()
