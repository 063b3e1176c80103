"""Small transformers of every kind, with weights that make their outputs differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import nn

from edakari.core.plan import KeepTokens, Plan
from edakari.graph import spec_of_inputs


def tiny(depth: int = 6, width: int = 16, **options: Any) -> nn.Module:
    """A ViT of 36 patches in float64."""
    return enlivened(
        VisionTransformer(
            img_size=24,
            patch_size=4,
            in_chans=1,
            num_classes=5,
            embed_dim=width,
            depth=depth,
            num_heads=4,
            **options,
        )
    )


class ScaledBlock(nn.Module):
    """A block of LV-ViT's: both residual branches count half."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, num_heads=heads)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x)) / 2
        out: torch.Tensor = x + self.mlp(self.norm2(x)) / 2
        return out


class LabelledViT(nn.Module):
    """LV-ViT's form: the class token's logits, and half the largest of those of all patches."""

    def __init__(self, size: int = 24, channels: int = 1, classes: int = 5) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(channels, 16, 4, 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 16))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (size // 4) ** 2, 16))
        self.blocks = nn.ModuleList(ScaledBlock(16, 4) for _ in range(4))
        self.norm, self.head, self.aux_head = nn.LayerNorm(16), nn.Linear(16, classes), nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        logits: torch.Tensor = self.head(x[:, 0]) + 0.5 * self.aux_head(x[:, 1:]).max(1)[0]
        return logits


def enlivened(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
            if parameter.dim() == 1:
                parameter.add_(0.5)
    return model


def images(count: int = 5, size: int = 24, channels: int = 1) -> torch.Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1)).double()


def plan(*edits: KeepTokens, size: int = 24, channels: int = 1, fingerprint: str = "") -> Plan:
    return Plan(edits, fingerprint, spec_of_inputs(torch.zeros(1, channels, size, size)))


def _timm(name: str, size: int = 64, **options: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, img_size=size, depth=4, num_classes=5, **options)


def _hf(kind: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        transformers = pytest.importorskip("transformers")

        config = getattr(transformers, f"{kind}Config")(
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=64,
            image_size=64,
            patch_size=16,
            num_labels=5,
        )
        model: nn.Module = getattr(transformers, f"{kind}ForImageClassification")(config)
        return model

    return make


SMALL = {"embed_dim": 64, "num_heads": 4}
FAMILIES: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "vit": (_timm("vit_tiny_patch16_224"), 64, 1),
    "average pooling, no class token": (_timm("vit_tiny_patch16_224", global_pool="avg", class_token=False), 64, 0),
    "attention pooling": (_timm("vit_base_patch16_siglip_224", **SMALL), 64, 0),
    "distilled": (_timm("deit_tiny_distilled_patch16_224"), 64, 2),
    "beit": (_timm("beit_base_patch16_224", **SMALL), 64, 1),
    "eva": (_timm("eva_giant_patch14_224", 56, **SMALL), 56, 1),
    "eva02, rotary": (_timm("eva02_tiny_patch14_224", 56), 56, 1),
    "dinov2 with registers": (_timm("vit_small_patch14_reg4_dinov2", 56), 56, 5),
    "dinov3": (_timm("vit_small_patch16_dinov3"), 64, 5),
    "torchvision": (lambda: torchvision.models.VisionTransformer(64, 16, 4, 4, 32, 64, num_classes=5), 64, 1),
    "hf vit": (_hf("ViT"), 64, 1),
    "hf deit": (_hf("DeiT"), 64, 2),
    "hf beit": (_hf("Beit"), 64, 1),
    "hf dinov2 with registers": (_hf("Dinov2WithRegisters"), 64, 5),
}
"""Name to a constructor, the size of its images and the tokens of its prefix."""


def logits(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found = model(x)
    return found if isinstance(found, torch.Tensor) else found.logits
