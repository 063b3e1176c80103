"""Seconds of each stage of complete jobs, of this commit and an earlier one, alternately.

    python benchmarks/end_to_end.py demo --before 598da42 --output benchmarks/results/end_to_end.json
    python benchmarks/end_to_end.py cifar10 --data FOLDER     # with train.npz and test.npz
    python benchmarks/end_to_end.py imagenet --images 20000   # JPEGs of noise, made in a temporary folder

Each job runs in a process of its own, on one thread; versions take turns, and each round begins with the other one. Of
each stage the CPU time and the time by the clock are recorded, of each job the peak memory of its main process.
`--epochs` shortens the fine-tuning; "fine-tuning, per epoch" is not changed by it. Results of several jobs are kept in
one file.
"""

from __future__ import annotations

import argparse
import dataclasses as dc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from core import environment
from records import write_record
from safetensors.torch import save_file
from versions import commit, unpack

HERE = Path(__file__).resolve()
ROOT = HERE.parents[1]
DISTINCT = 16
"""Different images of the fake ImageNet; the others are links to these."""


class Stages:
    """CPU seconds and seconds by the clock of named stages; state of a job."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}
        self.begun: dict[str, tuple[float, float]] = {}

    def start(self, name: str) -> None:
        self.begun[name] = time.process_time(), time.perf_counter()

    def end(self, name: str) -> None:
        cpu, wall = self.begun[name]
        self.found[name] = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}

    def tell(self, stage: str, state: str, found: Any) -> None:
        """Callback of a run."""
        if state == "start":
            self.start(stage)
        elif state == "done":
            self.end(stage)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.start(name)
        yield
        self.end(name)


def pruned(stages: Stages, content: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """Run a recipe in a temporary folder; returns the metrics of the networks."""
    try:
        from edakari.pipeline import recipe_from, run
    except ImportError:  # as it was called in earlier commits
        from edakari.run import prune as run
        from edakari.run import recipe_from

    with tempfile.TemporaryDirectory() as folder:
        result = run(recipe_from(content, "the benchmark's recipe"), Path(folder) / "run", notify=stages.tell)
    if epochs and "finetune" in stages.found:
        each = {key: value / epochs for key, value in stages.found["finetune"].items()}
        stages.found["fine-tuning, per epoch"] = each
    return {network["name"]: network["metrics"] for network in result.report["networks"]}


def demo(stages: Stages, options: Mapping[str, Any]) -> dict[str, Any]:
    """The demo, as `edakari demo` runs it."""
    from edakari.cli.commands.demo import demo_recipe

    content = demo_recipe("cnn", "macs<=50%")
    epochs = options["epochs"] or content["finetune"]["epochs"]
    return pruned(stages, {**content, "finetune": {**content["finetune"], "epochs": epochs}}, epochs)


def cifar10(stages: Stages, options: Mapping[str, Any]) -> dict[str, Any]:
    """Magnitude on ResNet-20 and CIFAR-10, with random weights, as only times count."""
    import edakari
    from edakari.tasks import DataSettings

    folder, epochs = Path(options["data"]), options["epochs"] or 1
    data = {"train": [str(folder / "train.npz")], "val": str(folder / "test.npz"), "batch_size": 128}
    known = {field.name for field in dc.fields(DataSettings)}
    most = "max_images" if "max_images" in known else "limit"  # its name in earlier commits
    weights = Path(options["folder"]) / "resnet20.safetensors"
    save_file(edakari.build("edakari:resnet20").state_dict(), weights)
    content = {
        "model": {"name": "edakari:resnet20", "weights": str(weights)},
        "data": {**data, most: options["images"]},
        "method": {"name": "magnitude"},
        "budget": "macs<=50%",
        "finetune": {"epochs": epochs, "lr": 0.02, "distill": {"weight": 0.5}},
        "device": "cpu",
    }
    return pruned(stages, content, epochs)


def imagenet(stages: Stages, options: Mapping[str, Any]) -> dict[str, Any]:
    """List a folder of JPEGs, load batches from it, and run ResNet-50 on them."""
    import edakari
    from edakari.tasks import DataSettings, task_from_settings

    with stages.stage("list files"):
        task = task_from_settings(DataSettings(source=options["folder"], batch_size=32, workers=0, val_share=0.01))
    model = edakari.build("timm:resnet50", num_classes=len(task.classes)).eval()
    batches, seen = task.batches("train"), []
    with stages.stage(f"load {options['steps']} batches of 32"):
        for _, batch in zip(range(options["steps"]), batches, strict=False):
            seen.append(batch)
    with stages.stage(f"ResNet-50 forward, {options['steps']} batches of 32"), torch.no_grad():
        for batch in seen:
            task.outputs(model, batch)
    return {}


JOBS = {"demo": demo, "cifar10": cifar10, "imagenet": imagenet}


def work(name: str, options: Mapping[str, Any]) -> None:
    """Run a job once, and print what was measured."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    stages = Stages()
    with stages.stage("all"):
        metrics = JOBS[name](stages, options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"stages": stages.found, "peak_mb": peak, "metrics": metrics}))


