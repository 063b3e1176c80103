"""Gradient checkpointing changes no gradient of networks with selectors, reentrant or not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from edakari.core.plan import KeepTokens
from edakari.errors import ModelError
from edakari.surgery.tokens import Adaptive, attach
from edakari.surgery.tokens.state import PASSES
from tests.surgery.tokens.handmade import HandBlock, HandViT
from tests.surgery.tokens.networks import enlivened, images, tiny

Gradients = dict[str, torch.Tensor]


def gradients(model: nn.Module, x: torch.Tensor, rule: str, backwards: int = 1) -> Gradients:
    """Of a loss that reads outputs, what was kept, and scores."""
    torch.manual_seed(3)
    runner = Adaptive(model, training_rule=rule).train()  # type: ignore[arg-type]
    losses = []
    for part in x.chunk(backwards):
        out = runner(part)
        loss = out.pow(2).sum() + sum((each.kept.mean() - 0.2) ** 2 for each in runner.decisions)
        losses.append(loss + 0.1 * sum(each.score.clamp(-9, 9).pow(2).mean() for each in runner.decisions))
    torch.stack(losses).sum().backward()
    return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def same(found: Gradients, wanted: Gradients) -> None:
    assert found.keys() == wanted.keys()
    assert sum("token_gate" in name for name in wanted) > 8
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-11, rtol=1e-9, msg=name)


@pytest.mark.parametrize("rule", ["count", "sample"])
@pytest.mark.parametrize("package", ["append", "merge", "none"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_stay(reentrant: bool, package: str, rule: str) -> None:
    settings = (("package", package), ("proportional", package == "append"))
    edits = [KeepTokens("blocks.1", 9, "spvit", settings), KeepTokens("blocks.2", 5, "spvit", settings)]
    x = images(4, 16)
    plain = attach(enlivened(HandViT(pool="mean")), edits, x[:1])
    model = copy.deepcopy(plain)
    model.reentrant = reentrant
    wanted = gradients(plain, x, rule)
    same(gradients(model, x, rule), wanted)
    model.zero_grad()
    same(gradients(model, x, rule), wanted)  # nothing is left over from the first step


@pytest.mark.parametrize("reentrant", [False, True])
def test_two_passes_before_one_backward(reentrant: bool) -> None:
    x = images(4, 16)
    plain = attach(enlivened(HandViT()), [KeepTokens("blocks.1", 9, "spvit")], x[:1])
    model = copy.deepcopy(plain)
    model.reentrant = reentrant
    same(gradients(model, x, "count", 2), gradients(plain, x, "count", 2))


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_attention_gave_has_its_gradient(reentrant: bool) -> None:
    """EViT's fused token is weighted by the attention of the block before."""
    x = images(3, 16)
    plain = enlivened(HandViT("attn_mask"))
    settings = (("package", "append"), ("package_norm", "sum"))
    attach(plain, [KeepTokens("blocks.1", 9, "evit", settings), KeepTokens("blocks.3", 5, "evit", settings)], x[:1])
    model = copy.deepcopy(plain)
    model.reentrant = reentrant
    for each in (plain, model):
        each.train()(x).pow(2).sum().backward()
    for (name, found), wanted in zip(model.named_parameters(), plain.parameters(), strict=True):
        if wanted.grad is not None:
            torch.testing.assert_close(found.grad, wanted.grad, atol=1e-11, rtol=1e-9, msg=name)


def test_what_is_not_known_any_more_is_told() -> None:
    x = images(2, 16)
    model = attach(enlivened(HandViT(reentrant=False)), [KeepTokens("blocks.1", 9, "spvit")], x[:1])
    runner = Adaptive(model).train()
    first = runner(x).sum()
    for _ in range(PASSES):
        later = runner(x).sum()
    later.backward()
    with pytest.raises(ModelError, match="only 16 forward passes"):
        first.backward()


