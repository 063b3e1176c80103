"""A pruned network in a folder: the plans and how to build the dense network as JSON, the weights as safetensors."""

from __future__ import annotations

import dataclasses as dc
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from edakari.core.arguments import require
from edakari.core.copying import copied
from edakari.core.file_errors import file_errors, require_writable
from edakari.core.files import replacing, write_json, write_text
from edakari.core.networks import unwrapped
from edakari.core.plan import Plan
from edakari.core.reading import Unreadable, because, read_json, read_text
from edakari.errors import EdakariError, PlanError, RunFolderError, WeightsError
from edakari.models import ModelSpec, build, check_trusted, load_weights, read_weights, spec_of
from edakari.surgery.applying import apply, checked
from edakari.surgery.origin import Step, step_by, steps_of
from edakari.surgery.structure import Structure, replace_modules, replaced, structure_of

__all__ = ["load", "load_plan", "load_steps", "save"]

PLAN, WEIGHTS, NETWORK = "plan.json", "weights.safetensors", "network.json"
VERSION = 2
Replaced = Mapping[str, dict[str, Any]]


@dc.dataclass(frozen=True)
class StoredStep:
    """One cut, as a folder says it.

    Args:
        replaced: modules to put into the network before it; see `replace_modules`.
        plan: to carry out.
    """

    replaced: Replaced
    plan: Plan


@file_errors()
def save(
    model: nn.Module, plan: Plan, folder: str | Path, *, base: nn.Module | None = None, overwrite: bool = False
) -> None:
    """Write a pruned network, so that `load` reads it in another process.

    A network that was pruned several times is written with all of its plans. Simple modules that were replaced, such as
    the head for other classes, are written with it. Tensors keep their types.

    Args:
        model: what `apply(dense, plan)` gave, perhaps trained since; without the wrappers of `torch.compile` and of
            training on several processes.
        plan: that it was pruned by last.
        folder: made if it is not there; holds plan.json, weights.safetensors and network.json afterwards.
        base: the network that the plan was made for; needed where `apply` did not make `model`.
        overwrite: whether a network that is already there may go.

    Raises:
        RunFolderError: the folder holds a network already or cannot be written to, or the disk is full.
        PlanError: `load` could not make this network again: it is not what the plan leaves; says where it differs.
        WeightsError: a tensor cannot be stored.
        ModelError: the network is sharded over processes, or scripted.
    """
    call = "save(model, plan, folder)"
    require(call, plan=(plan, Plan), folder=(folder, (str, Path)))
    model, folder = unwrapped(model, call), Path(folder)
    if (folder / NETWORK).exists() and not overwrite:
        raise RunFolderError(f"{folder} holds a pruned network already; choose another folder, or pass overwrite=True")
    require_writable(folder / NETWORK)
    tensors = _tensors(model)
    earlier, last, spec = _history(model, plan, base)
    spec, first = _start(spec, (*earlier, last)[0].before, given=base is not None)
    lefts = [first, *(step.after for step in earlier)]
    try:
        befores = [replaced(left, step.before) for left, step in zip(lefts, (*earlier, last), strict=True)]
        after = replaced(last.after, structure_of(model))
    except PlanError as error:
        raise PlanError(
            f"this {type(model).__name__} is not what its plan leaves, so that load could not make it again: {error}. "
            "Only simple modules (Linear, convolutions, norms, activations) may be replaced after pruning"
        ) from error
    with replacing(folder / WEIGHTS) as temporary:
        _write_tensors(tensors, temporary)
    write_text(folder / PLAN, plan.to_json() + "\n")
    content = {
        "version": VERSION,
        "model": None if spec is None else {"name": spec.name, "options": dict(spec.options)},
        "earlier": [
            {"replaced": before, "plan": json.loads(step.plan.to_json())}
            for before, step in zip(befores, earlier, strict=False)
        ],
        "replaced": {"before": befores[-1], "after": after},
        "plan": plan.digest(),
        "weights": _digest(folder / WEIGHTS),
    }
    # written last: a folder without it is not a network
    write_json(folder / NETWORK, content)


