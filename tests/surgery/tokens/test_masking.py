"""Masked tokens are what removed tokens are, in every form of attention and pooling; or the network is refused."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from edakari.core.plan import KeepTokens
from edakari.errors import ModelError, PlanError
from edakari.surgery.tokens import Adaptive, attach, detach, selections, token_layout, token_sites
from tests.surgery.tokens.handmade import FORMS, POOLS, REFUSED_FORMS, REFUSED_POOLS, WIDTH, HandBlock, HandViT
from tests.surgery.tokens.networks import LabelledViT, enlivened, images, logits, tiny

EDGES = (4, 8, 16)
PACKED = ("packed", "bucketed")
Settings = tuple[tuple[str, bool | int | float | str], ...]


def edits(selector: str = "spvit", package: str = "append", proportional: bool = True) -> list[KeepTokens]:
    settings: Settings = (("package", package), ("proportional", proportional)) if selector != "tome" else ()
    return [KeepTokens("blocks.1", 9, selector, settings), KeepTokens("blocks.3", 5, selector, settings)]


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-9 * float(wanted.abs().max()), rtol=0)


def assert_exact(model: nn.Module, chosen: list[KeepTokens], strategies: tuple[str, ...]) -> None:
    """Removed equals masked, by numbers and by thresholds, and no image depends on its batch."""
    x = images(4, 16)
    dense = logits(model, x)
    removed = logits(attach(model, chosen, x[:1]), x)
    assert float((removed - dense).abs().max()) > 1e-6
    close(logits(Adaptive(model).eval(), x), removed)
    close(torch.cat([logits(model, image[None]) for image in x]), removed)
    for index, selection in enumerate(selections(model).values()):
        runner = Adaptive(model, "mask", "threshold").eval()
        logits(runner, x)
        score = runner.decisions[index].score
        score = score[score.isfinite()].sort().values
        selection.get_buffer("threshold").copy_(score[len(score) // 2 - 1 : len(score) // 2 + 1].mean())
    wanted = logits(Adaptive(model, "mask", "threshold").eval(), x)
    for strategy in strategies:
        runner = Adaptive(model, strategy, "threshold", edges=EDGES).eval()  # type: ignore[arg-type]
        close(logits(runner, x), wanted)
        close(torch.cat([logits(runner, image[None]) for image in x]), wanted)
    assert torch.equal(logits(detach(model), x), dense)


@pytest.mark.parametrize("selector", ["spvit", "random"])
@pytest.mark.parametrize("form", FORMS)
def test_every_attention(form: str, selector: str) -> None:
    packing = () if form in ("linear", "squeeze", "einsum") else PACKED
    assert_exact(enlivened(HandViT(form)), edits(selector), ("padded", *packing) if selector == "spvit" else ())


@pytest.mark.parametrize("pool", [name for name in POOLS if name not in REFUSED_POOLS])
def test_every_pooling(pool: str) -> None:
    for package in ("append", "none"):
        chosen = edits(package=package, proportional=package == "append")
        assert_exact(enlivened(HandViT(pool=pool)), chosen, ("padded", "packed"))


@pytest.mark.parametrize("form", REFUSED_FORMS)
def test_attention_that_cannot_be_masked_is_refused_by_name(form: str) -> None:
    model = enlivened(HandViT())
    broken = enlivened(HandViT(form))
    model.blocks[2] = broken.blocks[2]
    before = logits(model, images(2, 16))
    with pytest.raises(ModelError, match=r"masked and removed tokens give different outputs.*'blocks\.2'"):
        attach(model, edits(), images(1, 16))
    assert torch.equal(logits(model, images(2, 16)), before)
    assert not selections(model)


@pytest.mark.parametrize("pool", sorted(REFUSED_POOLS))
def test_pooling_that_cannot_be_masked_is_refused(pool: str) -> None:
    with pytest.raises(ModelError, match=r"after the last block 'blocks\.3'|the part after its last block 'blocks\.3'"):
        attach(enlivened(HandViT(pool=pool)), edits(), images(1, 16))


def test_weights_that_are_zero_hide_nothing() -> None:
    """A head without weights gives 0 for all; the check looks at a copy with others."""
    model = enlivened(HandViT(pool="median"))
    nn.init.zeros_(model.head.weight)
    with pytest.raises(ModelError, match="after the last block"):
        attach(model, edits(), images(1, 16))


@pytest.mark.parametrize("form", ["linear", "squeeze"])
def test_one_row_is_refused_where_images_would_mix(form: str) -> None:
    model = attach(enlivened(HandViT(form)), edits(), images(1, 16))
    with pytest.raises(ModelError, match="use the strategy 'padded'"):
        logits(Adaptive(model, "packed", "threshold").eval(), images(2, 16))


def test_selectors_that_look_at_attention_say_where_they_see_none() -> None:
    for selector in ("evit", "tome"):
        with pytest.raises(PlanError, match=r"at block .*1.*scaled_dot_product_attention"):
            attach(enlivened(HandViT("3-D")), edits(selector), images(1, 16))


def test_a_mask_is_handed_on_only_where_it_arrives() -> None:
    assert all(block.takes_mask for block in token_layout(tiny(), images(1)).blocks)
    assert not any(block.takes_mask for block in token_layout(HandViT("attn_mask"), images(1, 16).float()).blocks)


@pytest.mark.parametrize("package", ["append", "none"])
@pytest.mark.parametrize("rule", ["threshold", "sample", "count"])
@pytest.mark.parametrize("network", ["labelled", "max", "mean(dim=-2)"])
def test_an_image_never_loses_its_last_patch(network: str, rule: str, package: str) -> None:
    model = LabelledViT(16) if network == "labelled" else HandViT(pool=network)
    model = attach(enlivened(model), [KeepTokens("blocks.1", 1, "spvit", (("package", package),))], images(1, 16))
    selection = selections(model)["blocks.1"]
    selection.get_buffer("threshold").fill_(torch.inf)
    with torch.no_grad():
        selection.selector.last.bias.copy_(torch.tensor([-40.0, 40.0]))  # nothing is drawn
    x = images(3, 16)
    found = [
        logits(Adaptive(model, strategy, rule, edges=(1, 4)).eval(), x)  # type: ignore[arg-type]
        for strategy in ("mask", "padded", "packed", "bucketed")
        if strategy == "mask" or rule != "sample"
    ]
    for each in found:
        assert bool(each.isfinite().all())
        torch.testing.assert_close(each, found[0], atol=1e-9, rtol=0)
    runner = Adaptive(model).train()
    runner(x).sum().backward()
    if package == "none" or network != "mean(dim=-2)":
        assert runner.decisions[0].kept.sum(1).tolist() == [1.0] * 3
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters() if parameter.grad is not None)


def test_no_patch_at_all_is_refused_where_the_largest_is_taken() -> None:
    with pytest.raises(PlanError, match="keep one or more"):
        attach(enlivened(LabelledViT(16)), [KeepTokens("blocks.1", 0, "spvit")], images(1, 16))


def test_a_network_that_changed_is_looked_at_anew() -> None:
    model, x = HandViT().double(), images(1, 16)
    assert not token_layout(model, x).dense
    model.pool = "max"
    assert token_layout(model, x).dense
    model.blocks.append(HandViT().double().blocks[0])
    assert len(token_layout(model, x).blocks) == len(token_sites(model, x).blocks) == 5


def test_mixed_heads_of_cait() -> None:
    model = timm.create_model("cait_xxs24_224", img_size=64, depth=4, embed_dim=32, num_heads=4, num_classes=5)
    x = images(2, 64, 3)
    attach(enlivened(model), [KeepTokens("blocks.1", 9, "spvit"), KeepTokens("blocks.2", 5, "spvit")], x[:1])
    close(logits(Adaptive(model).eval(), x), logits(model, x))


def test_rotary_tables_for_each_head() -> None:
    model = timm.create_model(
        "vit_small_patch16_rope_mixed_224", img_size=64, depth=4, embed_dim=32, num_heads=4, num_classes=5
    )
    x = images(2, 64, 3)
    attach(enlivened(model), [KeepTokens("blocks.1", 9, "spvit"), KeepTokens("blocks.2", 5, "spvit")], x[:1])
    close(logits(Adaptive(model).eval(), x), logits(model, x))


class RotaryBlock(HandBlock):
    """A layer of transformers' DINOv3: cosines and sines for the patches, whatever stands in front of them."""

    def forward(self, x: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        cosines, sines = position_embeddings
        front, patches = x.split([x.shape[1] - cosines.shape[-2], cosines.shape[-2]], 1)
        cosines, sines = (each[:, 0] if each.dim() == 4 else each for each in position_embeddings)
        turned = torch.cat([-patches[..., WIDTH // 2 :], patches[..., : WIDTH // 2]], -1)
        return super().forward(torch.cat([front, patches * cosines + turned * sines], 1))


class RotaryViT(HandViT):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(RotaryBlock("4-D") for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        angle = torch.arange(16).to(x)[:, None] * torch.linspace(0.1, 1, WIDTH).to(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x, position_embeddings=(angle.cos(), angle.sin()))
        out: torch.Tensor = self.head(self.norm(x)[:, 0])
        return out


def test_cosines_and_sines_follow_the_tokens() -> None:
    assert_exact(enlivened(RotaryViT()), edits(), ("padded",))


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("xcit_nano_12_p16_224", {"depth": 2, "img_size": 64}, r"'cls_attn_blocks\.0\.mlp' sees"),
        ("pvt_v2_b0", {"depths": (2, 2, 1, 1), "img_size": 64}, r"mlp' takes more than"),
        ("samvit_base_patch16", {"depth": 2, "img_size": 64, "embed_dim": 48, "num_heads": 4}, "one grid"),
        ("tnt_s_patch16_224", {"depth": 2, "img_size": 64}, "does not hold images"),
        ("convit_tiny", {"depth": 12, "img_size": 64, "embed_dim": 8}, "tensors of several shapes"),
    ],
)
def test_networks_that_cannot_lose_tokens_are_told_why(name: str, options: dict[str, Any], reason: str) -> None:
    options = {key: value for key, value in options.items() if key != "img_size" or not name.startswith("pvt")}
    with pytest.raises(ModelError, match=reason):
        token_sites(timm.create_model(name, num_classes=5, **options), torch.zeros(1, 3, 64, 64))
