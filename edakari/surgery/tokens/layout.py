"""Where the tokens of a vision transformer are: its blocks, its prefix and its grid, found by running it once."""

from __future__ import annotations

import dataclasses as dc
import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from edakari.errors import ModelError
from edakari.graph import call, shadow_of

__all__ = ["GridBlock", "GridStage", "TokenBlock", "TokenLayout", "grid_stages", "over_tokens", "token_layout"]

ATTENTIONS = (F.scaled_dot_product_attention, torch.softmax, torch.Tensor.softmax, F.softmax)
"""What every attention ends in."""
LARGEST = (torch.max, torch.Tensor.max, torch.amax, torch.Tensor.amax)
"""By which a head takes the largest over all tokens."""

_SEEN: weakref.WeakKeyDictionary[nn.Module, list[tuple[Any, TokenLayout]]] = weakref.WeakKeyDictionary()


@dc.dataclass(frozen=True, slots=True)
class TokenBlock:
    """One transformer block.

    Args:
        name: dotted path.
        heads: of its attention.
    """

    name: str
    heads: int


@dc.dataclass(frozen=True, slots=True)
class TokenLayout:
    """How a network keeps its tokens: [prefix | patches], the same in front of each block.

    Args:
        blocks: in the order of execution.
        prefix: tokens at the front that stand for no patch: class, distillation, registers.
        grid: rows and columns of patches.
        width: channels of a token.
        dense: whether the largest of what is said of each patch goes into the output, as in LV-ViT.
    """

    blocks: tuple[TokenBlock, ...]
    prefix: int
    grid: tuple[int, int]
    width: int
    dense: bool = False

    @property
    def patches(self) -> int:
        """Tokens that may be pruned."""
        return self.grid[0] * self.grid[1]

    @property
    def names(self) -> tuple[str, ...]:
        """Dotted paths of the blocks."""
        return tuple(block.name for block in self.blocks)


@dc.dataclass(frozen=True, slots=True)
class GridBlock:
    """One block of a stage.

    Args:
        name: dotted path.
        mlp: dotted path of its position-wise part.
        heads: of its attention.
    """

    name: str
    mlp: str
    heads: int


@dc.dataclass(frozen=True, slots=True)
class GridStage:
    """Blocks on one grid, in a network that has several.

    Args:
        blocks: in order.
        prefix: tokens at the front that stand for no position.
        grid: rows and columns of positions.
        width: channels of a position.
    """

    blocks: tuple[GridBlock, ...]
    prefix: int
    grid: tuple[int, int]
    width: int

    @property
    def patches(self) -> int:
        """Positions of the grid."""
        return self.grid[0] * self.grid[1]


def grid_stages(model: nn.Module, example: Any) -> tuple[GridStage, ...]:
    """The stages of a network that puts tokens back on a grid between them; none where it has one stage.

    Args:
        model: the network, without selectors.
        example: an input as the network takes it.
    """
    watch, shadow = _watched(model, example)
    chains = [chain for chain in _chains(watch, shadow, (3, 4)) if all(entry.attentions for entry in chain)]
    if len({chain[0].entering for chain in chains}) < 2:
        return ()
    return tuple(_stage(chain, watch, shadow) for chain in sorted(chains, key=lambda chain: chain[0].order))


def token_layout(model: nn.Module, example: Any) -> TokenLayout:
    """The blocks of a network and the form of its tokens; nothing is looked up by class or name.

    Blocks are the children of one container that each take and give tensors of the same form [batch, tokens, channels]
    and hold an attention over all tokens; patches are the positions of the last convolution in front of them.

    Args:
        model: the network, as it came: without selectors.
        example: an input as the network takes it.

    Raises:
        ModelError: the network has no such tokens, or the attention of a block cannot be masked; names the block.
    """
    shapes = [tuple(leaf.shape) for leaf in tree_leaves(example) if isinstance(leaf, torch.Tensor)]
    for known, layout in _SEEN.get(model, ()):
        if known == shapes:
            return layout
    watch, shadow = _watched(model, example)
    layout = _layout(watch, shadow, type(model).__name__)
    _SEEN.setdefault(model, []).append((shapes, layout))
    return layout


def _watched(model: nn.Module, example: Any) -> tuple[_Watch, nn.Module]:
    """The calls of one forward pass on tensors without data, and the network that made them."""
    shadow, watch = shadow_of(model, "meta"), _Watch()
    for path, module in shadow.named_modules():
        module.register_forward_pre_hook(watch.entering(path), with_kwargs=True)
        module.register_forward_hook(watch.leaving(path, isinstance(module, nn.modules.conv._ConvNd)))
    meta = torch.utils._pytree.tree_map(lambda x: x.to("meta") if isinstance(x, torch.Tensor) else x, example)
    with watch:
        call(shadow, meta)
    return watch, shadow


@dc.dataclass
class _Call:
    """One call of a module: forms of the first tensors in and out, and of the attentions in it."""

    path: str
    order: int
    entering: tuple[int, ...]
    leaving: tuple[int, ...] = ()
    convolution: bool = False
    attentions: list[tuple[int, ...]] = dc.field(default_factory=list)


