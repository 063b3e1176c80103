"""New heads on the features of a network."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from edakari.core.copying import copied
from edakari.errors import ModelError, UnknownName
from edakari.graph import call, shadow_of, tensors_in

__all__ = ["FeatureHead", "FeatureNetwork", "with_head"]


@dc.dataclass(frozen=True)
class FeatureHead:
    """A head of your own on features of a network, such as a decoder for segmentation.

    Args:
        features: dotted paths of the modules whose outputs the head takes, such as ("layer2", "layer4"); a module that
            returns several tensors gives all of them.
        make: function that makes the head. It takes the number of channels of each feature (dimension 1) and the number
            of outputs, and returns a module that is called with one tensor for each feature.
    """

    features: Sequence[str]
    make: Callable[[tuple[int, ...], int], nn.Module]


class FeatureNetwork(nn.Module):
    """A backbone with a head on its features.

    Args:
        backbone: network whose modules give the features.
        features: dotted paths of these modules.
        head: module that takes one tensor for each feature.
    """

    def __init__(self, backbone: nn.Module, features: Sequence[str], head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.features = tuple(features)
        self.head = head

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the head makes of the backbone's features."""
        return self.head(*features_of(self.backbone, self.features, lambda: self.backbone(*args, **kwargs)))


def features_of(model: nn.Module, names: Sequence[str], run: Callable[[], Any]) -> list[torch.Tensor]:
    """Run a network and return the outputs of some modules, in the order of their names.

    Args:
        model: network.
        names: dotted paths of the modules.
        run: function that runs the network.
    """
    found: dict[str, Any] = {}
    handles = []
    try:
        for name in names:

            def note(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
                found[name] = output

            handles.append(model.get_submodule(name).register_forward_hook(note))
        run()
    finally:
        for handle in handles:
            handle.remove()
    return [tensor for name in names for tensor in tensors_in(found.get(name))]


def with_head(model: nn.Module, head: FeatureHead, outputs: int, example: Any, seed: int) -> FeatureNetwork:
    """Return a new network: features of a copy of a network, and a new head.

    Modules that the features do not need, such as the classifier, are removed where the network runs without them.

    Args:
        model: network; it does not change.
        head: features, and the function that makes the head.
        outputs: number of outputs of the new head.
        example: input of the network.
        seed: seed of the head's weights.

    Raises:
        UnknownName: the network has no module of a feature's name.
        ModelError: a module does not run on the example, or returns no tensor; or the head fails on the features.
    """
    names = (head.features,) if isinstance(head.features, str) else tuple(head.features)
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules or not name:
            raise UnknownName("feature", name, [path for path in modules if path])
    widths = _widths(model, names, example)
    backbone = _without_unused(copied(model), names, example)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = head.make(widths, outputs)
    if not isinstance(made, nn.Module):
        raise ModelError(f"the function of the head returned a {type(made).__name__}, not a torch.nn.Module")
    like = next((each for each in model.parameters() if each.is_floating_point()), torch.zeros(()))
    moved = FeatureNetwork(backbone, names, made.to(device=like.device, dtype=like.dtype))
    moved.train(model.training)
    call(shadow_of(moved, "meta"), _on_meta(example))  # says what fails
    return moved


def _widths(model: nn.Module, names: Sequence[str], example: Any) -> tuple[int, ...]:
    shadow = shadow_of(model, "meta")
    for name in names:
        found = features_of(shadow, (name,), lambda: call(shadow, _on_meta(example)))
        if not found or any(tensor.ndim < 2 for tensor in found):
            raise ModelError(f"module {name!r} gives no feature: it does not run on the example, or returns no tensor")
    every = features_of(shadow, names, lambda: call(shadow, _on_meta(example)))
    return tuple(tensor.shape[1] for tensor in every)


def _without_unused(model: nn.Module, names: Sequence[str], example: Any) -> nn.Module:
    """Remove the modules with parameters that run after the last feature, in place; freeze those that must stay."""
    needed = _needed(model, names, example)
    removed: tuple[str, ...] = ()
    for path, module in list(model.named_modules()):
        own = {name for name, _ in module.named_parameters(prefix=path)}
        if not own or own & needed or path.startswith(removed):
            continue
        parent, _, last = path.rpartition(".")
        holder = model.get_submodule(parent)._modules
        holder[last] = nn.Identity()
        try:
            call(shadow_of(model, "meta"), _on_meta(example))
            removed = (*removed, f"{path}.")
        except (ModelError, TypeError):
            holder[last] = module.requires_grad_(False)
    return model


def _needed(model: nn.Module, names: Sequence[str], example: Any) -> set[str]:
    """Names of the parameters on which the features depend."""
    shadow, given = shadow_of(model, "meta"), _on_meta(example)
    for parameter in shadow.parameters():
        parameter.requires_grad_(parameter.is_floating_point())

    def run() -> Any:
        return shadow(**given) if isinstance(given, dict) else shadow(*_tuple(given))

    with torch.enable_grad():
        found = [tensor for tensor in features_of(shadow, names, run) if tensor.requires_grad]
        total = sum((tensor.float().sum() for tensor in found), torch.zeros((), device="meta"))
    if not found:
        return set()
    parameters = {name: each for name, each in shadow.named_parameters() if each.requires_grad}
    grads = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return {name for name, grad in zip(parameters, grads, strict=True) if grad is not None}


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _on_meta(example: Any) -> Any:
    return tree_map(lambda leaf: leaf.to("meta") if _is_tensor(leaf) else leaf, example)
