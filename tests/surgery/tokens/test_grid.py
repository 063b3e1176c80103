"""Networks with stages: pruned positions skip the MLPs, masked and skipped alike, and what that saves is counted."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

import edakari
from edakari.core.plan import KeepTokens, Plan
from edakari.cost import macs
from edakari.errors import ModelError, PlanError
from edakari.surgery.tokens import Adaptive, attach, detach, token_layout
from edakari.surgery.tokens.stages import grid_stages
from tests.surgery.tokens.networks import enlivened, images, logits

SWIN = {
    "img_size": 64,
    "window_size": 4,
    "embed_dim": 16,
    "depths": (2, 2, 2),
    "num_heads": (2, 2, 4),
    "num_classes": 5,
}


def swin() -> nn.Module:
    return enlivened(timm.models.swin_transformer.SwinTransformer(patch_size=4, **SWIN))


def pit() -> nn.Module:
    return enlivened(timm.create_model("pit_ti_224", img_size=64, num_classes=5))


NETWORKS: dict[str, tuple[Any, list[KeepTokens]]] = {
    "swin": (swin, [KeepTokens("layers.0.blocks.1", 100, "spvit"), KeepTokens("layers.1.blocks.0", 20, "random")]),
    "pit": (pit, [KeepTokens("transformers.1.blocks.3", 9, "spvit")]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_skipped_equals_masked(name: str) -> None:
    make, edits = NETWORKS[name]
    model, x = make(), images(3, 64, 3)
    dense = logits(model, x)
    attach(model, edits, x[:1])
    found = logits(model, x)
    torch.testing.assert_close(logits(Adaptive(model).eval(), x), found, atol=1e-12, rtol=0)
    assert float((found - dense).abs().max() / dense.abs().max()) > 1e-6
    alone = torch.cat([logits(model, image[None]) for image in x])
    torch.testing.assert_close(alone, found, atol=1e-12, rtol=0)
    assert torch.equal(logits(detach(model), x), dense)


def test_macs_are_what_is_really_saved() -> None:
    model = swin()
    example = torch.zeros(1, 3, 64, 64).double()
    graph = edakari.trace(model, example)
    stage = grid_stages(model, example)[1]
    assert (stage.patches, stage.width, stage.prefix) == (64, 32, 0)
    plan = Plan((KeepTokens("layers.1.blocks.0", 20, "random"),), graph.fingerprint, graph.inputs)
    saved = macs(graph).total({}) - macs(edakari.trace(edakari.apply(model, plan), example)).total({})
    assert saved == 2 * (64 - 20) * 2 * 32 * 4 * 32


def test_gradients_reach_the_selector() -> None:
    model = attach(swin(), NETWORKS["swin"][1][:1], images(1, 64, 3))
    Adaptive(model).train()(images(2, 64, 3)).pow(2).sum().backward()
    selector = model.layers[0].blocks[1].token_gate.selector
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in selector.last.parameters())


def test_what_cannot_be_is_told() -> None:
    x = images(1, 64, 3)
    with pytest.raises(ModelError, match="grid between stages"):
        token_layout(pit(), x)
    with pytest.raises(PlanError, match="stages have windows"):
        attach(swin(), [KeepTokens("layers.0.blocks.1", 9, "evit")], x)
    with pytest.raises(PlanError, match="keeps 65 of 64"):
        attach(swin(), [KeepTokens("layers.1.blocks.1", 65, "random")], x)
    with pytest.raises(PlanError, match="one selector"):
        attach(swin(), [KeepTokens(f"layers.1.blocks.{index}", 9, "random") for index in (0, 1)], x)
