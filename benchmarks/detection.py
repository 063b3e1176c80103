"""Average precision of SSDLite320 on blood cells after pruning to a latency: edakari, torch-pruning, and no pruning.

    python benchmarks/detection.py BCCD --weights mobilenet_v2.safetensors --pad-below \
      --work runs/detection --output benchmarks/results/detection.json

BCCD is the folder of Pascal VOC's form; the weights are those of the backbone (see examples/ssdlite.py). One dense
network is trained first, in cycles, until its mAP50 is high enough or the time is over. Every arm starts from it and
trains all its weights for the same number of epochs. "dense" continues as it is;
"edakari" and "torch-pruning" are cut first, by first-order Taylor scores, to --share of the dense network's latency in
ONNX Runtime on one thread, both to multiples of 8 channels. "edakari in three cuts" trains 4 epochs between two cuts,
and as many fewer in the end. torch-pruning has no budgets, so its ratio is found by bisection with the same clock. The
dense network was chosen on the images that judge, which favours it. Every step continues where it stopped. --time
measures the latencies of all finished networks again, alternately, on a quiet machine.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from core import environment
from records import write_record
from safetensors.torch import load_file, save_file
from torch import nn
from torchmetrics.detection import MeanAveragePrecision

import edakari
from edakari.core.modes import eval_mode
from edakari.core.protocols import Schedule
from edakari.cost import dense as costs_of
from edakari.export import served
from edakari.latency.runtimes import runtime_named
from edakari.latency.timing import RunSettings, measure
from edakari.pipeline.settings import LatencySettings
from edakari.tasks import DataSettings, task_from_settings
from edakari.tasks.detection import Detection
from edakari.tasks.objects import found_in_original
from edakari.train import FitSettings, fit, task_objective

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from ssdlite import make

ARMS = ("dense", "edakari", "edakari in three cuts", "torch-pruning")
OURS = ("edakari", "edakari in three cuts")
CYCLE = 10
"""Epochs of a cycle of the dense training, in which the learning rate falls along a cosine."""
ROUND_TO = 8
CUTS, RECOVERY = 3, 4
"""Cuts by the same factor, and epochs of training after each but the last, which are epochs less in the end."""
LEAST = 0.25
"""Channels of a group that stay."""
CALIBRATION = 8
"""Batches by which torch-pruning's scores are made; edakari has as many images."""
SETTINGS = ("share", "epochs", "lr", "batch", "enough", "dense_minutes", "limit", "size", "frozen", "precision")
"""What a result depends on beside the code."""
RESAMPLES = 120
Found = list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]
"""Predictions and annotation of each image."""


def network(arguments: argparse.Namespace) -> nn.Module:
    return make(4, arguments.weights, arguments.pad_below, size=arguments.size)


def task_of(arguments: argparse.Namespace, seed: int) -> Detection:
    settings = DataSettings(
        task="detection",  # type: ignore[arg-type]
        source=f"voc:{arguments.data}",
        image_size=arguments.size,
        augment="jitter",
        batch_size=arguments.batch,
        calibration_size=CALIBRATION * arguments.batch,
        workers=arguments.workers,
        max_images=arguments.limit,
        metric="map50",
    )
    task = task_from_settings(settings, seed)
    assert isinstance(task, Detection)
    return task


def train(
    model: nn.Module, task: Detection, epochs: int, frozen: int, folder: Path, seed: int, arguments: argparse.Namespace
) -> float:
    """Train in place, but for the first `frozen` blocks of the backbone; returns seconds."""
    schedule = Schedule(epochs=epochs, lr=arguments.lr, optimizer="adamw", weight_decay=1e-4, ema=0.97,
                        precision=arguments.precision)  # fmt: skip
    model.to(memory_format=torch.channels_last)
    model.backbone.near[:frozen].requires_grad_(False)  # type: ignore[index,union-attr]
    settings = FitSettings(folder=folder, seed=seed, progress=False)
    history = fit(model, task_objective(task), task.batches("train"), schedule, settings=settings)
    model.requires_grad_(True)
    return history.seconds


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def trained(arguments: argparse.Namespace) -> tuple[nn.Module, dict[str, Any]]:
    """The dense network, and how it was trained."""
    weights, about = arguments.work / "dense.safetensors", arguments.work / "dense.json"
    arguments.work.mkdir(parents=True, exist_ok=True)
    model, task = network(arguments), task_of(arguments, 0)
    record = read_json(about) or {"cycles": 0, "seconds": 0.0, "map50": 0.0, "epoch_seconds": 0.0}
    if weights.is_file():
        model.load_state_dict(load_file(weights))
    while record["map50"] < arguments.enough and record["seconds"] < 60 * arguments.dense_minutes:
        number, folder = record["cycles"], arguments.work / "dense" / str(record["cycles"])
        seconds = train(model, task, arguments.cycle, arguments.frozen, folder, number, arguments)
        record = {
            "cycles": number + 1,
            "seconds": record["seconds"] + seconds,
            "map50": task.evaluate(model)["map50"],
            "epoch_seconds": seconds / arguments.cycle,
        }
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights)
        about.write_text(json.dumps(record))
        print(f"dense, cycle {number}: {record}", flush=True)
    return model.eval(), record