class InParts(nn.Module):
    """Several blocks in one part that is computed again."""

    def __init__(self, blocks: nn.ModuleList, reentrant: bool, size: int) -> None:
        super().__init__()
        self.blocks, self.reentrant, self.size = blocks, reentrant, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for first in range(0, len(self.blocks), self.size):
            part = self.blocks[first : first + self.size]
            x = checkpoint(lambda x, part=part: nn.Sequential(*part)(x), x, use_reentrant=self.reentrant)
        return x


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("reentrant", [False, True])
def test_several_blocks_in_one_part(reentrant: bool, size: int) -> None:
    x = images(3, 16)
    edits = [KeepTokens("blocks.1", 9, "spvit"), KeepTokens("blocks.2", 5, "spvit")]
    plain = attach(enlivened(HandViT()), edits, x[:1])
    model = copy.deepcopy(plain)
    parts = InParts(model.blocks, reentrant, size)
    model.forward = lambda x: _through(model, parts, x)
    same(gradients(model, x, "count"), gradients(plain, x, "count"))


def _through(model: nn.Module, parts: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    x = model.patch_embed(x).flatten(2).transpose(1, 2)
    x = parts(torch.cat([model.cls_token.expand(len(x), -1, -1), x], 1) + model.pos_embed)
    out: torch.Tensor = model.head(model.norm(x)[:, 0])
    return out


def test_timm() -> None:
    x = images(3)
    plain = attach(tiny(), [KeepTokens("blocks.2", 20, "spvit"), KeepTokens("blocks.4", 11, "spvit")], x[:1])
    model = copy.deepcopy(plain)
    model.set_grad_checkpointing(True)
    same(gradients(model, x, "sample"), gradients(plain, x, "sample"))


def test_stages() -> None:
    options = {"window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2), "num_classes": 5}
    plain = enlivened(timm.models.swin_transformer.SwinTransformer(patch_size=4, img_size=32, **options))
    attach(plain, [KeepTokens("layers.0.blocks.0", 20, "spvit")], images(1, 32, 3))
    model = copy.deepcopy(plain)
    model.set_grad_checkpointing(True)
    x = images(2, 32, 3)
    same(gradients(model, x, "count"), gradients(plain, x, "count"))


class OwnCheckpointing(HandBlock):
    """A layer of transformers: its class checkpoints inside of `forward`, where its switch is on."""

    gradient_checkpointing = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        plain = super().forward
        if self.gradient_checkpointing and self.training:
            out: torch.Tensor = self._gradient_checkpointing_func(plain, x)
            return out
        return plain(x)


class PartCheckpointed(HandBlock):
    """Only a part of the block is computed again: what a gate does around the block is not there then."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + checkpoint(lambda y: self.attn(self.norm1(y)), x, use_reentrant=False)
        out: torch.Tensor = x + self.mlp(self.norm2(x))
        return out


def with_blocks(kind: type[HandBlock]) -> nn.Module:
    model = HandViT()
    model.blocks = nn.ModuleList(kind("4-D") for _ in range(4))
    return attach(enlivened(model), [KeepTokens("blocks.1", 9, "spvit")], images(1, 16))


@pytest.mark.parametrize("reentrant", [False, True])
def test_blocks_that_checkpoint_themselves(reentrant: bool) -> None:
    plain, x = with_blocks(OwnCheckpointing), images(3, 16)
    model = copy.deepcopy(plain)
    for block in model.blocks:
        block.gradient_checkpointing = True
        block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=reentrant)
    same(gradients(model, x, "sample"), gradients(plain, x, "sample"))
    assert all(block.gradient_checkpointing for block in model.blocks)


def test_a_part_of_a_block_that_is_checkpointed_is_refused() -> None:
    model = with_blocks(PartCheckpointed)
    with pytest.raises(ModelError, match="Checkpoint complete blocks"):
        Adaptive(model).train()(images(2, 16))


@pytest.mark.parametrize("reentrant", [False, True])
def test_tokens_behind_the_last_block_have_their_gradient(reentrant: bool) -> None:
    x, found = images(3, 16), []
    plain = attach(enlivened(HandViT()), [KeepTokens("blocks.1", 9, "spvit")], x[:1])
    model = copy.deepcopy(plain)
    model.reentrant = reentrant
    for each in (plain, model):
        runner = Adaptive(each, training_rule="count").train()
        out = runner(x)
        assert runner.tokens is not None
        (out.sum() + runner.tokens.pow(2).mean()).backward()
        found.append({name: value.grad for name, value in each.named_parameters() if value.grad is not None})
    same(found[1], found[0])
