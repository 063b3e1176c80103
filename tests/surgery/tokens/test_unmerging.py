"""After the last block, merged and packed patches get the output of the token that represents them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from edakari.core.plan import KeepTokens
from edakari.errors import ModelError, PlanError
from edakari.surgery.tokens import Adaptive, attach, detach, selections
from edakari.surgery.tokens.selectors import Candidates, Verdict
from tests.surgery.tokens.networks import images, logits, tiny

UNLIKE = (1, 7, 21, 35)
"""Patches that are unlike the others, at odd positions, so that ToMe merges the others."""


class Segmenter(nn.Module):
    """A ViT whose head puts the patches on a grid, and gives every pixel its classes."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.vit = tiny(**options)
        self.head = nn.ConvTranspose2d(16, 3, 4, 4, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.vit.forward_features(x)[:, -36:]
        found: torch.Tensor = self.head(tokens.transpose(1, 2).unflatten(2, (6, 6)))
        return found


class ByPosition(nn.Module):
    """Prunes the patches that are alike: as many as said first, from the front."""

    def forward(self, seen: Candidates) -> Verdict:
        alike = torch.ones(37).double()
        alike[list(UNLIKE)] = 0
        score = -(alike[seen.index] * (100 - seen.index))
        return Verdict(score, torch.full_like(score, 0.7))


def alike_images(model: Any, count: int = 2) -> torch.Tensor:
    """Images of one patch everywhere but at `UNLIKE`, and a network without positions."""
    getattr(model, "vit", model).pos_embed.data.zero_()
    patches = images(count, 24).unfold(2, 4, 4).unfold(3, 4, 4).flatten(2, 3).clone()
    rest = [index for index in range(36) if index not in UNLIKE]
    patches[:, :, rest] = patches[:, :, :1]
    return patches.unflatten(2, (6, 6)).permute(0, 1, 2, 4, 3, 5).reshape(count, 1, 24, 24)


def merging(**settings: str) -> list[KeepTokens]:
    return [KeepTokens(f"blocks.{b}", n, "tome", tuple(settings.items())) for b, n in ((2, 20), (4, 15))]


def packing(package: str, unmerge: str = "always") -> list[KeepTokens]:
    settings = (("package", package), ("proportional", True), ("unmerge", unmerge))
    return [KeepTokens(f"blocks.{b}", n, "spvit", settings) for b, n in ((2, 20), (4, 9))]


def with_positions(model: nn.Module) -> nn.Module:
    for selection, threshold in zip(selections(model).values(), (-82.0, -70.0), strict=True):
        selection.selector = ByPosition()
        selection.get_buffer("threshold").fill_(threshold)
    return model


POOLED = {
    "average": {"global_pool": "avg"},
    "average without class token": {"global_pool": "avg", "class_token": False},
}


@pytest.mark.parametrize("kind", ["pixels", *POOLED])
@pytest.mark.parametrize("by", ["tome", "append", "merge"])
def test_tokens_that_are_alike_can_be_merged_or_packed_without_any_loss(kind: str, by: str) -> None:
    """Sizes in attention and unmerged patches undo the merging of equal tokens: the dense network's own outputs."""
    model = Segmenter() if kind == "pixels" else tiny(**POOLED[kind])
    x = alike_images(model)
    dense = logits(model, x)
    prefix = "vit." if kind == "pixels" else ""
    edits = merging(unmerge="always") if by == "tome" else packing(by)
    edits = [KeepTokens(prefix + edit.block, edit.count, edit.selector, edit.settings) for edit in edits]
    attach(model, edits, x[:1])
    if by != "tome":
        with_positions(model)
    torch.testing.assert_close(logits(model, x), dense, atol=1e-12, rtol=0)
    torch.testing.assert_close(logits(Adaptive(model).eval(), x), dense, atol=1e-12, rtol=0)
    for strategy in ("padded", "packed", "bucketed") if by != "tome" else ():
        runner = Adaptive(model, strategy, "threshold", edges=(24, 36)).eval()
        torch.testing.assert_close(logits(runner, x), dense, atol=1e-12, rtol=0)
        assert [int(each.kept[0].sum()) for each in runner.decisions] == [20, 9]
    other = images(2)
    assert not torch.allclose(logits(model, other), logits(detach(model), other), atol=1e-3)


class InOrder(nn.Module):
    """Keeps the last patches, or the first ones."""

    def __init__(self, sign: int) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, seen: Candidates) -> Verdict:
        """See `edakari.surgery.tokens.selectors.Selector`."""
        score = self.sign * seen.index.double()
        return Verdict(score, torch.full_like(score, 0.7))


