"""open_clip: image and text towers, and both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from networks.builders import Builder, image, of_class

__all__ = ["NETWORKS"]

TOWER: dict[str, Any] = {"image_size": 32, "width": 48, "layers": 2, "heads": 4, "output_dim": 24}
NETWORKS: Mapping[str, Builder] = {
    "VisionTransformer": of_class(
        "open_clip.transformer", "VisionTransformer", lambda: image(32), patch_size=8, mlp_ratio=2.0, **TOWER
    ),
    "VisionTransformer-attentional-pool": of_class(
        "open_clip.transformer",
        "VisionTransformer",
        lambda: image(32),
        patch_size=8,
        mlp_ratio=2.0,
        attentional_pool=True,
        attn_pooler_queries=8,
        attn_pooler_heads=4,
        **TOWER,
    ),
    "ModifiedResNet": of_class(
        "open_clip.modified_resnet",
        "ModifiedResNet",
        lambda: image(32),
        layers=[1, 1, 1, 1],
        output_dim=24,
        heads=4,
        image_size=32,
        width=8,
    ),
    "TextTransformer": of_class(
        "open_clip.transformer",
        "TextTransformer",
        lambda: torch.ones(2, 8, dtype=torch.long),
        context_length=8,
        vocab_size=50,
        width=32,
        heads=4,
        layers=2,
        output_dim=24,
    ),
    "CLIP": of_class(
        "open_clip.model",
        "CLIP",
        lambda: (image(32), torch.ones(1, 8, dtype=torch.long)),
        24,
        {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 16},
        {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 4, "layers": 2},
    ),
}
