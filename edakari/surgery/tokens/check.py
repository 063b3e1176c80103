"""Check on a copy of the network that masked tokens and removed tokens give the same outputs."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from edakari.core.copying import copied
from edakari.errors import ModelError
from edakari.graph import call
from edakari.surgery.tokens.adaptive import Adaptive
from edakari.surgery.tokens.gate import GATE
from edakari.surgery.tokens.selectors import Candidates, Verdict
from edakari.surgery.tokens.state import Decision

__all__ = ["Places", "check_masking"]

IMAGES = 2
"""Number of images of the check: with one image, networks that confuse images and heads would pass."""
WAYS = ((torch.float64, True, 1e-5), (torch.float64, False, 1e-5), (torch.float32, False, 1e-3))
"""Precision of the copy, whether its weights are perturbed, and the tolerance; the first that runs is used."""


@dc.dataclass(frozen=True)
class Places:
    """Positions of tokens in a network.

    Args:
        blocks: dotted paths of the blocks, in the order of execution.
        prefix: number of tokens that are never pruned.
        patches: number of patches of the dense network; 0 if pruned positions stay in their tensors.
    """

    blocks: tuple[str, ...]
    prefix: int
    patches: int


@dc.dataclass
class _Pass:
    """One forward pass: outputs of each block and of the network, and the decisions of selectors."""

    blocks: dict[str, torch.Tensor] = dc.field(default_factory=dict)
    outputs: list[torch.Tensor] = dc.field(default_factory=list)
    decisions: tuple[Decision, ...] = ()

    @property
    def finite(self) -> bool:
        """Whether all outputs are finite."""
        return all(bool(each.isfinite().all()) for each in self.outputs if each.is_floating_point())


class _Scattered(nn.Module):
    """Replaces a selector: gives random scores, different for each patch of each image."""

    def __init__(self, selector: nn.Module, patches: int, seed: int, like: torch.Tensor) -> None:
        super().__init__()
        self.selector = selector
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.rand(2, IMAGES, patches, generator=generator).to(like)
        self.score, self.weight = drawn[0], 0.1 + drawn[1]

    def forward(self, seen: Candidates) -> Verdict:
        """See `edakari.surgery.tokens.selectors.Selector`."""
        self.selector(seen)  # what it cannot do is told now
        return Verdict(self.score.gather(1, seen.index), self.weight.gather(1, seen.index))


def check_masking(model: nn.Module, put: Callable[[nn.Module], nn.Module], indices: Places, example: Any) -> None:
    """Raise an error if masked tokens and removed tokens give different outputs.

    Args:
        model: the network without selectors; it does not change.
        put: function that attaches the selectors to a copy of the network.
        indices: positions of its tokens.
        example: an example input of the network.

    Raises:
        ModelError: outputs differ; the message names the first block that differs, or the part after the blocks.
    """
    failure: ModelError | None = None
    for dtype, unlike, tolerance in WAYS:
        twin = put(_copy(model, dtype, unlike))
        _scatter(twin, indices.patches)
        inputs = _inputs(example, next(twin.parameters()))
        try:
            removed = _run(twin, "topk", inputs, indices)
            masked = _run(twin, "mask", inputs, indices)
        except ModelError as error:
            failure = failure or error
            continue
        if removed.finite:
            _compare(removed, masked, indices, tolerance, type(model).__name__)
            return
        failure = failure or ModelError(f"the outputs of {type(model).__name__} are not finite with fewer tokens")
    assert failure is not None
    raise failure


def _copy(model: nn.Module, dtype: torch.dtype, unlike: bool) -> nn.Module:
    """Copy a network with slightly perturbed weights, none of them 0: a zero part would hide the rest."""
    twin: nn.Module = copied(model).requires_grad_(False).to(dtype=dtype).eval()
    if next(twin.parameters()).device.type == "mps":  # MPS has no float64
        twin = twin.cpu()
    generator = torch.Generator().manual_seed(0)
    for parameter in twin.parameters() if unlike else ():
        if parameter.is_floating_point():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32).to(parameter)
            parameter.add_(noise * max(0.02, 0.1 * float(parameter.norm()) / max(1, parameter.numel()) ** 0.5))
    return twin


def _scatter(twin: nn.Module, patches: int) -> None:
    for seed, (path, gate) in enumerate(list(twin.named_modules())):
        if path.rpartition(".")[2] != GATE:
            continue
        owner = getattr(gate, "step", None) or gate
        selector = getattr(owner, "selector", None)
        if isinstance(selector, nn.Module):
            count = patches or gate.stage.patches
            like = next(twin.parameters())
            owner.selector = _Scattered(selector, int(count), seed, like)


def _inputs(example: Any, like: torch.Tensor) -> Any:
    """Make random inputs with the structure of an example, for `IMAGES` images."""
    tensors = [leaf for leaf in tree_leaves(example) if isinstance(leaf, torch.Tensor) and leaf.dim()]
    batch = tensors[0].shape[0] if tensors else 1
    generator = torch.Generator().manual_seed(0)

    def made(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        several = leaf.dim() and leaf.shape[0] == batch
        if not leaf.is_floating_point():
            return leaf[:1].expand(IMAGES, *leaf.shape[1:]).to(like.device) if several else leaf.to(like.device)
        shape = (IMAGES, *leaf.shape[1:]) if several else leaf.shape
        return torch.randn(shape, generator=generator).to(like)

    return tree_map(made, example)


def _run(twin: nn.Module, strategy: Any, inputs: Any, indices: Places) -> _Pass:
    found, runner = _Pass(), Adaptive(twin, strategy, "count").eval()
    handles = [twin.get_submodule(name).register_forward_hook(_noting(found, name)) for name in indices.blocks]
    try:
        found.outputs = list(_tensors(call(runner, inputs)))
    except ModelError as error:
        where = _after(found, indices)
        raise ModelError(
            f"{type(twin).__name__} does not run with fewer tokens: {where} "
            f"({type(error.__cause__).__name__}: {error.__cause__}). Its code may fix the number of tokens, or put "
            "them back on a grid; tokens of such networks cannot be removed"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    found.decisions = runner.decisions
    return found


def _noting(found: _Pass, name: str) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        found.blocks[name] = output[0] if isinstance(output, tuple) else output

    return hook


def _after(found: _Pass, indices: Places) -> str:
    """Describe which part of a pass was running."""
    if len(found.blocks) == len(indices.blocks):
        return f"the part after its last block {indices.blocks[-1]!r} fails"
    return f"its block {indices.blocks[len(found.blocks)]!r} fails"


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in a network's outputs; transformers returns mappings of its own."""
    for leaf in tree_leaves(tree):
        if isinstance(leaf, torch.Tensor):
            yield leaf
        elif isinstance(leaf, Mapping):
            yield from _tensors(dict(leaf))


