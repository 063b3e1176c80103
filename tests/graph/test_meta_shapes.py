"""Shortcuts on meta tensors against the operators themselves: shape, type and order in memory of every result."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch.utils._pytree import tree_leaves, tree_map

import edakari
from edakari.graph import meta, quick_meta
from edakari.graph.meta_shapes import SHORTCUTS

X = torch.zeros(2, 6, 5, 4)
ROWS = torch.zeros(3, 7, 6)
SIX = torch.ones(6)
TURNED = ROWS.transpose(0, 1)
WIDE = torch.zeros(6, 6)

CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "relu": (F.relu, (X,)),
    "relu of a transposed tensor": (F.relu, (TURNED,)),
    "relu in place": (lambda x: x.clone().relu_(), (TURNED,)),
    "gelu": (F.gelu, (ROWS,)),
    "sigmoid": (torch.sigmoid, (ROWS,)),
    "rsqrt": (torch.rsqrt, (ROWS,)),
    "power": (lambda x: x**2, (ROWS,)),
    "power of tensors": (torch.pow, (ROWS, ROWS)),
    "negation": (torch.neg, (X,)),
    "softmax": (lambda x: x.softmax(-1), (ROWS,)),
    "softmax in another type": (lambda x: x.softmax(-1, dtype=torch.float64), (ROWS,)),
    "sum": (torch.add, (X, X)),
    "sum with a number": (lambda x: x + 1, (X,)),
    "sum with a larger tensor": (torch.add, (SIX, ROWS)),
    "sum of a row and a column": (torch.add, (torch.zeros(3, 1), torch.zeros(1, 4))),
    "sum of types": (torch.add, (ROWS, ROWS.double())),
    "sum of integers": (lambda x: x.long() + 1.5, (ROWS,)),
    "sum with a transposed tensor": (torch.add, (TURNED, TURNED)),
    "sum in place": (lambda x, y: x.clone().add_(y), (ROWS, SIX)),
    "sum in place, too small": (lambda x, y: x.clone().add_(y), (SIX, ROWS)),
    "sum that does not fit": (torch.add, (ROWS, torch.zeros(5))),
    "difference from a number": (lambda x: 1 - x, (ROWS,)),
    "quotient": (lambda x: x / 3, (ROWS,)),
    "rounded quotient": (lambda x: torch.div(x, 3, rounding_mode="floor"), (ROWS,)),
    "mean": (lambda x: x.mean((2, 3)), (X,)),
    "mean that stays": (lambda x: x.mean((2, 3), keepdim=True), (X,)),
    "mean of a transposed tensor": (lambda x: x.mean((0,), keepdim=True), (TURNED,)),
    "mean in another type": (lambda x: x.mean((2, 3), dtype=torch.float64), (X,)),
    "mean of everything": (torch.mean, (X,)),
    "mean of a missing dimension": (lambda x: x.mean((5,)), (X,)),
    "total": (lambda x: x.sum((1,)), (ROWS,)),
    "largest": (lambda x: torch.amax(x, (1,), keepdim=True), (ROWS,)),
    "variance": (lambda x: x.var((1, 2), correction=0, keepdim=True), (ROWS,)),
    "variance by number": (lambda x: x.var((1,), True, True), (ROWS,)),
    "variance and mean": (lambda x: torch.var_mean(x, (1,), keepdim=True), (ROWS,)),
    "standard deviation": (lambda x: torch.std_mean(x, (0, 1)), (ROWS,)),
    "clone": (torch.clone, (TURNED,)),
    "contiguous": (lambda x: x.contiguous(), (TURNED,)),
    "channels last": (lambda x: x.contiguous(memory_format=torch.channels_last), (X,)),
    "concatenation": (lambda x: torch.cat([x, x[:, :2]], 1), (X.clone(),)),
    "concatenation from behind": (lambda x: torch.cat((x, x), dim=-1), (ROWS,)),
    "concatenation that does not fit": (lambda x, y: torch.cat([x, y]), (ROWS, torch.zeros(1, 2, 6))),
    "concatenation of ranks": (lambda x, y: torch.cat([x, y]), (ROWS, SIX)),
    "stack": (lambda x: torch.stack([x, x], 1), (ROWS,)),
    "stack at the end": (lambda x: torch.stack([x, x], -1), (ROWS,)),
    "stack that does not fit": (lambda x, y: torch.stack([x, y]), (ROWS, SIX)),
    "roll": (lambda x: torch.roll(x, (2, 1), (1, 2)), (ROWS,)),
    "roll of everything": (lambda x: torch.roll(x, 3), (ROWS,)),
    "flip": (lambda x: x.flip(1), (ROWS,)),
    "convolution": (lambda x, w: F.conv2d(x, w, None, 2, 1), (X, torch.zeros(8, 6, 3, 3))),
    "convolution of a wrong width": (F.conv2d, (X, torch.zeros(8, 5, 3, 3))),
    "convolution of a permuted tensor": (
        F.conv2d,
        (torch.zeros(2, 5, 4, 6).permute(0, 3, 1, 2), WIDE[..., None, None]),
    ),
    "grouped convolution": (lambda x, w: F.conv1d(x, w, groups=7), (ROWS, torch.zeros(14, 1, 3))),
    "batch norm": (F.batch_norm, (X, SIX, SIX, SIX, SIX)),
    "batch norm without scale": (F.batch_norm, (X, SIX, SIX)),
    "batch norm of a wrong width": (F.batch_norm, (X, torch.ones(5), torch.ones(5), SIX, SIX)),
    "batch norm in training": (lambda x: F.batch_norm(x, None, None, training=True), (X,)),
    "batch norm of one value": (lambda x: F.batch_norm(x[:1, :, 0, 0], None, None, training=True), (X,)),
    "layer norm": (lambda x, w: F.layer_norm(x, (6,), w, w), (ROWS, SIX)),
    "layer norm by torch's function": (lambda x: torch.layer_norm(x, (6,)), (ROWS,)),
    "layer norm of a transposed tensor": (lambda x: F.layer_norm(x, (6,)), (TURNED,)),
    "layer norm of a wrong width": (lambda x: F.layer_norm(x, (5,)), (ROWS,)),
    "layer norm of a wrong weight": (lambda x: F.layer_norm(x, (6,), torch.ones_like(x[0, 0, :5])), (ROWS,)),
    "rms norm": (lambda x, w: F.rms_norm(x, (6,), w), (ROWS, SIX)),
    "rms norm of a wrong width": (lambda x: F.rms_norm(x, (5,)), (ROWS,)),
    "group norm": (lambda x, w: F.group_norm(x, 3, w, w), (X, SIX)),
    "group norm of odd groups": (lambda x: F.group_norm(x, 4), (X,)),
    "linear": (F.linear, (ROWS, WIDE, SIX)),
    "linear of a wrong width": (F.linear, (X, WIDE)),
    "linear of a wrong bias": (F.linear, (ROWS, WIDE, torch.ones(5))),
    "product": (torch.matmul, (WIDE, WIDE)),
    "batched product": (torch.bmm, (ROWS, ROWS.transpose(1, 2))),
    "batched product that does not fit": (torch.bmm, (ROWS, ROWS)),
    "product of a wrong width": (torch.mm, (WIDE, WIDE[:5])),
    "added product": (torch.addmm, (SIX, WIDE, WIDE)),
    "added product that does not fit": (torch.addmm, (SIX[:5], WIDE, WIDE)),
    "added batched product": (torch.baddbmm, (ROWS[:, :1, :7].mT[:, :1], ROWS, ROWS.transpose(1, 2))),
    "attention": (lambda q: F.scaled_dot_product_attention(q, q, q), (torch.zeros(2, 3, 7, 6),)),
    "attention with a mask": (
        lambda q, mask: F.scaled_dot_product_attention(q, q, q, attn_mask=mask),
        (torch.zeros(2, 3, 7, 6), torch.zeros(7, 7)),
    ),
    "attention with a wrong mask": (
        lambda q, mask: F.scaled_dot_product_attention(q, q, q, attn_mask=mask),
        (torch.zeros(2, 3, 7, 6), torch.zeros(6, 6)),
    ),
    "upsampling": (lambda x: F.interpolate(x, scale_factor=2, mode="nearest"), (X,)),
    **{
        f"{kind.__name__}{'' if along else ' over time'}, {turns}x{layers}": (
            lambda x, kind=kind, along=along, turns=turns, layers=layers: kind(
                6, 5, layers, batch_first=along, bidirectional=turns == 2, device=x.device
            )(x),
            (ROWS,),
        )
        for kind in (nn.LSTM, nn.GRU, nn.RNN)
        for along in (True, False)
        for turns, layers in ((1, 1), (2, 2))
    },
    "LSTM with a projection": (lambda x: nn.LSTM(6, 5, proj_size=3, bidirectional=True, device=x.device)(x), (ROWS,)),
    "LSTM of a wrong width": (lambda x: nn.LSTM(5, 5, device=x.device)._forward_unchecked(x), (ROWS,)),
}


def outcome(call: Callable[..., Any], args: tuple[Any, ...]) -> list[Any] | None:
    """Shape, type and strides of each result; None if the call fails."""
    try:
        with torch.no_grad():
            found = call(*args)
    except (RuntimeError, ValueError, IndexError, AssertionError, AttributeError):
        return None
    leaves = [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]
    lengths = [[n for n, length in zip(x.stride(), x.shape, strict=True) if length > 1] for x in leaves]
    return [(tuple(x.shape), x.dtype, strides) for x, strides in zip(leaves, lengths, strict=True)]


@pytest.mark.parametrize("name", CALLS)
def test_a_shortcut_gives_what_the_operator_gives(name: str) -> None:
    call, args = CALLS[name]
    on_meta = tree_map(lambda x: x.to("meta"), args)
    with quick_meta():
        found = outcome(call, on_meta)
    assert found in (outcome(call, args), outcome(call, on_meta))


def test_every_shortcut_is_taken_by_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: collections.Counter[str] = collections.Counter()

    def counted(name: str, shortcut: Any) -> Any:
        def call(args: Any, kwargs: Any) -> Any:
            found = shortcut(args, kwargs)
            taken[name] += found is not None
            return found

        return call

    monkeypatch.setattr(meta, "SHORTCUTS", {name: counted(name, shortcut) for name, shortcut in SHORTCUTS.items()})
    for call, args in CALLS.values():
        with quick_meta():
            outcome(call, tree_map(lambda x: x.to("meta"), args))
    functions = {SHORTCUTS[name] for name in taken if taken[name]}
    assert {shortcut.__name__ for shortcut in SHORTCUTS.values()} == {shortcut.__name__ for shortcut in functions}


class Turned(nn.Module):
    """Flattens in memory order after an activation of a transposed tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.conv(x).permute(0, 2, 3, 1).relu() + 1.0
        return self.head(hidden.permute(0, 3, 1, 2).mean(1).view(len(x), -1))


def test_a_view_of_an_activation_of_a_transposed_tensor_is_traced() -> None:
    graph = edakari.trace(Turned(), torch.zeros(2, 3, 4, 4))
    assert [group.name for group in graph.groups] == ["conv"]