def once(name: str, options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Run a job by the version of edakari in a folder, in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(HERE), name, "--worker", json.dumps(options)],
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def made_images(folder: Path, count: int, classes: int = 100) -> str:
    """Write a folder of JPEGs of 500 x 375, most of them links to a few."""
    from PIL import Image

    rng = np.random.default_rng(0)
    originals = []
    for number in range(DISTINCT):
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((500, 375))
        noise = rng.integers(-20, 21, (375, 500, 3))
        pixels = np.clip(np.asarray(coarse).astype(np.int64) + noise, 0, 255).astype(np.uint8)
        originals.append(folder / f"original{number}.jpg")
        Image.fromarray(pixels).save(originals[-1], quality=90)
    root = folder / "images"
    for number in range(count):
        label = root / f"class{number % classes:04d}"
        label.mkdir(parents=True, exist_ok=True)
        os.link(originals[number % DISTINCT], label / f"{number:07d}.jpg")
    return str(root)


def summary(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Medians and all values of each stage and version, and the ratios of the rounds."""
    found: dict[str, Any] = {}
    versions = list(rounds[0])
    for stage in rounds[0][versions[-1]]["stages"]:
        entry: dict[str, Any] = {}
        for version in versions:
            for key in ("cpu_s", "wall_s"):
                values = [each[version]["stages"][stage][key] for each in rounds if stage in each[version]["stages"]]
                if values:
                    entry[f"{version}_{key}"] = {"median": statistics.median(values), "values": values}
        if {"before_cpu_s", "after_cpu_s"} <= entry.keys():
            pairs = zip(entry["before_cpu_s"]["values"], entry["after_cpu_s"]["values"], strict=True)
            ratios = [after / before for before, after in pairs if before > 0]
            entry["cpu_ratios"] = ratios
        found[stage] = entry
    rest = {version: [each[version]["metrics"] for each in rounds] for version in versions}
    peaks = {version: [each[version]["peak_mb"] for each in rounds] for version in versions}
    return {"stages": found, "peak_mb": peaks, "metrics": rest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=list(JOBS))
    parser.add_argument("--before", help="an earlier commit to compare with")
    parser.add_argument("--data", help="folder with train.npz and test.npz")
    parser.add_argument("--images", type=int, help="number of images: of CIFAR-10's, or of the fake ImageNet (20000)")
    parser.add_argument("--steps", type=int, default=4, help="batches of the fake ImageNet that are loaded")
    parser.add_argument("--epochs", type=int, default=0, help="epochs of the fine-tuning; 0 takes the job's own")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.job, json.loads(arguments.worker))
        return
    if arguments.job == "cifar10" and arguments.data is None:
        parser.error("--data names the folder of CIFAR-10")
    options: dict[str, Any] = {key: getattr(arguments, key) for key in ("data", "images", "steps", "epochs")}
    with tempfile.TemporaryDirectory() as temporary:
        folders = {"after": ROOT}
        if arguments.before:
            folders = {"before": Path(temporary) / "before", "after": ROOT}
            unpack(arguments.before, folders["before"])
        if arguments.job == "imagenet":
            options["folder"] = made_images(Path(temporary), arguments.images or 20000)
        options.setdefault("folder", temporary)
        rounds: list[dict[str, dict[str, Any]]] = []
        for number in range(arguments.rounds):
            order = list(folders)[:: 1 if number % 2 else -1]
            found = {version: once(arguments.job, options, folders[version]) for version in order}
            rounds.append({version: found[version] for version in folders})
            print(json.dumps({version: each["stages"]["all"] for version, each in rounds[-1].items()}), flush=True)
    options.pop("folder", None)
    options["data"] = None
    entry = {
        "environment": environment(["python", *sys.argv]),
        "commits": {version: commit(arguments.before if version == "before" else "HEAD") for version in folders},
        "options": options,
        "rounds": arguments.rounds,
        **summary(rounds),
    }
    for stage, figures in entry["stages"].items():
        print(stage, {key: value["median"] for key, value in figures.items() if isinstance(value, dict)})
    if arguments.output:
        known = json.loads(arguments.output.read_text(encoding="utf-8")) if arguments.output.is_file() else {}
        write_record(arguments.output, {**known, arguments.job: entry})


if __name__ == "__main__":
    main()
