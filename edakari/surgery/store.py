"""A pruned network in a folder: the plan and how to build the dense network as JSON, the weights as safetensors."""

from __future__ import annotations

import dataclasses as dc
import hashlib
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from edakari.core.files import replacing, write_json, write_text
from edakari.core.networks import unwrapped
from edakari.core.plan import Plan
from edakari.core.reading import Unreadable, read_json, read_text
from edakari.errors import PlanError, RunFolderError, WeightsError
from edakari.models import ModelSpec, build, check_trusted, load_weights, read_weights, spec_of
from edakari.surgery.apply import apply

__all__ = ["load", "load_plan", "save"]

PLAN, WEIGHTS, NETWORK = "plan.json", "weights.safetensors", "network.json"
VERSION = 1


def save(model: nn.Module, plan: Plan, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write a pruned network.

    Args:
        model: what `apply(plan, dense)` gave, perhaps trained since.
        plan: that it was pruned by.
        folder: made if it is not there; holds plan.json, weights.safetensors and network.json afterwards.
        overwrite: whether a network that is already there may go.

    Raises:
        RunFolderError: the folder holds a network already, or the disk is full.
    """
    model, folder = unwrapped(model, "save(model, plan, folder)"), Path(folder)
    if (folder / NETWORK).exists() and not overwrite:
        raise RunFolderError(f"{folder} holds a pruned network already; choose another folder, or pass overwrite=True")
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    with replacing(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    write_text(folder / PLAN, plan.to_json() + "\n")
    spec = spec_of(model)
    content = {
        "version": VERSION,
        "model": None if spec is None else {"name": spec.name, "options": dict(spec.options)},
        "plan": plan.digest(),
        "weights": _digest(folder / WEIGHTS),
    }
    # written last: a folder without it is not a network
    write_json(folder / NETWORK, content)


def load(folder: str | Path, model: nn.Module | None = None, *, trust_code: bool = False) -> nn.Module:
    """Read a pruned network.

    Args:
        folder: that `save` wrote.
        model: the dense network; needed where `edakari.models.build` did not make it. Its weights do not matter.
        trust_code: whether to run a Python file that the folder names to build its network. A folder from somebody else
            may name any file, and what it does is not limited to building networks.

    Returns:
        The pruned network in evaluation mode, on the CPU (or where `model` is).

    Raises:
        RunFolderError: the folder holds no such network, or a file is damaged.
        PlanError: the plan was made for another network.
        WeightsError: the weights are damaged or do not fit.
        UntrustedCode: the network is built by a Python file, and `trust_code` is not set.
    """
    folder = Path(folder)
    content = _network(folder)
    plan = load_plan(folder)
    if plan.digest() != content["plan"]:
        raise PlanError(f"{folder / PLAN} is not the plan that was saved with the network; was it edited?")
    if _digest(folder / WEIGHTS) != content["weights"]:
        raise WeightsError(f"{folder / WEIGHTS} are not the weights that were saved; was the file damaged or replaced?")
    small = apply(plan, _dense(folder, content, trust_code) if model is None else model)
    load_weights(small, read_weights(folder / WEIGHTS), repr(str(folder / WEIGHTS)))
    return small.eval()


def load_plan(folder: str | Path) -> Plan:
    """The plan in a folder.

    Raises:
        RunFolderError: there is none.
        PlanError: it cannot be read.
    """
    path = Path(folder) / PLAN
    if not path.is_file():
        raise RunFolderError(f"there is no plan in {path.parent}: {path.name} is missing")
    try:
        return Plan.from_json(read_text(path))
    except Unreadable as error:
        raise PlanError(f"{path} cannot be read: {error}. Was the file edited or cut short?") from error


def _network(folder: Path) -> dict[str, Any]:
    path = folder / NETWORK
    for name in (NETWORK, WEIGHTS):
        if not (folder / name).is_file():
            raise RunFolderError(f"there is no pruned network in {folder}: {name} is missing")
    try:
        content: dict[str, Any] = read_json(path)
        version = content["version"]
    except (ValueError, TypeError, KeyError) as error:
        raise RunFolderError(f"{path} is damaged: {type(error).__name__}: {error}") from None
    if version != VERSION:
        raise RunFolderError(f"{path} has version {version!r}; this edakari reads version {VERSION}")
    return content


def _dense(folder: Path, content: dict[str, Any], trust_code: bool) -> nn.Module:
    described = content["model"]
    if described is None:
        raise RunFolderError(
            f"{folder} does not say how its network is built, since edakari.models.build did not make it; "
            "call load(folder, model=…) with the dense network"
        )
    spec = dc.replace(ModelSpec(described["name"]), options=described["options"])
    check_trusted(spec, folder / NETWORK, trust_code=trust_code)
    return build(spec)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