@file_errors()
def load(folder: str | Path, model: nn.Module | None = None, *, trust_code: bool = False) -> nn.Module:
    """Read a pruned network.

    Args:
        folder: that `save` wrote.
        model: the dense network, or for a network that was pruned several times one of those between; needed where
            `edakari.models.build` did not make the dense one. Its weights do not matter, and it stays as it is.
        trust_code: whether to run a Python file that the folder names to build its network. A folder from somebody else
            may name any file, and what it does is not limited to building networks.

    Returns:
        The pruned network in evaluation mode, on the CPU (or where `model` is), in the types that were saved.

    Raises:
        RunFolderError: the folder holds no such network, or a file is damaged.
        PlanError: the plan was made for another network.
        WeightsError: the weights are damaged or do not fit.
        UntrustedCode: the network is built by a Python file, and `trust_code` is not set.
    """
    require("load(folder)", folder=(folder, (str, Path)))
    folder = Path(folder)
    content = _network(folder)
    steps = load_steps(folder)
    if steps[-1].plan.digest() != content["plan"]:
        raise PlanError(f"{folder / PLAN} is not the plan that was saved with the network; was it edited?")
    if _digest(folder / WEIGHTS) != content["weights"]:
        raise WeightsError(f"{folder / WEIGHTS} are not the weights that were saved; was the file damaged or replaced?")
    small = _carried_out(_dense(folder, content, trust_code) if model is None else model, steps)
    replace_modules(small, content["replaced"]["after"])
    weights = read_weights(folder / WEIGHTS)
    _cast(small, weights)
    load_weights(small, weights, repr(str(folder / WEIGHTS)))
    return small.eval()


@file_errors()
def load_plan(folder: str | Path) -> Plan:
    """The plan in a folder: of a network that was pruned several times, the last one.

    Raises:
        RunFolderError: there is none.
        PlanError: it cannot be read.
    """
    require("load_plan(folder)", folder=(folder, (str, Path)))
    path = Path(folder) / PLAN
    if not path.is_file():
        raise RunFolderError(f"there is no plan in {path.parent}: {path.name} is missing")
    try:
        return Plan.from_json(read_text(path))
    except (Unreadable, OSError) as error:
        raise PlanError(f"{path} cannot be read: {because(error)}. Was the file edited or cut short?") from error
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error