def ratio_to(dense: nn.Module, task: Detection) -> Callable[[nn.Module], float]:
    """The latency of a network relative to the dense one's."""

    def ratio(small: nn.Module) -> float:
        pair, runtime = {"dense": dense, "small": small}, runtime_named("onnxruntime")
        return measure(pair, task.example(), runtime, settings=RunSettings(), repeats=100)["small"].ratio

    return ratio


def by_edakari(
    dense: nn.Module, task: Detection, seed: int, folder: Path, arguments: argparse.Namespace, cuts: int = 1
) -> nn.Module:
    """Cut each time by the same factor, and train between cuts."""
    latency, model = LatencySettings(repeats=100, spread=arguments.spread), dense
    for number in range(cuts):
        if number:
            train(model, task, RECOVERY, 0, folder / f"recovery_{number}", seed, arguments)
        result = edakari.prune(
            model,
            task,
            f"latency<={arguments.share ** (1 / cuts):.1%}",
            "taylor",
            groups={"round_to": ROUND_TO, "min_channels": LEAST ** (1 / cuts)},
            latency=latency,
            output=folder / ("cut" if cuts == 1 else f"cut_{number}"),
            seed=seed,
            device="cpu",
        )
        model = result.model
    return model


def by_torch_pruning(
    dense: nn.Module, task: Detection, seed: int, folder: Path, arguments: argparse.Namespace
) -> nn.Module:
    """The largest ratio's network, of some tried, that is within the latency; pruned at once, ranked globally."""
    ratio, low, high, best = ratio_to(dense, task), 0.0, 0.95, dense
    for _ in range(arguments.tries):
        middle = (low + high) / 2
        small = cut_by_torch_pruning(dense, task, middle)
        if ratio(small) <= arguments.share:
            best, high = small, middle
        else:
            low = middle
    if best is dense:
        raise SystemExit("torch-pruning reached no such latency; raise --tries")
    return best


def cut_by_torch_pruning(dense: nn.Module, task: Detection, ratio: float) -> nn.Module:
    import torch_pruning as tp

    small: Any = served(copy.deepcopy(dense))  # its boxes depend on values, which cannot be traced
    small.zero_grad()
    for batch in itertools.islice(task.batches("calibration"), CALIBRATION):
        sum(task.objective(small, batch).values()).backward()  # type: ignore[union-attr]
    heads = [each for name, each in small.head.named_modules() if isinstance(each, nn.Conv2d) and each.groups == 1]
    pruner = tp.pruner.MetaPruner(
        small,
        task.example(),
        importance=tp.importance.GroupTaylorImportance(),
        global_pruning=True,
        pruning_ratio=ratio,
        max_pruning_ratio=0.75,
        round_to=ROUND_TO,
        ignored_layers=heads,
        output_transform=lambda found: [tensor for each in found for tensor in each.values()],
    )
    pruner.step()
    small.zero_grad(set_to_none=True)
    del small.postprocess_detections, small.transform.postprocess  # the whole detector again
    return small


def folder_of(arm: str, seed: int, arguments: argparse.Namespace) -> Path:
    folder: Path = arguments.work / f"{arm}_{seed}".replace(" ", "_")
    return folder


