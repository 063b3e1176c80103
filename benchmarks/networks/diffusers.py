"""diffusers: denoisers, autoencoders and diffusion transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from networks.builders import Builder, image, of_class

__all__ = ["NETWORKS"]

SMALL_UNET: dict[str, Any] = {
    "sample_size": 16,
    "layers_per_block": 1,
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
}


def _step(**inputs: torch.Tensor) -> dict[str, Any]:
    return {**inputs, "timestep": torch.tensor([3]), "return_dict": False}


TABLE: Mapping[str, tuple[dict[str, Any], Callable[[], Any]]] = {
    "UNet2DModel": (
        {
            **SMALL_UNET,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        },
        lambda: _step(sample=image(16)),
    ),
    "UNet2DConditionModel": (
        {
            **SMALL_UNET,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": 24,
            "attention_head_dim": 8,
        },
        lambda: _step(sample=image(16, 4), encoder_hidden_states=torch.zeros(1, 5, 24)),
    ),
    "AutoencoderKL": (
        {
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "block_out_channels": (16, 32),
            "norm_num_groups": 8,
            "latent_channels": 4,
        },
        lambda: {"sample": image(16), "return_dict": False},
    ),
    "VQModel": (
        {
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "block_out_channels": (16, 32),
            "norm_num_groups": 8,
            "num_vq_embeddings": 16,
        },
        lambda: {"sample": image(16), "return_dict": False},
    ),
    "AutoencoderTiny": (
        {
            "encoder_block_out_channels": (8, 8),
            "decoder_block_out_channels": (8, 8),
            "num_encoder_blocks": (1, 1),
            "num_decoder_blocks": (1, 1),
        },
        lambda: {"sample": image(16), "return_dict": False},
    ),
    "DiTTransformer2DModel": (
        {
            "sample_size": 8,
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "norm_num_groups": 8,
        },
        lambda: _step(hidden_states=image(8, 4), class_labels=torch.tensor([1])),
    ),
    "PixArtTransformer2DModel": (
        {
            "sample_size": 8,
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "out_channels": 8,
            "cross_attention_dim": 16,
            "caption_channels": 12,
            "use_additional_conditions": False,
        },
        lambda: _step(hidden_states=image(8, 4), encoder_hidden_states=torch.zeros(1, 3, 12)),
    ),
    "SD3Transformer2DModel": (
        {
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 12,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 10,
            "out_channels": 4,
            "pos_embed_max_size": 8,
        },
        lambda: _step(
            hidden_states=image(8, 4),
            encoder_hidden_states=torch.zeros(1, 3, 12),
            pooled_projections=torch.zeros(1, 10),
        ),
    ),
    "UNet1DModel": (
        {
            "sample_size": 32,
            "in_channels": 2,
            "out_channels": 2,
            "block_out_channels": (16, 32),
            "extra_in_channels": 32,
            "down_block_types": ("DownBlock1DNoSkip", "DownBlock1D"),
            "up_block_types": ("UpBlock1D", "UpBlock1DNoSkip"),
            "layers_per_block": 1,
        },
        lambda: _step(sample=torch.zeros(1, 2, 32)),
    ),
}

NETWORKS: Mapping[str, Builder] = {
    name: of_class("diffusers", name, example, **options) for name, (options, example) in TABLE.items()
}
