"""Replaces the prediction layers of a network; the rest stays as it is."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from edakari.core.copying import copied
from edakari.errors import EdakariWarning, ModelError, UnknownName
from edakari.graph import call, prediction_layers, shadow_of, tensors_in
from edakari.surgery.new_layers import follow_outputs, new_layer, outputs_of_layer
from edakari.surgery.origin import held_masks

__all__ = ["Layers", "chosen_layers", "swapped"]

Layers = str | Sequence[str] | Mapping[str, int] | None
"""Dotted path of a prediction layer, or of several; a mapping names the number of outputs of each."""


def chosen_layers(model: nn.Module, example: Any, outputs: int | None, layer: Layers, again: bool) -> dict[str, int]:
    """Choose the layers to replace, and their numbers of outputs.

    Args:
        model: network.
        example: input of the network.
        outputs: number of outputs of the task; None if it does not follow from the task.
        layer: layers that the user names; None finds them.
        again: whether layers with the right number of outputs are replaced, too.

    Raises:
        UnknownName: the network has no such module.
        ModelError: no layer was found, or the layers found have different numbers of outputs; or they fit already.
    """
    if isinstance(layer, Mapping):
        wanted = {name: int(count) for name, count in layer.items()}
    else:
        names = _found(model, example) if not layer else [layer] if isinstance(layer, str) else list(layer)
        if outputs is None:
            raise ModelError(
                "transfer(ticket, task): the number of outputs does not follow from this task; pass it as "
                f"layer={{{names[0]!r}: outputs}}, or pass a number in place of the task"
            )
        wanted = dict.fromkeys(names, outputs)
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in wanted:
        if name not in modules:
            raise UnknownName("layer", name, [path for path in modules if outputs_of_layer(modules[path])])
        if outputs_of_layer(modules[name]) is None:
            raise ModelError(
                f"layer {name!r} is a {type(modules[name]).__name__}; only linear layers and convolutions without "
                "parametrizations are replaced"
            )
    if not again and all(outputs_of_layer(modules[name]) == count for name, count in wanted.items()):
        fits = ", ".join(f"{name} ({count})" for name, count in wanted.items())
        raise ModelError(
            f"the prediction layers fit the task already: {fits}. Use the network as it is, or pass reinitialise=True "
            "to draw their weights again"
        )
    return wanted


def swapped(model: nn.Module, example: Any, wanted: Mapping[str, int], *, exact: bool, seed: int) -> nn.Module:
    """Return a copy of a network with new prediction layers; everything else is equal bit by bit.

    Args:
        model: network; it does not change.
        example: input of the network.
        wanted: number of outputs of each layer to replace.
        exact: whether the network must return as many outputs as its layers have.
        seed: seed of the new weights.

    Raises:
        ModelError: the network does not run with the new layers, or rearranges their outputs.
    """
    moved = copied(model)
    made: dict[int, nn.Module] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, count in wanted.items():
            layer = model.get_submodule(name)
            fresh = made.setdefault(id(layer), new_layer(layer, count, name))
            parent, _, last = name.rpartition(".")
            moved.get_submodule(parent)._modules[last] = fresh
    for name, count in wanted.items():
        before = outputs_of_layer(model.get_submodule(name))
        assert before is not None
        follow_outputs(moved, name, before, count)
    _check(model, moved, example, wanted if exact else {})
    parameters = dict(moved.named_parameters())
    with torch.no_grad():
        for name, mask in held_masks(moved).items():  # a layer of the same size keeps its masks
            if name.rpartition(".")[0] in wanted:
                parameters[name].mul_(mask.to(parameters[name].device))
    return moved


def _found(model: nn.Module, example: Any) -> list[str]:
    layers = prediction_layers(model, example)
    found = layers.outputs
    if not found:
        raise ModelError(
            f"no prediction layer of this {type(model).__name__} was found: none of its outputs comes from a linear "
            "layer or a convolution alone; name the layer: layer='path.to.layer'"
        )
    if len(set(found.values())) > 1:
        shown = ", ".join(f"{name!r}: {count}" for name, count in found.items())
        raise ModelError(
            f"this {type(model).__name__} has prediction layers with different numbers of outputs, as detectors have: "
            f"{{{shown}}}. Name those to replace with the numbers that the new task needs, as layer={{name: outputs}}"
        )
    alike = sorted(name for name in layers.unread if outputs_of_layer(model.get_submodule(name)) in found.values())
    if alike:
        warnings.warn(
            f"{', '.join(alike)}: not read on the example, and left as it is, though it has as many outputs as the "
            "prediction layer; if it is an auxiliary classifier, name it in layer, too",
            EdakariWarning,
            stacklevel=4,
        )
    return list(found)


def _check(model: nn.Module, moved: nn.Module, example: Any, wanted: Mapping[str, int]) -> None:
    """Run both networks without data and compare the shapes of their outputs."""
    shapes = [_shapes(each, example) for each in (model, moved)]
    pairs = list(zip(*shapes, strict=True)) if len(shapes[0]) == len(shapes[1]) else []
    for name, count in wanted.items():
        before = outputs_of_layer(model.get_submodule(name))
        changed = [(old, new) for old, new in pairs if old != new] if before != count else pairs
        fits = [_renumbered(old, new, before, count) for old, new in changed]
        if not changed or not any(fits):
            raise ModelError(
                f"layer {name!r} has {before} outputs, from which the network makes {shapes[0]}; with {count} it makes "
                f"{shapes[1]}. If the task needs that, pass layer={{{name!r}: {count}}}, otherwise another number there"
            )


def _renumbered(old: tuple[int, ...], new: tuple[int, ...], before: int | None, count: int) -> bool:
    if len(old) != len(new):
        return False
    return any(a == before and b == count for a, b in zip(old, new, strict=True)) and all(
        a == b or (a == before and b == count) for a, b in zip(old, new, strict=True)
    )


def _shapes(model: nn.Module, example: Any) -> list[tuple[int, ...]]:
    try:
        given = tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, torch.Tensor) else leaf, example)
        outputs = call(shadow_of(model, "meta"), given)
    except ModelError:  # networks that look at values do not run without data
        given = tree_map(lambda leaf: leaf.to("cpu") if isinstance(leaf, torch.Tensor) else leaf, example)
        outputs = call(shadow_of(model, "cpu"), given)
    return [tuple(tensor.shape) for tensor in tensors_in(outputs)]
