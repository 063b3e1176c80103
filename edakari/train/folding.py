"""Frozen networks with their batch normalisations folded into the layers before, for teachers."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch.nn.utils import fusion
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edakari.core.copying import copied
from edakari.core.modes import eval_mode

__all__ = ["folded"]

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
TOLERANCE = 1e-4
"""Largest difference of outputs after folding, compared with the largest output."""


def folded(model: nn.Module, inputs: Any, untouched: Collection[str] = ()) -> nn.Module:
    """Copy a network for evaluation, with its batch normalisations folded into the layers before.

    A normalisation is folded where it alone reads what one convolution or linear layer gives, in one pass of the
    network on the inputs. If the outputs of the copy are not the same to rounding, nothing is folded.

    Args:
        model: the network; it does not change.
        inputs: a tensor, a tuple of positional arguments or a dict of keywords.
        untouched: modules whose outputs stay as they are.

    Returns:
        The copy in evaluation mode, whose parameters need no gradients.
    """
    plain = copied(model).eval().requires_grad_(False)
    with torch.no_grad(), torch.random.fork_rng():
        try:
            expected, pairs = _pairs(plain, inputs, untouched)
        except Exception:  # a network that does not run on these inputs is no teacher of them; its task says so
            return plain
        made = copied(plain)
        for layer, norm in pairs:
            _fold(made, layer, norm)
        found = _outputs(made, inputs)
    return made if pairs and _alike(expected, found) else plain


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that read outputs of layers; run state."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made: dict[int, tuple[torch.Tensor, str]] = {}
        self.uses: dict[str, int] = {}

    def note(self, tensor: torch.Tensor, layer: str) -> None:
        """Count from now on who reads this output of a layer."""
        self.made[id(tensor)] = tensor, layer  # the tensor lives on, so that no other gets its id

    def layer_of(self, value: Any) -> str | None:
        """The layer that made a tensor, if it is an output of one."""
        found = self.made.get(id(value))
        return found[1] if found else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            layer = self.layer_of(leaf)
            if layer is not None:
                self.uses[layer] = self.uses.get(layer, 0) + 1
        return func(*args, **(kwargs or {}))


def _pairs(
    model: nn.Module, inputs: Any, untouched: Collection[str]
) -> tuple[list[torch.Tensor], list[tuple[str, str]]]:
    """Outputs of a network, and the names of layers and of the normalisations that alone read their outputs."""
    layers = {name: each for name, each in model.named_modules() if _is_layer(each)}
    norms = {name: each for name, each in model.named_modules() if _is_norm(each)}
    uses, calls = _Uses(), dict.fromkeys([*layers, *norms], 0)
    reads: dict[str, str] = {}

    def after(name: str, output: Any) -> None:
        calls[name] += 1
        if name in layers and isinstance(output, torch.Tensor):
            uses.note(output, name)

    def before(name: str, args: tuple[Any, ...]) -> None:
        layer = uses.layer_of(args[0]) if len(args) == 1 else None
        if layer is not None:
            reads[name] = layer

    with contextlib.ExitStack() as stack:
        for name, module in layers.items():
            hook = module.register_forward_hook(lambda _, __, out, name=name: after(name, out))
            stack.callback(hook.remove)
        for name, module in norms.items():
            first = module.register_forward_pre_hook(lambda _, args, name=name: before(name, args))
            last = module.register_forward_hook(lambda _, __, out, name=name: after(name, out))
            stack.callback(first.remove)
            stack.callback(last.remove)
        with uses:
            outputs = _outputs(model, inputs)
    returned = {uses.layer_of(each) for each in outputs}
    pairs = [
        (layer, norm)
        for norm, layer in reads.items()
        if calls[norm] == calls[layer] == uses.uses.get(layer) == 1 and layer not in returned
    ]
    return outputs, [pair for pair in pairs if not any(_between(name, *pair) for name in untouched)]


def _between(name: str, layer: str, norm: str) -> bool:
    """Whether a module may return the output of a layer, before its normalisation."""
    return name == layer or (layer.startswith(f"{name}.") and not norm.startswith(f"{name}."))


def _is_layer(module: nn.Module) -> bool:
    # torch folds transposed convolutions without groups only
    grouped = isinstance(module, nn.modules.conv._ConvTransposeNd) and module.groups > 1
    return type(module) in LAYERS and not grouped and _is_plain(module)


def _is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation by running statistics; timm's also has an activation."""
    found = type(module) in NORMS or (isinstance(module, NORMS) and type(module).__name__.startswith("BatchNormAct"))
    return found and _is_plain(module) and module.running_mean is not None


def _is_plain(module: nn.Module) -> bool:
    """Whether a module has no hooks, and holds its parameters itself."""
    hooks = (module._forward_hooks, module._forward_pre_hooks)
    return not any(hooks) and "forward" not in vars(module) and "parametrizations" not in module._modules


def _fold(model: nn.Module, layer: str, norm: str) -> None:
    """Fold a normalisation into a layer, in place."""
    first: Any = model.get_submodule(layer)
    second: Any = model.get_submodule(norm)
    if isinstance(first, nn.Linear):
        made: Any = fusion.fuse_linear_bn_eval(first, second)
    else:
        made = fusion.fuse_conv_bn_eval(first, second, isinstance(first, nn.modules.conv._ConvTransposeNd))
    rest = [each for each in (getattr(second, "drop", None), getattr(second, "act", None)) if each is not None]
    for name, module in ((layer, made), (norm, nn.Sequential(*rest) if rest else nn.Identity())):
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, module.eval().requires_grad_(False))


def _outputs(model: nn.Module, inputs: Any) -> list[torch.Tensor]:
    with eval_mode(model):
        torch.manual_seed(0)
        args, keywords = (), inputs if isinstance(inputs, dict) else {}
        if not isinstance(inputs, dict):
            args = inputs if isinstance(inputs, tuple) else (inputs,)
        found = model(*args, **keywords)
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]


def _alike(expected: list[torch.Tensor], found: list[torch.Tensor]) -> bool:
    return len(expected) == len(found) and all(
        one.shape == other.shape and _near(one.double(), other.double())
        for one, other in zip(expected, found, strict=True)
    )


def _near(one: torch.Tensor, other: torch.Tensor) -> bool:
    return not one.numel() or bool(((one - other).abs() <= TOLERANCE * one.abs().max()).all())
