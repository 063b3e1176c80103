"""Folders of pruned networks: plans and the dense network's description as JSON, weights as safetensors."""

from __future__ import annotations

import dataclasses as dc
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
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
from edakari.surgery.masked_values import values_in_masks
from edakari.surgery.origin import Step, masks_on, step_by, steps_of
from edakari.surgery.stored_tensors import cast, file_digest, tensors_of, with_bits, write_bits, write_tensors
from edakari.surgery.structure import Structure, replace_modules, replaced, structure_of

__all__ = ["load", "load_plan", "load_steps", "save"]

PLAN, WEIGHTS, NETWORK = "plan.json", "weights.safetensors", "network.json"
VERSION = 2
Replaced = Mapping[str, dict[str, Any]]


@dc.dataclass(frozen=True)
class StoredStep:
    """One application of a plan, as stored in a folder.

    Args:
        replaced: modules to replace in the network first; see `replace_modules`.
        plan: the plan to apply.
    """

    replaced: Replaced
    plan: Plan


@file_errors()
def save(
    model: nn.Module, plan: Plan, folder: str | Path, *, base: nn.Module | None = None, overwrite: bool = False
) -> None:
    """Save a pruned network to a folder, from which `load` reads it.

    A network that was pruned several times is saved with all of its plans. Replaced simple modules, such as a head for
    other classes, are saved, too. Tensors keep their types.

    Args:
        model: the result of `apply(model, plan)`, perhaps trained since then. Wrappers of `torch.compile` and of
            distributed training are removed.
        plan: the plan that was applied last.
        folder: the folder, which is created if missing. It will hold plan.json, weights.safetensors and network.json;
            and masks.safetensors if a plan masks weights.
        base: the network that the plan was made for; needed if `apply` did not make `model`.
        overwrite: whether to replace a network that the folder already holds.

    Raises:
        RunFolderError: the folder already holds a network or is read-only, or the disk is full.
        PlanError: `load` could not rebuild this network, because it is not the plan's result; says where it differs.
            Or weights that the plan masks are no longer zeros.
        WeightsError: a tensor cannot be stored.
        ModelError: the network is sharded over processes, or scripted.
    """
    call = "save(model, plan, folder)"
    require(call, plan=(plan, Plan), folder=(folder, (str, Path)))
    model, folder = unwrapped(model, call), Path(folder)
    if (folder / NETWORK).exists() and not overwrite:
        raise RunFolderError(f"{folder} already holds a pruned network; choose another folder, or pass overwrite=True")
    require_writable(folder / NETWORK)
    tensors = tensors_of(model)
    earlier, last, spec = _history(model, plan, base)
    _check_masked(model, last)
    spec, first = _start(spec, (*earlier, last)[0].before, given=base is not None)
    lefts = [first, *(step.after for step in earlier)]
    try:
        befores = [replaced(left, step.before) for left, step in zip(lefts, (*earlier, last), strict=True)]
        after = replaced(last.after, structure_of(model))
    except PlanError as error:
        raise PlanError(
            f"this {type(model).__name__} is not the result of its plan, so that load could not rebuild it: {error}. "
            "Only simple modules (Linear, convolutions, norms, activations) may be replaced after pruning"
        ) from error
    with replacing(folder / WEIGHTS) as temporary:
        write_tensors(tensors, temporary)
    write_bits(folder, (step.plan for step in (*earlier, last)))
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
        "weights": file_digest(folder / WEIGHTS),
    }
    # written last: a folder without it is not a network
    write_json(folder / NETWORK, content)


@file_errors()
def load(folder: str | Path, model: nn.Module | None = None, *, trust_code: bool = False) -> nn.Module:
    """Load a pruned network from a folder.

    Args:
        folder: a folder that `save` wrote.
        model: the dense network, or an intermediate one of a network that was pruned several times. It is needed if
            `edakari.models.build` did not make the dense network. Its weights do not matter, and it does not change.
        trust_code: whether to run a Python file that the folder names to build its network. A folder from somebody else
            may name any file, and this file may do anything.

    Returns:
        The pruned network in evaluation mode, on the CPU (or on the device of `model`), in the saved types.

    Raises:
        RunFolderError: the folder holds no such network, or a file is damaged.
        PlanError: the plan was made for another network.
        WeightsError: the weights are damaged or do not fit.
        UntrustedCode: a Python file builds the network, and `trust_code` is not set.
    """
    require("load(folder)", folder=(folder, (str, Path)))
    folder = Path(folder)
    content = _network(folder)
    steps = load_steps(folder)
    if steps[-1].plan.digest() != content["plan"]:
        raise PlanError(f"{folder / PLAN} is not the plan that was saved with the network; was it edited?")
    if file_digest(folder / WEIGHTS) != content["weights"]:
        raise WeightsError(f"{folder / WEIGHTS} are not the weights that were saved; was the file damaged or replaced?")
    small = _carried_out(_dense(folder, content, trust_code) if model is None else model, steps)
    replace_modules(small, content["replaced"]["after"])
    weights = read_weights(folder / WEIGHTS)
    cast(small, weights)
    load_weights(small, weights, repr(str(folder / WEIGHTS)))
    return small.eval()