def _compare(removed: _Pass, masked: _Pass, indices: Places, tolerance: float, kind: str) -> None:
    for name, wanted in removed.blocks.items():
        kept = _kept_until(name, masked, indices)
        difference = _difference(wanted, masked.blocks[name], kept, indices)
        if not difference <= tolerance:
            raise ModelError(
                f"masked and removed tokens give different outputs in block {name!r} of {kind}: the outputs of the "
                f"remaining tokens differ by {difference:.2g} of the largest. Another operation than a softmax, a "
                "scaled dot product, a mean, a sum or a maximum mixes tokens in the block, or masked tokens have weight"
            )
    kept = _kept_until(indices.blocks[-1], masked, indices)
    for wanted, found in zip(removed.outputs, masked.outputs, strict=True):
        difference = _difference(wanted, found, kept, indices)
        if not difference <= tolerance:
            raise ModelError(
                "masked and removed tokens give different outputs "
                f"after the last block {indices.blocks[-1]!r} of {kind}: "
                f"outputs differ by {difference:.2g} of the largest. After the blocks, tokens may be pooled by a mean, "
                "a sum, a maximum, a softmax or an attention; a median, a sort or a variance cannot be masked"
            )


def _kept_until(name: str, masked: _Pass, indices: Places) -> torch.Tensor | None:
    """Return the remaining patches after a block, [B, N]; None if all remain, or if positions stay."""
    if not indices.patches:
        return None
    before = indices.blocks[: indices.blocks.index(name) + 1]
    return next((each.kept for each in reversed(masked.decisions) if each.block in before), None)


def _difference(wanted: torch.Tensor, found: torch.Tensor, kept: torch.Tensor | None, indices: Places) -> float:
    """Compute the largest difference as a fraction of the largest value, over the remaining tokens."""
    if kept is not None and wanted.dim() == 3 and wanted.shape != found.shape:
        end, count = indices.prefix + indices.patches, int(kept[0].sum())
        if not found.shape[1] >= end or wanted.shape[1] < indices.prefix + count:
            return 0.0
        left = kept.bool()[..., None]
        rows = found[:, indices.prefix : end].masked_select(left).view(len(found), count, -1)
        found = torch.cat([found[:, : indices.prefix], rows], 1)
        wanted = wanted[:, : indices.prefix + count]
    if wanted.shape != found.shape or not wanted.is_floating_point():
        return 0.0
    return float((wanted - found).abs().max() / wanted.abs().max().clamp_min(1e-12)) if wanted.numel() else 0.0
