"""Networks of transformers, in small configurations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from networks.builders import Built

__all__ = ["NETWORKS", "build"]

BATCH = 2


def build(name: str) -> Built:
    """A network with random weights, and its inputs by keyword."""
    import transformers

    transformers.logging.set_verbosity_error()
    config, options, example = NETWORKS[name]
    model = getattr(transformers, name)(getattr(transformers, config)(**options)).eval()
    with torch.device("cpu"):  # the values of whole numbers matter
        return model, example()


def _images(side: int = 64) -> dict[str, Any]:
    return {"pixel_values": torch.zeros(BATCH, 3, side, side)}


def _words() -> dict[str, Any]:
    return {"input_ids": torch.zeros(BATCH, 12, dtype=torch.long)}


TEXT: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99}
WIDE = {**TEXT, "intermediate_size": 96}
IMAGE: dict[str, Any] = {k: v for k, v in WIDE.items() if k != "vocab_size"} | {"image_size": 64, "patch_size": 16}

DECODER: dict[str, Any] = {
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 48,
}


def _flat_patches() -> dict[str, Any]:
    return {
        "pixel_values": torch.zeros(1, 16, 768),
        "pixel_attention_mask": torch.ones(1, 16, dtype=torch.long),
        "spatial_shapes": torch.tensor([[4, 4]]),
    }


NETWORKS: Mapping[str, tuple[str, dict[str, Any], Callable[[], dict[str, Any]]]] = {
    "ViTForImageClassification": ("ViTConfig", IMAGE, _images),
    "DeiTForImageClassificationWithTeacher": ("DeiTConfig", IMAGE, _images),
    "SwinForImageClassification": (
        "SwinConfig",
        {"image_size": 64, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        _images,
    ),
    "SegformerForSemanticSegmentation": ("SegformerConfig", {"depths": [1, 1, 1, 1]}, _images),
    "BeitForImageClassification": ("BeitConfig", {**IMAGE, "use_relative_position_bias": True}, _images),
    "Dinov2ForImageClassification": ("Dinov2Config", IMAGE, _images),
    "CLIPVisionModel": ("CLIPVisionConfig", IMAGE, _images),
    "YolosForObjectDetection": ("YolosConfig", {**IMAGE, "image_size": [64, 64], "num_detection_tokens": 5}, _images),
    "ViTMAEForPreTraining": ("ViTMAEConfig", {**IMAGE, **DECODER}, _images),
    "VideoMAEForVideoClassification": (
        "VideoMAEConfig",
        {**IMAGE, **DECODER, "num_frames": 4},
        lambda: {"pixel_values": torch.zeros(1, 4, 3, 64, 64)},
    ),
    "DINOv3ViTModel": ("DINOv3ViTConfig", IMAGE, _images),
    "PvtForImageClassification": (
        "PvtConfig",
        {
            "image_size": 64,
            "hidden_sizes": [16, 16, 32, 32],
            "num_attention_heads": [1, 2, 2, 2],
            "depths": [1, 1, 1, 1],
        },
        _images,
    ),
    "BitForImageClassification": (
        "BitConfig",
        {"num_groups": 4, "embedding_size": 32, "hidden_sizes": [32, 64], "depths": [1, 1]},
        _images,
    ),
    "ConvNextV2ForImageClassification": (
        "ConvNextV2Config",
        {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]},
        _images,
    ),
    "CvtForImageClassification": (
        "CvtConfig",
        {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 3], "drop_path_rate": [0.0, 0.0, 0.0]},
        _images,
    ),
    "DetrForObjectDetection": (
        "DetrConfig",
        {
            "use_timm_backbone": False,
            "backbone_config": None,
            "backbone": None,
            "use_pretrained_backbone": False,
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "num_queries": 5,
        },
        _images,
    ),
    "SiglipVisionModel": ("SiglipVisionConfig", IMAGE, _images),
    "Siglip2VisionModel": ("Siglip2VisionConfig", {**IMAGE, "num_patches": 16}, _flat_patches),
    "DPTForDepthEstimation": (
        "DPTConfig",
        {
            **IMAGE,
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [16, 16, 24, 24],
            "fusion_hidden_size": 16,
        },
        _images,
    ),
    "Wav2Vec2ForSequenceClassification": (
        "Wav2Vec2Config",
        {
            **{k: v for k, v in WIDE.items() if k != "vocab_size"},
            "conv_dim": [16] * 7,
            "num_conv_pos_embeddings": 8,
            "num_conv_pos_embedding_groups": 4,
        },
        lambda: {"input_values": torch.zeros(1, 1600)},
    ),
    "T5EncoderModel": (
        "T5Config",
        {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 99},
        _words,
    ),
    "BertForSequenceClassification": ("BertConfig", WIDE, _words),
    "GPT2LMHeadModel": ("GPT2Config", {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 99}, _words),
    "LlamaForCausalLM": ("LlamaConfig", {**WIDE, "num_key_value_heads": 2}, _words),
}
"""Class, configuration class, its options, and the input."""