def arm(name: str, dense: nn.Module, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Cut, train and judge; the network and its predictions stay in the folder of the arm."""
    folder, task, start = folder_of(name, seed, arguments), task_of(arguments, seed), time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    cut = folder / "cut.pt"
    cuts = CUTS if name == "edakari in three cuts" else 1
    makers: dict[str, Callable[..., nn.Module]] = {
        "edakari": by_edakari,
        "edakari in three cuts": functools.partial(by_edakari, cuts=CUTS),
        "torch-pruning": by_torch_pruning,
    }
    if cut.is_file():
        model = torch.load(cut, weights_only=False)  # written here
    else:
        model = makers[name](dense, task, seed, folder, arguments) if name in makers else copy.deepcopy(dense)
        torch.save(model, cut)
    cut_seconds, before = time.perf_counter() - start, task.evaluate(model)
    rest = arguments.epochs - (cuts - 1) * RECOVERY
    seconds = train(model, task, rest, 0, folder / "fit", seed, arguments)
    torch.save(model, folder / "finished.pt")
    torch.save(predictions(task, model.eval()), folder / "found.pt")
    graph, whole = edakari.trace(model, task.example()), edakari.trace(dense, task.example())
    costs = {cost: costs_of(graph)[cost] / costs_of(whole)[cost] for cost in ("macs", "params")}
    return {
        "cut_seconds": cut_seconds,
        "train_seconds": seconds,
        "cut_map50": before["map50"],
        **{metric: task.evaluate(model)[metric] for metric in ("map50", "map")},
        **costs,
        "latency": ratio_to(dense, task)(model),
    }


def predictions(task: Detection, model: nn.Module) -> Found:
    found: Found = []
    with eval_mode(model), torch.no_grad():
        for batch in task.batches("val"):
            for each, target in zip(task.outputs(model, batch), batch[1], strict=True):
                found.append((found_in_original(each, target), found_in_original(target, target)))
    return found


def map50(found: Found) -> float:
    precision = MeanAveragePrecision(iou_thresholds=[0.5], backend="faster_coco_eval")
    precision.warn_on_many_detections = False
    precision.update([each for each, _ in found], [target for _, target in found])
    return max(0.0, float(precision.compute()["map"]))


def compared(one: Sequence[Found], other: Sequence[Found], seed: int = 0) -> dict[str, float]:
    """Mean difference of mAP50 over the seeds, with a bootstrap interval over images, the same ones for both."""
    generator, count = np.random.default_rng(seed), len(one[0])

    def difference(chosen: Sequence[int]) -> float:
        means = [statistics.mean(map50([run[at] for at in chosen]) for run in runs) for runs in (one, other)]
        return means[0] - means[1]

    draws = [difference(generator.integers(0, count, count).tolist()) for _ in range(RESAMPLES)]
    low, high = np.quantile(draws, (0.025, 0.975))
    return {"difference": difference(range(count)), "low": float(low), "high": float(high)}


def time_all(rows: dict[str, dict[str, Any]], dense: nn.Module, arguments: argparse.Namespace) -> None:
    """Time all finished networks alternately with the dense one."""
    task = task_of(arguments, 0)
    models = {key: torch.load(arguments.work / row["folder"] / "finished.pt", weights_only=False).eval()
              for key, row in rows.items()}  # fmt: skip
    timings = measure({"": dense, **models}, task.example(), runtime_named("onnxruntime"), repeats=400)
    for key, row in rows.items():
        row["latency"] = timings[key].ratio


def summary(rows: Mapping[str, Mapping[str, Any]], arguments: argparse.Namespace) -> dict[str, Any]:
    """Means over the seeds, and differences from the network that was not pruned."""
    found: dict[str, list[Found]] = {name: [] for name in ARMS}
    means: dict[str, Any] = {}
    for name in ARMS:
        own = [row for row in rows.values() if row["arm"] == name]
        if own:
            kinds = ("map50", "map", "latency", "macs", "params")
            means[name] = {kind: statistics.mean(row[kind] for row in own) for kind in kinds}
        found[name] = [torch.load(arguments.work / row["folder"] / "found.pt", weights_only=True) for row in own]
    for name in ARMS[1:]:
        if found[name] and found["dense"]:
            means[name]["compared with dense"] = compared(found[name], found["dense"])
    for name in OURS:
        if found[name] and found["torch-pruning"]:
            means[name]["compared with torch-pruning"] = compared(found[name], found["torch-pruning"])
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", default="pretrained", help="of the backbone")
    parser.add_argument("--pad-below", action="store_true")
    parser.add_argument("--work", type=Path, default=Path("runs/detection"), help="folder of networks and checkpoints")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--share", type=float, default=0.6, help="of the dense network's latency")
    parser.add_argument("--enough", type=float, default=0.6, help="mAP50 at which the dense training ends")
    parser.add_argument("--dense-minutes", type=float, default=60)
    parser.add_argument("--epochs", type=int, default=24, help="of further training of each network")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--cycle", type=int, default=CYCLE, help="epochs of a cycle of the dense training")
    parser.add_argument("--tries", type=int, default=7, help="ratios that torch-pruning's bisection tries")
    parser.add_argument("--spread", type=float, default=0.15, help="noise of timings that is accepted")
    parser.add_argument("--limit", type=int, help="largest number of training images")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument(
        "--frozen", type=int, default=0, help="first blocks of the backbone that do not train in the dense training"
    )
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--dense-only", action="store_true")
    parser.add_argument("--time", action="store_true", help="only measure the latencies of what is there")
    arguments = parser.parse_args()
    dense, about = trained(arguments)
    if arguments.dense_only:
        return
    settings = {key: getattr(arguments, key) for key in SETTINGS}
    results = read_json(arguments.output) or {"settings": settings, "rows": {}}
    if results["settings"] != settings:
        raise SystemExit(f"{arguments.output} holds rows of other settings: {results['settings']}")
    rows = results["rows"]
    head = {"environment": environment(["python", *sys.argv]), "settings": settings, "dense": about}
    for seed, name in itertools.product(arguments.seeds, arguments.arms):
        key = f"{name}, seed {seed}"
        if key in rows or arguments.time:
            continue
        rows[key] = {
            "arm": name,
            "seed": seed,
            "folder": folder_of(name, seed, arguments).name,
            **arm(name, dense, seed, arguments),
        }
        write_record(arguments.output, {**head, "rows": rows})
        print(f"{key}: {rows[key]}", flush=True)
    if arguments.time:
        time_all(rows, dense, arguments)
    means = summary(rows, arguments)
    write_record(arguments.output, {**head, "rows": rows, "means": means})
    print(json.dumps(means, indent=2))


if __name__ == "__main__":
    main()
