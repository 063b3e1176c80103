"""What an exported network of a run says about itself: in the file, in `model.json`, and by `infer.py` beside it."""

from __future__ import annotations

import dataclasses as dc
import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import edakari
from edakari.core.file_errors import file_errors
from edakari.core.files import write_json, write_text
from edakari.core.output_kinds import OUTPUT_KINDS
from edakari.core.reading import because, inside, read_json
from edakari.errors import ExportError, RunFolderError
from edakari.export.about import IMAGES, OUTPUT_NAMES, About
from edakari.export.check import ExportCheck
from edakari.export.onnx_model import described_onnx
from edakari.pipeline.folder import RunFolder

__all__ = [
    "INFER",
    "MODEL",
    "Network",
    "about_run",
    "check_replaceable",
    "exported_files",
    "write_about",
    "write_model",
]

KIND = "edakari.export/1"
MODEL, INFER = "model.json", "infer.py"
Network = Literal["dense", "pruned"]


def about_run(run: RunFolder, network: Network = "pruned") -> About:
    """Say what the file of a run's network says about it.

    Args:
        run: folder of the run; its dense network must be evaluated, the pruned one be finished.
        network: network that is exported.

    Raises:
        RunFolderError: a file of the run is damaged.
    """
    facts, results, recipe = _facts(run), run.results(), run.recipe()
    pruned = network == "pruned"
    judged, costed = (results.finetune, results.check) if pruned else (results.dense, results.trace)
    answers = facts["answers"]
    metadata = {
        "edakari": edakari.__version__,
        "model": str(recipe["model"]["name"]),
        "network": network,
        "method": results.prune.method if pruned and results.prune else "",
        "budget": results.trace.budget if pruned else "",
        "plan": run.plan().digest() if pruned else "",
        **{name: facts[name] for name in ("task", "answers", "classes", "preprocessing", "values")},
        "metric": judged.metric if judged else "",
        "metrics": dict(judged.metrics) if judged else {},
        "costs": dict(costed.costs) if costed else {},
    }
    named = "mean" in facts["preprocessing"]
    return About(IMAGES if named else "input", OUTPUT_NAMES.get(answers, "output"), metadata)


def check_replaceable(folder: Path) -> None:
    """Raise an error if a folder has a `model.json` or an `infer.py` that edakari has not written.

    Raises:
        ExportError: names the file.
    """
    if (folder / MODEL).exists() and _known(folder) is None:
        raise ExportError(f"{folder / MODEL} is not of edakari; choose another folder with --output")
    if (folder / INFER).exists() and not (folder / MODEL).exists():
        raise ExportError(f"{folder / INFER} is not of edakari; choose another folder with --output")


@file_errors()
def write_model(folder: Path, about: About, checks: Mapping[Network, ExportCheck]) -> None:
    """Write `model.json`, and `infer.py` if the pruned network is there as ONNX.

    Files of the same plan that `model.json` named before stay in it.

    Args:
        folder: folder of the exported files.
        about: what the pruned network's file says.
        checks: comparisons of the new files, by network.
    """
    files = {each["path"]: each for each in exported_files(folder, str(about.metadata["plan"]))}
    for name, check in checks.items():
        told = described_onnx(check.path) if check.format == "onnx" else {}
        how = {key: value for key, value in dc.asdict(check).items() if key != "path"}
        files[check.path.name] = {"path": check.path.name, "network": name, **how, **told}
    write_about(folder, {**about.metadata, "files": list(files.values())})


def exported_files(folder: Path, plan: str) -> list[dict[str, Any]]:
    """Return what the `model.json` of a folder says about the files that are there; nothing of another plan's.

    Args:
        folder: folder of exported files.
        plan: digest of the plan.
    """
    known = _known(folder)
    before = known["files"] if known is not None and known.get("plan") == plan else []
    return [each for each in before if (folder / each["path"]).exists()]


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Write `model.json`, and `infer.py` if the pruned network is there as ONNX.

    Args:
        folder: folder of the exported files.
        about: content of `model.json`, with `files`.
    """
    write_json(folder / MODEL, {"format": KIND, **about})
    if any(each["path"] == "pruned.onnx" for each in about["files"]):
        script = importlib.resources.files("edakari.export").joinpath(INFER)
        write_text(folder / INFER, script.read_text(encoding="utf-8"))


def _known(folder: Path) -> dict[str, Any] | None:
    """The `model.json` of a folder if edakari has written it."""
    try:
        found = read_json(folder / MODEL)
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("format") != KIND or not isinstance(found.get("files"), list):
        return None
    named = [each for each in found["files"] if isinstance(each, dict) and isinstance(each.get("path"), str)]
    return {**found, "files": [each for each in named if Path(each["path"]).name == each["path"]]}


def _facts(run: RunFolder) -> dict[str, Any]:
    """The content of `task.json`, which older runs lack in parts, in the types that it should have."""
    path = run.path / "task.json"
    try:
        found = read_json(inside(run.path, path.name)) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {because(error)}") from error
    kinds = {"task": str, "answers": str, "classes": list, "preprocessing": dict, "values": list}
    if not isinstance(found, dict):
        raise RunFolderError(f"{path} holds no mapping; was it edited?")
    wrong = [name for name, kind in kinds.items() if not isinstance(found.get(name, kind()), kind)]
    if wrong:
        raise RunFolderError(f"{path}: {wrong[0]!r} is of another type than edakari writes; was it edited?")
    facts = {name: found.get(name, kind()) for name, kind in kinds.items()}
    return facts if facts["answers"] in OUTPUT_KINDS else {**facts, "answers": ""}
