"""Record of one forward pass on meta tensors: calls of modules with their attentions and reductions."""

from __future__ import annotations

import dataclasses as dc
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from edakari.graph import call, quick_meta, shadow_of
from edakari.graph.module_calls import told_of_calls
from edakari.surgery.tokens.biases import attention_arguments
from edakari.surgery.tokens.pooling import largest_over_tokens
from edakari.surgery.tokens.reductions import Reduction, reduction

__all__ = ["ModuleCall", "Watched", "chains", "hands_on", "watched"]


@dc.dataclass
class ModuleCall:
    """One call of a module.

    Args:
        path: dotted path of the module.
        order: index of the call among all calls.
        entering: shape of the first input tensor.
        leaving: shape of the first output tensor.
        convolution: whether the module is a convolution.
        attentions: shapes of the queries of attentions inside it.
        before: number of reductions in the network until the end of the call.
        reductions: reductions inside it, in order.
        alone: whether a single tensor is the only input.
        arguments: input arguments, stored for blocks that take a mask.
    """

    path: str
    order: int
    entering: tuple[int, ...]
    leaving: tuple[int, ...] = ()
    convolution: bool = False
    attentions: list[tuple[int, ...]] = dc.field(default_factory=list)
    before: int = 0
    reductions: list[Reduction] = dc.field(default_factory=list)
    alone: bool = False
    arguments: tuple[Any, Any] | None = None


class Watched(TorchFunctionMode):
    """Records the calls of modules, and the queries of the attentions inside each call."""

    def __init__(self, shadow: nn.Module, kind: str, keeping: str) -> None:
        """Args: `shadow` is a copy of the network on the meta device; `kind` is the name of the network's class;
        `keeping` is a forward parameter: the arguments of modules that have it are stored.
        """
        super().__init__()
        self.shadow, self.kind, self.keeping = shadow, kind, keeping
        self.calls: list[ModuleCall] = []
        self.open: list[ModuleCall] = []
        self.largest: list[tuple[int, ...]] = []
        self.reductions: list[Reduction] = []

    def entered(self, path: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Note the call of a module that begins now."""
        module = self.shadow.get_submodule(path)
        entry = ModuleCall(path, len(self.calls), first_shape((args, kwargs)))
        entry.alone = len(args) == 1 and isinstance(args[0], torch.Tensor) and not kwargs
        entry.convolution = isinstance(module, nn.modules.conv._ConvNd)
        if self.keeping and self.keeping in inspect.signature(type(module).forward).parameters:
            entry.arguments = args, kwargs
        self.calls.append(entry)
        self.open.append(entry)

    def left(self, path: str, output: Any) -> None:
        """Note what the module that ends now returned."""
        entry = self.open.pop()
        entry.leaving, entry.before = first_shape(output), len(self.reductions)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            self._attends((args[0].shape[1], args[4], args[0].shape[0]))
        if func is F.scaled_dot_product_attention:
            self._attends(tuple(attention_arguments(args, kwargs)["query"].shape[:-1]))
        found = reduction(func, args, kwargs)
        if found is not None:
            self.reductions.append(found)
            for entry in self.open:
                entry.reductions.append(found)
            if found.kind == "softmax" and found.x.dim() >= 3:
                self._attends(tuple(found.x.shape[:-1]))
        largest = largest_over_tokens(func, args, kwargs)
        if largest is not None:
            self.largest.append(tuple(largest.shape))
        return func(*args, **kwargs)

    def _attends(self, shape: tuple[int, ...]) -> None:
        for entry in self.open:
            entry.attentions.append(shape)


def watched(model: nn.Module, example: Any, keeping: str = "") -> Watched:
    """Record one forward pass of a network on meta tensors.

    Args:
        model: the network; it does not change.
        example: an example input of the network.
        keeping: name of a forward parameter; the arguments of modules that have it are stored.
    """
    shadow = shadow_of(model, "meta")
    watch = Watched(shadow, type(model).__name__, keeping)
    meta = tree_map(lambda x: x.to("meta") if isinstance(x, torch.Tensor) else x, example)
    with told_of_calls(shadow, watch.entered, watch.left), quick_meta(), watch:
        call(shadow, meta)
    return watch


def first_shape(tree: Any) -> tuple[int, ...]:
    """Return the shape of the first tensor in arguments or outputs."""
    return next((tuple(leaf.shape) for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)), ())


def chains(watch: Watched, dims: tuple[int, ...] = (3,)) -> Iterator[list[ModuleCall]]:
    """Yield, for each container, the calls of its children that take and return tensors of one shape.

    Args:
        watch: record of a forward pass.
        dims: possible numbers of dimensions of these tensors.
    """
    by_path: dict[str, list[ModuleCall]] = {}
    for entry in watch.calls:
        by_path.setdefault(entry.path, []).append(entry)
    for path, module in watch.shadow.named_modules():
        if not isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
            continue
        children = [by_path.get(f"{path}.{name}" if path else name, []) for name, _ in module.named_children()]
        found = [calls[0] for calls in children if len(calls) == 1]
        alike = [entry for entry in found if len(entry.entering) in dims and entry.entering == entry.leaving]
        if alike and len(alike) == len(children) and len({entry.entering for entry in alike}) == 1:
            yield sorted(alike, key=lambda entry: entry.order)


class _Masks(TorchFunctionMode):
    """Records the masks that reach `scaled_dot_product_attention`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.found.append(attention_arguments(args, kwargs).get("attn_mask"))
        if func is F.multi_head_attention_forward:
            self.found.append(None)
        return func(*args, **kwargs)


def hands_on(watch: Watched, entry: ModuleCall, mask: str, tokens: int) -> bool:
    """Return whether a block passes a mask [batch, 1, 1, tokens] unchanged to `scaled_dot_product_attention`.

    Args:
        watch: record of the forward pass.
        entry: the block's call.
        mask: name of the block's parameter.
        tokens: number of tokens at the block.
    """
    if entry.arguments is None:
        return False
    args, kwargs = entry.arguments
    if len(args) != 1 or kwargs.get(mask) is not None:
        return False
    bias = torch.zeros(entry.entering[0], 1, 1, tokens, dtype=args[0].dtype, device="meta")
    block, masks = watch.shadow.get_submodule(entry.path), _Masks()
    try:
        with quick_meta(), masks, torch.no_grad():
            type(block).forward(block, *args, **{**kwargs, mask: bias})
    except Exception:  # blocks may do anything with a mask of another shape
        return False
    return bool(masks.found) and all(
        isinstance(found, torch.Tensor) and tuple(found.shape) == tuple(bias.shape) for found in masks.found
    )
