"""Runs as its own process: edakari with the packages of its core alone, everything else that is installed hidden.

What the core must do is done, and each entry point that needs an extra says which: one line of JSON for each.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import re
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def core_distributions() -> set[str]:
    """The core's dependencies and theirs, none of the extras."""
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: set[str] = set()
    waiting = list(project["dependencies"])
    while waiting:
        needed = Requirement(waiting.pop())
        name = canonical(needed.name)
        if name in found or (needed.marker and not needed.marker.evaluate({"extra": ""})):
            continue
        try:
            waiting += importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


class Hiding:
    """Stands before a finder of modules, and finds nothing of what is hidden."""

    def __init__(self, finder: Any, hidden: set[str]) -> None:
        self.finder, self.hidden = finder, hidden

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.partition(".")[0] in self.hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)


def hide() -> set[str]:
    """Hide all packages that do not come with the core, and give their names."""
    kept = core_distributions()
    hidden = {
        package
        for package, owners in importlib.metadata.packages_distributions().items()
        if not kept & {canonical(owner) for owner in owners}
    } - {"edakari", "tests"}
    sys.meta_path[:] = [Hiding(finder, hidden) for finder in sys.meta_path]
    for name in [name for name in sys.modules if name.partition(".")[0] in hidden]:
        del sys.modules[name]
    return hidden


def works() -> None:
    """What the core promises, on a network of plain modules."""
    import torch

    import edakari
    from edakari.criteria import BatchNormScale, GeometricMedian, Magnitude, Random, Taylor
    from edakari.export import to_program
    from edakari.testing import ToyTask, check_criterion, exactness, toy_cnn

    model, images, task = toy_cnn(), torch.rand(2, 3, 16, 16), ToyTask()
    graph = edakari.trace(model, task.example())
    for criterion in (Magnitude(), Random(), GeometricMedian(), BatchNormScale(), Taylor()):
        scores = criterion.score(model, graph, task.batches("train"), task)
        plan = edakari.allocate(graph, scores, "macs<=50%, params<=80%")
    small = edakari.apply(model, plan)
    assert torch.allclose(small(images), edakari.simulate(model, plan)(images), atol=1e-4)
    assert exactness(toy_cnn().double(), images.double(), plan) < 1e-9
    check_criterion(Magnitude(), networks=[model])
    with tempfile.TemporaryDirectory() as folder:
        edakari.save(small, plan, folder)
        assert torch.equal(edakari.load(folder, toy_cnn())(images), small(images))
        to_program(small, images, Path(folder) / "small.pt2")
    embedded = edakari.build("edakari:fashion_cnn", weights="pretrained")
    result = edakari.prune(embedded, torch.zeros(1, 1, 28, 28), "macs<=50%", groups=edakari.Groups(min_channels=0.25))
    assert result.costs["macs"] <= 0.5 * result.report["networks"][0]["costs"]["macs"]
    assert "Pruned" in repr(result)
    own = edakari.Task.of(images, calibration=[images], loss=lambda model, batch: model(batch).square().mean())
    edakari.prune(toy_cnn(), own, "params<=50%", method="taylor", reconstruct=True)


def entry_points() -> dict[str, tuple[str, Callable[[], object]]]:
    """By what a user would call it: the extra that it needs, and the call."""
    import torch

    import edakari
    import edakari.integrations.lightning
    import edakari.integrations.timm
    import edakari.integrations.transformers
    from edakari import __main__ as command
    from edakari import integrations
    from edakari.core.protocols import Schedule
    from edakari.export import to_onnx
    from edakari.latency.runtimes import runtime_named
    from edakari.latency.timing import measure
    from edakari.pipeline import MeasureSettings
    from edakari.tasks import DataSettings, task_from_settings
    from edakari.testing import ToyTask, toy_cnn, toy_vit
    from edakari.train import fit, task_objective

    model, images, task = toy_cnn(), torch.rand(1, 3, 16, 16), ToyTask()

    def timed(runtime: str) -> object:
        return measure({"dense": model}, images, runtime_named(runtime), repeats=1)

    def labelled() -> object:
        data = task_from_settings(DataSettings(source="embedded:fashion", max_images=20))
        return data.evaluate(edakari.build("edakari:fashion_cnn"))

    def report() -> object:
        return importlib.import_module("edakari.report").write_report(Path(tempfile.mkdtemp()))

    def pruned(**asked: Any) -> object:
        how = edakari.Task.of(images, train=[images], loss=lambda model, batch: model(batch).mean())
        return edakari.prune(model, how, asked.pop("budget", "macs<=50%"), **asked)

    def recipe() -> object:
        return edakari.run({"model": "edakari:fashion_cnn"}, tempfile.mkdtemp())  # type: ignore[arg-type]

    return {
        "fit": ("train", lambda: fit(model, task_objective(task), task.batches("train"), Schedule(epochs=1, lr=0.1))),
        "evaluate": ("train", labelled),
        "a network of timm": ("train", lambda: edakari.build("timm:resnet18")),
        "a network of torchvision": ("train", lambda: edakari.build("torchvision:resnet18")),
        "toy_vit": ("train", toy_vit),
        "a recipe": ("train", recipe),
        "to_onnx": ("onnx", lambda: to_onnx(model, images, Path(tempfile.mkdtemp()) / "small.onnx")),
        "measure in onnxruntime": ("onnx", lambda: timed("onnxruntime")),
        "measure in openvino": ("openvino", lambda: timed("openvino")),
        "train with timm": ("train", integrations.timm.fit),
        "train with Lightning": ("lightning", integrations.lightning.fit),
        "a callback for Lightning": ("lightning", lambda: integrations.lightning.HookCallback),
        "train with transformers": ("transformers", integrations.transformers.fit),
        "a callback for transformers": ("transformers", lambda: integrations.transformers.HookCallback),
        "write_report": ("report", report),
        "prune with fine-tuning": ("train", lambda: pruned(finetune=Schedule(epochs=1, lr=0.1))),
        "prune by a method that trains": ("train", lambda: pruned(method="smcp")),
        "prune to a latency": ("onnx", lambda: pruned(budget="latency<=50%")),
        "prune and measure": ("onnx", lambda: pruned(measure=MeasureSettings())),
        "prune into a folder": ("report", lambda: pruned(output=Path(tempfile.mkdtemp()) / "run")),
        "the command": ("cli", command.main),
    }


def said(call: Callable[[], object]) -> str:
    """The error of a call, with its kind."""
    try:
        call()
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def main() -> None:
    """Hide, work, ask, and print what was said; `--nothing-to-hide` is for where only the core is installed."""
    hidden = set() if "--nothing-to-hide" in sys.argv else hide()
    works()
    answers = {name: (extra, said(call)) for name, (extra, call) in entry_points().items()}
    print(json.dumps({"hidden": sorted(hidden), "answers": answers}))


if __name__ == "__main__":
    main()