@file_errors()
def load_plan(folder: str | Path) -> Plan:
    """Load the plan in a folder; the last one if the network was pruned several times.

    Raises:
        RunFolderError: there is none.
        PlanError: it cannot be read.
    """
    require("load_plan(folder)", folder=(folder, (str, Path)))
    path = Path(folder) / PLAN
    if not path.is_file():
        raise RunFolderError(f"there is no plan in {path.parent}: {path.name} is missing")
    try:
        return with_bits(Plan.from_json(read_text(path)), path.parent)
    except (Unreadable, OSError) as error:
        raise PlanError(f"{path} cannot be read: {because(error)}. Was the file edited or cut short?") from error
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error


def load_steps(folder: str | Path) -> tuple[StoredStep, ...]:
    """Load the steps that lead from the dense network to the one in a folder, in order.

    Raises:
        RunFolderError: the folder holds no network.
        PlanError: a plan cannot be read.
    """
    content = _network(Path(folder))
    try:
        earlier = [
            StoredStep(step["replaced"], with_bits(Plan.from_json(json.dumps(step["plan"])), Path(folder)))
            for step in content["earlier"]
        ]
        return (*earlier, StoredStep(content["replaced"]["before"], load_plan(folder)))
    except (KeyError, TypeError) as error:
        raise RunFolderError(f"{Path(folder) / NETWORK} is damaged: {because(error)}") from None


def _history(model: nn.Module, plan: Plan, base: nn.Module | None) -> tuple[tuple[Step, ...], Step, ModelSpec | None]:
    """Return the steps before the last, the last step by this plan, and the first network's description if known."""
    owner = model if base is None else unwrapped(base, "save(model, plan, folder, base=base)")
    steps, spec = steps_of(model), spec_of(owner)
    if steps and (base is None or _began(steps, owner)):
        return (*step_by(plan, steps), spec)
    if base is None:
        if spec is None:
            raise PlanError(
                f"this {type(model).__name__} was not made by apply or load, so that the network that its plan "
                "was made for is unknown; pass that network as base="
            )
        owner = build(ModelSpec(spec.name, spec.options))
    return steps_of(owner), steps_of(apply(owner, plan))[-1], spec


def _check_masked(model: nn.Module, last: Step) -> None:
    """Raise an error if weights that a plan masks are no longer zeros."""
    filled = list(values_in_masks(model, masks_on(model, last)))
    if filled:
        name, number = filled[0]
        more = f", and others in {len(filled) - 1} more parameters" if len(filled) > 1 else ""
        raise PlanError(
            f"{number} weights of {name!r} that the plan masks are not zero{more}; a training has filled them. Train "
            "with the masks held, or set the weights to zero again by the masks of edakari.surgery.held_masks(model)"
        )


def _began(steps: tuple[Step, ...], base: nn.Module) -> bool:
    """Return whether steps continue those of a network."""
    known = steps_of(base)
    return len(steps) > len(known) and steps[len(known)].before == structure_of(base)


def _start(spec: ModelSpec | None, before: Structure, *, given: bool) -> tuple[ModelSpec | None, Structure]:
    """Return the first network's description and structure; no description if `load` needs the network itself.

    Args:
        spec: description of the network, if known.
        before: structure of the first network when it was cut.
        given: whether the user passed this network.
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
            f"the network that was pruned is not {spec.name} as `build` makes it: {error}. Pass it to save as base=, "
            "and to load as model="
        ) from error
    return spec, built


def _built(spec: ModelSpec) -> Structure:
    """Return the structure of a network as `load` will build it, with options read back from JSON."""
    try:
        options = json.loads(json.dumps(dict(spec.options), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise PlanError(f"its options {dict(spec.options)!r} cannot be written as JSON ({error})") from error
    plain = ModelSpec(spec.name, options)
    try:
        with torch.device("meta"), warnings.catch_warnings():
            # a constructor that loads weights is told for each tensor that meta tensors have no values
            warnings.filterwarnings("ignore", ".*to a meta parameter")
            return structure_of(build(plain))
    except Exception:  # constructors that compute with values fail on meta tensors
        return structure_of(build(plain))


def _carried_out(model: nn.Module, steps: tuple[StoredStep, ...]) -> nn.Module:
    """Apply the remaining steps to a network, starting at the step that fits it."""
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
        raise RunFolderError(f"{path} is damaged: its key {wrong!r} is missing or has a value that save never writes")
    return content


def _wrong(content: Mapping[str, Any]) -> str | None:
    """Find a key of network.json whose value `save` could not have written."""
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
            f"{folder} does not say how its network is built, because edakari.models.build did not make it; "
            "call load(folder, model=…) with the dense network"
        )
    spec = dc.replace(ModelSpec(described["name"]), options=described["options"])
    check_trusted(spec, folder / NETWORK, trust_code=trust_code)
    return build(spec)
