"""One forward pass on tensors without data: the calls of modules, and the attentions and maxima in them."""

from __future__ import annotations

import dataclasses as dc
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from edakari.graph import call, quick_meta, shadow_of
from edakari.surgery.tokens.biases import attention_arguments
from edakari.surgery.tokens.pooling import largest_over_tokens
from edakari.surgery.tokens.reductions import Reduction, reduction

__all__ = ["ModuleCall", "Watched", "chains", "hands_on", "watched"]


@dc.dataclass
class ModuleCall:
    """One call of a module.

    Args:
        path: dotted path of the module.
        order: of the call among all.
        entering: shape of the first tensor in.
        leaving: shape of the first tensor out.
        convolution: whether the module is one.
        attentions: shapes of the queries of attentions in it.
        before: reductions of the whole network until it was left.
        reductions: in it, in order.
        alone: whether one tensor and nothing else went in.
        arguments: what went in, kept for blocks that take a mask.
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
    """Notes the calls of modules, and for each the queries of attentions that run in it."""

    def __init__(self, shadow: nn.Module, kind: str) -> None:
        """Args: a copy of the network without data; `kind` is the name of the network's class."""
        super().__init__()
        self.shadow, self.kind = shadow, kind
        self.calls: list[ModuleCall] = []
        self.open: list[ModuleCall] = []
        self.largest: list[tuple[int, ...]] = []
        self.reductions: list[Reduction] = []

    def entering(self, path: str, keep: bool) -> Any:
        """The hook in front of a module."""

        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            alone = len(args) == 1 and isinstance(args[0], torch.Tensor) and not kwargs
            entry = ModuleCall(path, len(self.calls), first_shape((args, kwargs)), alone=alone)
            entry.arguments = (args, kwargs) if keep else None
            self.calls.append(entry)
            self.open.append(entry)

        return hook

    def leaving(self, convolution: bool) -> Any:
        """The hook behind a module."""

        def hook(module: nn.Module, args: Any, output: Any) -> None:
            entry = self.open.pop()
            entry.leaving, entry.convolution = first_shape(output), convolution
            entry.before = len(self.reductions)

        return hook

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
    """The calls of one forward pass of a network on tensors without data.

    Args:
        model: the network; stays as it is.
        example: an input as the network takes it.
        keeping: name of a parameter of forward; modules that have it keep their arguments.
    """
    shadow = shadow_of(model, "meta")
    watch = Watched(shadow, type(model).__name__)
    for path, module in shadow.named_modules():
        keep = bool(keeping) and keeping in inspect.signature(type(module).forward).parameters
        module.register_forward_pre_hook(watch.entering(path, keep), with_kwargs=True)
        module.register_forward_hook(watch.leaving(isinstance(module, nn.modules.conv._ConvNd)))
    meta = tree_map(lambda x: x.to("meta") if isinstance(x, torch.Tensor) else x, example)
    with quick_meta(), watch:
        call(shadow, meta)
    return watch


def first_shape(tree: Any) -> tuple[int, ...]:
    """The shape of the first tensor in arguments or outputs."""
    return next((tuple(leaf.shape) for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)), ())


def chains(watch: Watched, dims: tuple[int, ...] = (3,)) -> Iterator[list[ModuleCall]]:
    """For each container, the calls of its children that take and give tensors of one form.

    Args:
        watch: of a forward pass.
        dims: of such tensors.
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
    """Notes the masks that reach `scaled_dot_product_attention`."""

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
    """Whether a block hands a mask [batch, 1, 1, tokens] on to `scaled_dot_product_attention` as it is.

    Args:
        watch: of the forward pass.
        entry: the block's call.
        mask: name of the block's parameter.
        tokens: that the block gets.
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
    except Exception:  # whatever a block does with a mask in another form
        return False
    return bool(masks.found) and all(
        isinstance(found, torch.Tensor) and tuple(found.shape) == tuple(bias.shape) for found in masks.found
    )