def test_every_patch_gets_the_package_that_holds_it() -> None:
    """Two kinds of equal patches: the first package holds one kind, the second one the other."""
    model = tiny(global_pool="avg")
    x = alike_images(model)
    patches = x.unfold(2, 4, 4).unfold(3, 4, 4).flatten(2, 3).clone()
    patches[:, :, :18], patches[:, :, 18:] = patches[:, :, 1:2].clone(), patches[:, :, 7:8].clone()
    x = patches.unflatten(2, (6, 6)).permute(0, 1, 2, 4, 3, 5).reshape(2, 1, 24, 24)
    dense = logits(model, x)
    attach(model, packing("append"), x[:1])
    for selection, sign in zip(selections(model).values(), (1, -1), strict=True):
        selection.selector = InOrder(sign)
    for strategy in ("topk", "mask", "padded", "packed"):
        torch.testing.assert_close(logits(Adaptive(model, strategy).eval(), x), dense, atol=1e-12, rtol=0)


def test_a_mean_over_merged_tokens_weighs_them_by_their_sizes() -> None:
    """ToMe, for networks that pool: sum(size * token) / sum(size); it is the default for merged tokens."""
    model, x = tiny(global_pool="avg"), images()
    attach(model, merging(unmerge="never"), x[:1])
    runner = Adaptive(model, "topk").eval()
    plain = logits(runner, x)
    with torch.no_grad():
        tokens = model.forward_features(x)[:, 1:]
    last = runner.decisions[-1]
    size = last.score[last.kept > 0].exp().view(len(x), -1, 1)
    assert size.sum(1).flatten().tolist() == pytest.approx([36.0] * len(x))
    with torch.no_grad():
        wanted = model.head(model.fc_norm((tokens * size).sum(1) / size.sum(1)))
    found = logits(attach(detach(model), merging(), x[:1]), x)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
    assert not torch.allclose(found, plain, atol=1e-4)


def test_a_class_token_needs_no_other_patch() -> None:
    model, x = tiny(), images(1)
    seen: list[int] = []
    model.norm.register_forward_hook(lambda module, args, output: seen.append(output.shape[1]))
    logits(attach(model, merging(), x), x)
    assert seen[-1] == 16
    logits(attach(detach(model), merging(unmerge="always"), x), x)
    assert seen[-1] == 37


def test_heads_with_an_output_for_every_patch_need_it() -> None:
    model, x = Segmenter(), images(1)
    edits = [KeepTokens(f"vit.blocks.{b}", n, "tome") for b, n in ((2, 20), (4, 15))]
    with pytest.raises(ModelError, match="put them back on a grid"):
        attach(model, edits, x)


@pytest.mark.parametrize(
    ("edits", "text"),
    [
        (packing("none"), "no token represents"),
        ([KeepTokens("blocks.1", 9, "random", (("unmerge", "always"),))], "no token represents"),
        ([*merging(unmerge="always")[:1], *merging()[1:]], "the same setting 'unmerge'"),
        (merging(unmerge="often"), "'often'.*auto"),
    ],
)
def test_what_cannot_be_unmerged_is_told(edits: list[KeepTokens], text: str) -> None:
    with pytest.raises(PlanError, match=text):
        attach(tiny(), edits, images(1))