def load_steps(folder: str | Path) -> tuple[StoredStep, ...]:
    """The cuts that lead from the dense network to the one in a folder, the first one first.

    Raises:
        RunFolderError: the folder holds no network.
        PlanError: a plan cannot be read.
    """
    content = _network(Path(folder))
    try:
        earlier = [
            StoredStep(step["replaced"], Plan.from_json(json.dumps(step["plan"]))) for step in content["earlier"]
        ]
        return (*earlier, StoredStep(content["replaced"]["before"], load_plan(folder)))
    except (KeyError, TypeError) as error:
        raise RunFolderError(f"{Path(folder) / NETWORK} is damaged: {because(error)}") from None


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state of a network as tensors that a file can hold."""
    tensors = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise WeightsError(f"the state of the network has a {type(value).__name__} at {name!r}, not a tensor")
        if value.is_meta or value.is_quantized or value.layout != torch.strided:
            what = "has no values (meta)" if value.is_meta else f"is of type {value.dtype} and layout {value.layout}"
            raise WeightsError(f"{name} {what}, which a safetensors file does not hold")
        tensors[name] = value.detach().cpu().contiguous().clone()
    return tensors


def _write_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except (KeyError, ValueError, TypeError) as error:
        types = ", ".join(sorted({str(value.dtype) for value in tensors.values()}))
        raise WeightsError(f"the network's tensors ({types}) cannot be stored: {error}") from error


def _history(model: nn.Module, plan: Plan, base: nn.Module | None) -> tuple[tuple[Step, ...], Step, ModelSpec | None]:
    """The cuts before the last, the last one by this plan, and how the first network is built, if that is known."""
    owner = model if base is None else unwrapped(base, "save(model, plan, folder, base=base)")
    steps, spec = steps_of(model), spec_of(owner)
    if steps and (base is None or _began(steps, owner)):
        return (*step_by(plan, steps), spec)
    if base is None:
        if spec is None:
            raise PlanError(
                f"this {type(model).__name__} was not made by apply or load, so that nothing is known of the network "
                "that its plan was made for; pass that network as base="
            )
        owner = build(ModelSpec(spec.name, spec.options))
    return steps_of(owner), Step(plan, structure_of(owner), structure_of(apply(owner, plan))), spec


def _began(steps: tuple[Step, ...], base: nn.Module) -> bool:
    """Whether cuts go on from those of a network."""
    known = steps_of(base)
    return len(steps) > len(known) and steps[len(known)].before == structure_of(base)


def _start(spec: ModelSpec | None, before: Structure, *, given: bool) -> tuple[ModelSpec | None, Structure]:
    """How the first network is built and what that gives; nothing where `load` needs the network itself.

    Args:
        spec: how it was built, if that is known.
        before: the first network as it was cut.
        given: whether the user says that this is the network.
    """
    if spec is None:
        return None, before
    try:
        built = _built(spec)
        replaced(built, before)
    except EdakariError as error:
        if given:
            return None, before
        raise PlanError(
            f"the network that was pruned is not {spec.name} as it is built: {error}. Pass it to save as base=, and to "
            "load as model="
        ) from error
    return spec, built


def _built(spec: ModelSpec) -> Structure:
    """Structure of a network as `load` will build it, of options as JSON holds them."""
    try:
        options = json.loads(json.dumps(dict(spec.options), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise PlanError(f"its options {dict(spec.options)!r} cannot be written as JSON ({error})") from error
    plain = ModelSpec(spec.name, options)
    try:
        with torch.device("meta"):
            return structure_of(build(plain))
    except Exception:  # constructors that compute with values do not run without
        return structure_of(build(plain))


def _carried_out(model: nn.Module, steps: tuple[StoredStep, ...]) -> nn.Module:
    """The network that all cuts leave, begun where this network stands among them."""
    first, there = 0, False
    if len(steps) > 1 or steps[0].replaced:
        standing = [index for index, step in enumerate(steps) if _stands_before(step.plan, model)]
        first, there = (standing[-1], True) if standing else (0, False)
    for index, step in enumerate(steps[first:]):
        if step.replaced and not (there and index == 0):
            model = copied(model)
            replace_modules(model, step.replaced)
        model = apply(model, step.plan)
    return model


def _stands_before(plan: Plan, model: nn.Module) -> bool:
    try:
        checked(plan, model, None, "load(folder, model)")
    except EdakariError:
        return False
    return True


def _cast(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Give a network's tensors the types of the stored ones, in place; tied ones stay tied."""
    for path, module in model.named_modules():
        for name, value in (*module._parameters.items(), *module._buffers.items()):
            stored = weights.get(f"{path}.{name}" if path else name)
            if value is not None and stored is not None and value.dtype != stored.dtype:
                value.data = value.data.to(stored.dtype)


def _network(folder: Path) -> dict[str, Any]:
    path = folder / NETWORK
    for name in (NETWORK, WEIGHTS):
        if not (folder / name).is_file():
            raise RunFolderError(f"there is no pruned network in {folder}: {name} is missing")
    try:
        content: dict[str, Any] = read_json(path)
        version = content["version"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunFolderError(f"{path} is damaged: {because(error)}") from None
    if version not in (1, VERSION):
        raise RunFolderError(f"{path} has version {version!r}; this edakari reads version {VERSION}")
    content = {"earlier": [], "replaced": {"before": {}, "after": {}}, **content}
    wrong = _wrong(content)
    if wrong:
        raise RunFolderError(f"{path} is damaged: its key {wrong!r} is missing or is not what save writes")
    return content


def _wrong(content: Mapping[str, Any]) -> str | None:
    """A key of network.json whose value is of another kind than what `save` writes."""
    model, swapped = content.get("model", ""), content["replaced"]
    described = (
        isinstance(model, dict) and isinstance(model.get("name"), str) and isinstance(model.get("options"), dict)
    )
    known = isinstance(swapped, dict) and all(isinstance(swapped.get(at), dict) for at in ("before", "after"))
    fits = {
        "model": model is None or described,
        "earlier": isinstance(content["earlier"], list),
        "replaced": known,
        "plan": isinstance(content.get("plan"), str),
        "weights": isinstance(content.get("weights"), str),
    }
    return next((key for key, right in fits.items() if not right), None)


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
