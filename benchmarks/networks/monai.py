"""monai: networks for medical images, 2D and 3D."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from networks.builders import Builder, image, of_class, volume

__all__ = ["NETWORKS"]

SEGMENTERS: dict[str, Any] = {"in_channels": 1, "out_channels": 2}
TABLE: Mapping[str, tuple[dict[str, Any], Callable[[], Any]]] = {
    "UNet": (
        {"spatial_dims": 2, **SEGMENTERS, "channels": (8, 16, 32), "strides": (2, 2), "num_res_units": 2},
        lambda: image(32, 1),
    ),
    "AttentionUnet": (
        {"spatial_dims": 2, **SEGMENTERS, "channels": (8, 16, 32), "strides": (2, 2)},
        lambda: image(32, 1),
    ),
    "BasicUNet": ({"spatial_dims": 2, **SEGMENTERS, "features": (8, 8, 16, 16, 32, 8)}, lambda: image(32, 1)),
    "BasicUNetPlusPlus": ({"spatial_dims": 2, **SEGMENTERS, "features": (8, 8, 16, 16, 32, 8)}, lambda: image(32, 1)),
    "SegResNet": ({"spatial_dims": 3, "init_filters": 8, **SEGMENTERS}, lambda: volume(16)),
    "SegResNetDS": ({"spatial_dims": 3, "init_filters": 8, **SEGMENTERS}, lambda: volume(16)),
    "SegResNetVAE": (
        {"input_image_size": (16, 16), "spatial_dims": 2, "init_filters": 8, **SEGMENTERS},
        lambda: image(16, 1),
    ),
    "DynUNet": (
        {
            "spatial_dims": 2,
            **SEGMENTERS,
            "kernel_size": [3, 3, 3],
            "strides": [1, 2, 2],
            "upsample_kernel_size": [2, 2],
            "res_block": True,
        },
        lambda: image(32, 1),
    ),
    "VNet": ({"spatial_dims": 3, **SEGMENTERS}, lambda: volume(32)),
    "HighResNet": ({"spatial_dims": 2, **SEGMENTERS}, lambda: image(32, 1)),
    "UNETR": (
        {**SEGMENTERS, "img_size": 32, "feature_size": 8, "hidden_size": 96, "mlp_dim": 128, "num_heads": 4},
        lambda: volume(32),
    ),
    "SwinUNETR": ({**SEGMENTERS, "feature_size": 12, "spatial_dims": 2}, lambda: image(64, 1)),
    "DenseNet121": ({"spatial_dims": 2, **SEGMENTERS}, lambda: image(64, 1)),
    "SEResNet50": ({"spatial_dims": 2, "in_channels": 1, "num_classes": 3}, lambda: image(64, 1)),
    "EfficientNetBN": (
        {"model_name": "efficientnet-b0", "pretrained": False, "in_channels": 1, "spatial_dims": 2, "num_classes": 3},
        lambda: image(64, 1),
    ),
    "FlexibleUNet": ({**SEGMENTERS, "backbone": "efficientnet-b0", "spatial_dims": 2}, lambda: image(64, 1)),
    "ViT": (
        {
            "in_channels": 1,
            "img_size": 32,
            "patch_size": 8,
            "hidden_size": 48,
            "mlp_dim": 64,
            "num_layers": 2,
            "num_heads": 4,
            "classification": True,
            "spatial_dims": 2,
        },
        lambda: image(32, 1),
    ),
    "ViTAutoEnc": (
        {
            "in_channels": 1,
            "img_size": 32,
            "patch_size": 4,
            "hidden_size": 48,
            "mlp_dim": 64,
            "num_layers": 2,
            "num_heads": 4,
            "spatial_dims": 2,
        },
        lambda: image(32, 1),
    ),
    "AutoEncoder": (
        {"spatial_dims": 2, **SEGMENTERS, "channels": (8, 16), "strides": (2, 2), "num_res_units": 1},
        lambda: image(32, 1),
    ),
    "RegUNet": ({"spatial_dims": 2, "in_channels": 1, "num_channel_initial": 8, "depth": 2}, lambda: image(32, 1)),
    "MedNeXt": ({"spatial_dims": 2, **SEGMENTERS, "init_filters": 8, "kernel_size": 3}, lambda: image(32, 1)),
    "DiffusionModelUNet": (
        {
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 1,
            "channels": (16, 32),
            "attention_levels": (False, True),
            "num_res_blocks": 1,
            "num_head_channels": 8,
            "norm_num_groups": 8,
        },
        lambda: (image(16, 1), torch.tensor([3])),
    ),
    "AutoencoderKL": (
        {
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 1,
            "channels": (16, 32),
            "latent_channels": 3,
            "num_res_blocks": (1, 1),
            "attention_levels": (False, False),
            "norm_num_groups": 8,
        },
        lambda: image(16, 1),
    ),
    "MultiScalePatchDiscriminator": (
        {"num_d": 2, "num_layers_d": 2, "spatial_dims": 2, "channels": 8, "in_channels": 1},
        lambda: image(64, 1),
    ),
    "VoxelMorphUNet": (
        {
            "spatial_dims": 2,
            "in_channels": 2,
            "unet_out_channels": 8,
            "channels": (8, 8, 8, 8, 8, 8),
            "final_conv_channels": (8,),
        },
        lambda: image(32, 2),
    ),
    "DAF3D": ({"in_channels": 1, "out_channels": 2}, lambda: volume(32)),
}

NETWORKS: Mapping[str, Builder] = {
    name: of_class("monai.networks.nets", name, example, **options) for name, (options, example) in TABLE.items()
}
