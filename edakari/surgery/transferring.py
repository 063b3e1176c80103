"""`transfer`: moves a pruned network to another task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from edakari.core.arguments import found_as, require
from edakari.core.networks import unwrapped
from edakari.core.protocols import Task
from edakari.errors import ModelError, WrongArgument
from edakari.graph import call, example_for, shadow_of
from edakari.models import default_example, spec_of
from edakari.surgery.feature_heads import FeatureHead, with_head
from edakari.surgery.networks import is_saved
from edakari.surgery.origin import steps_of
from edakari.surgery.prediction_swap import Layers, chosen_layers, swapped
from edakari.surgery.store import load
from edakari.surgery.supernet_heads import with_supernet_head

__all__ = ["transfer"]

CALL = "transfer(ticket, task)"


def transfer(
    ticket: nn.Module | str | Path,
    task: Task | int,
    *,
    layer: Layers = None,
    head: str | FeatureHead | None = None,
    graft: nn.Module | str | Path | None = None,
    example: Any = None,
    reinitialise: bool = False,
    seed: int = 0,
) -> nn.Module:
    """Move a pruned network to another task: replace its prediction layer, and keep the rest bit by bit.

    Structure, weights, statistics and weight masks of the rest stay. The new layer has the initial weights of its
    class, so train the network. The result is saved, loaded and pruned as the ticket is.

    Args:
        ticket: pruned or unpruned network, which does not change; or the folder of a pruned network.
        task: new task, from which the number of outputs and an example are taken; or the number of outputs.
        layer: dotted path of the prediction layer, or of several; a mapping names the number of outputs of each. None
            finds the last layers before the outputs, and auxiliary classifiers.
        head: replace the complete head: a task of `edakari:supernet`, such as "segmentation", for a ticket of this
            network; or a `FeatureHead`, a head of your own on features of any network.
        graft: pruned `edakari:supernet`, or its folder, whose head is taken, except for the classifier.
        example: input of the network; by default that of the task, or that with which the network was pruned.
        reinitialise: whether to replace layers that have the right number of outputs already.
        seed: seed of the new weights.

    Returns:
        A new network, on the same device and in the same training mode.

    Raises:
        ModelError: no prediction layer was found, or it fits already, or several differ; or the network does not run on
            the task's images, or `head` and `graft` do not fit it.
        UnknownName: the network has no such layer or feature.
        RunFolderError: a folder holds no pruned network.
    """
    model = _opened(ticket, "ticket")
    outputs = _outputs(task)
    example = _example(model, task, example)
    if head is None:
        if graft is not None:
            raise ModelError(f"{CALL}: graft gives the head of another ticket, so it needs head='segmentation' or so")
        wanted = chosen_layers(model, example, outputs, layer, reinitialise)
        moved = swapped(model, example, wanted, exact=not isinstance(layer, dict), seed=seed)
        return _with_names(moved, task)
    if layer:
        raise ModelError(f"{CALL}: layer and head exclude each other; a new head has a new prediction layer")
    if outputs is None:
        raise ModelError(f"{CALL}: the number of outputs does not follow from this task; pass a number in its place")
    if isinstance(head, FeatureHead):
        if graft is not None:
            raise ModelError(f"{CALL}: graft is for heads of edakari:supernet; omit it")
        return with_head(model, head, outputs, example, seed)
    grafted = None if graft is None else _opened(graft, "graft")
    return with_supernet_head(model, head, outputs, grafted, example, seed)


def _opened(given: Any, what: str) -> nn.Module:
    if isinstance(given, str | Path):
        if not is_saved(str(given)):
            raise ModelError(f"{CALL}: {what} {str(given)!r} is no folder; edakari.build makes a network from a name")
        return load(given)
    return unwrapped(given, CALL)


def _outputs(task: Any) -> int | None:
    if isinstance(task, bool) or not isinstance(task, int):
        if not callable(getattr(task, "example", None)):
            raise WrongArgument(f"{CALL}: task takes a task or a number of outputs, but got {found_as(task)}")
        found = getattr(task, "num_outputs", None)
        return None if found is None else int(found)
    require(CALL, task=(task, int))
    if task < 1:
        raise ModelError(f"{CALL}: a network has at least one output, found {task}")
    return task


def _example(model: nn.Module, task: Any, given: Any) -> Any:
    """The input to trace with; the network must run on it."""
    steps, spec = steps_of(model), spec_of(model)
    known = None
    if steps:
        known = example_for(model, steps[-1].plan.inputs, "cpu")
    elif spec is not None:
        known = default_example(spec, model)
    example = given if given is not None else known if isinstance(task, int) else task.example()
    if example is None:
        raise ModelError(f"{CALL}: it is not known what this {type(model).__name__} takes; pass an input as example=")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    example = tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf, example)
    _require_channels(model, example, known)
    return example


def _require_channels(model: nn.Module, example: Any, known: Any) -> None:
    """Refuse images with another number of channels than those for which the network was made."""
    expected, found = (_channels(each) for each in (known, example))
    if expected is not None and found is not None and expected != found:
        try:
            call(shadow_of(model, "meta"), tree_map(_on_meta, example))
        except ModelError as error:
            raise ModelError(
                f"{CALL}: the ticket takes images of {expected} channels, but those of the task have {found}; convert "
                f"them, such as by data.channels: {expected}"
            ) from error


def _on_meta(leaf: Any) -> Any:
    return leaf.to("meta") if isinstance(leaf, torch.Tensor) else leaf


def _channels(example: Any) -> int | None:
    sizes = [leaf.shape[1] for leaf in tree_leaves(example) if isinstance(leaf, torch.Tensor) and leaf.ndim == 4]
    return sizes[0] if sizes else None


def _with_names(model: nn.Module, task: Any) -> nn.Module:
    """Name the classes in the configuration of a network of transformers, in place."""
    names, config = tuple(getattr(task, "classes", ())), getattr(model, "config", None)
    if config is not None and len(names) == getattr(config, "num_labels", None):
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
    return model