class _Watch(TorchFunctionMode):
    """Notes the calls of modules, and for each the queries of attentions that run in it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self.open: list[_Call] = []
        self.largest: list[tuple[int, ...]] = []

    def entering(self, path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            entry = _Call(path, len(self.calls), _first((args, kwargs)))
            self.calls.append(entry)
            self.open.append(entry)

        return hook

    def leaving(self, path: str, convolution: bool) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            entry = self.open.pop()
            entry.leaving, entry.convolution = _first(output), convolution

        return hook

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            self._attends((args[0].shape[1], args[4], args[0].shape[0]))
        if func in ATTENTIONS and args[0].dim() >= 3:
            self._attends(tuple(args[0].shape[:-1]))
        if over_tokens(func, args, kwargs):
            self.largest.append(tuple(args[0].shape))
        return func(*args, **kwargs)

    def _attends(self, shape: tuple[int, ...]) -> None:
        for entry in self.open:
            entry.attentions.append(shape)


def over_tokens(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call takes the largest over the second dimension of a tensor [batch, tokens, channels]."""
    if func not in LARGEST or not args or not isinstance(args[0], torch.Tensor) or args[0].dim() != 3:
        return False
    return kwargs.get("dim", args[1] if len(args) > 1 else None) in (1, -2, (1,), [1])


def _first(tree: Any) -> tuple[int, ...]:
    return next((tuple(leaf.shape) for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)), ())


def _layout(watch: _Watch, model: nn.Module, kind: str) -> TokenLayout:
    chains = list(_chains(watch, model))
    if len({chain[0].entering[1] for chain in chains if len(chain) > 1 and chain[0].attentions}) > 1:
        raise ModelError(
            f"{kind} puts its tokens on a grid between stages, so that they cannot be removed; 'spvit', 'dynamicvit' "
            "and 'random_tokens' let positions skip the MLPs of a stage instead (docs/tokens.md)"
        )
    calls = max(chains, key=len, default=[])
    if len(calls) < 2:
        raise ModelError(
            f"{kind} has no tokens to prune: no container in it holds blocks that take and give tensors of one form "
            "[batch, tokens, channels]; token pruning is for vision transformers"
        )
    _, tokens, width = calls[0].entering
    for entry in calls:
        if not any(shape[-1] == tokens for shape in entry.attentions):
            raise ModelError(
                f"the attention of block {entry.path!r} of {kind} cannot be wrapped: none of its "
                f"{len(entry.attentions)} softmaxes and scaled dot products runs over its {tokens} tokens"
            )
    found = [
        entry.leaving[-2:]
        for entry in watch.calls
        if entry.convolution and entry.order < calls[0].order and len(entry.leaving) == 4
    ]
    grids = [grid for grid in found if grid[0] * grid[1] <= tokens]
    if not grids:
        raise ModelError(f"{kind} has {tokens} tokens, but no convolution in front of its blocks tells their grid")
    grid = (int(grids[-1][0]), int(grids[-1][1]))
    blocks = tuple(TokenBlock(entry.path, _heads(entry, tokens)) for entry in calls)
    patches = math.prod(grid)
    largest = any(shape[1] in (tokens, patches) for shape in watch.largest)
    return TokenLayout(blocks, tokens - patches, grid, width, largest)


def _stage(chain: list[_Call], watch: _Watch, model: nn.Module) -> GridStage:
    shape = chain[0].entering
    blocks = tuple(GridBlock(entry.path, _mlp(entry, watch, model), _any_heads(entry)) for entry in chain)
    if len(shape) == 4:
        return GridStage(blocks, 0, (shape[1], shape[2]), shape[-1])
    found = [entry.leaving[-2:] for entry in watch.calls if entry.convolution and entry.order < chain[0].order]
    grids = [(each[0], each[1]) for each in found if len(each) == 2 and each[0] * each[1] <= shape[1]]
    grid = grids[-1] if grids else (1, shape[1])
    return GridStage(blocks, shape[1] - math.prod(grid), grid, shape[-1])


def _mlp(block: _Call, watch: _Watch, model: nn.Module) -> str:
    """The child of a block that works position by position and has most weights."""
    found = {
        entry.path: sum(parameter.numel() for parameter in model.get_submodule(entry.path).parameters())
        for entry in watch.calls
        if entry.path.rpartition(".")[0] == block.path and not entry.attentions and entry.entering == entry.leaving
    }
    if not found:
        raise ModelError(f"no part of block {block.path!r} works position by position; none of its work can be skipped")
    return max(found, key=lambda path: found[path])


def _any_heads(block: _Call) -> int:
    return max(shape[1] if len(shape) >= 3 else 1 for shape in block.attentions)


def _chains(watch: _Watch, model: nn.Module, dims: tuple[int, ...] = (3,)) -> Iterator[list[_Call]]:
    """For each container, the calls of its children that take and give tokens of one form."""
    by_path: dict[str, list[_Call]] = {}
    for entry in watch.calls:
        by_path.setdefault(entry.path, []).append(entry)
    for path, module in model.named_modules():
        if not isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
            continue
        children = [by_path.get(f"{path}.{name}" if path else name, []) for name, _ in module.named_children()]
        found = [calls[0] for calls in children if len(calls) == 1]
        alike = [entry for entry in found if len(entry.entering) in dims and entry.entering == entry.leaving]
        if alike and len(alike) == len(children) and len({entry.entering for entry in alike}) == 1:
            yield sorted(alike, key=lambda entry: entry.order)


def _heads(entry: _Call, tokens: int) -> int:
    return next(shape[1] if len(shape) >= 3 else 1 for shape in entry.attentions if shape[-1] == tokens)
