"""Every network of torchvision."""

from __future__ import annotations

from typing import Any

import torch
import torchvision

from networks.builders import Built, image

__all__ = ["build", "names"]

BATCH = 2


def names() -> list[str]:
    """Every network."""
    return list(torchvision.models.list_models())


def build(name: str) -> Built:
    """A network with random weights and an input as small as it takes."""
    builder = torchvision.models.get_model_builder(name)
    kind = builder.__module__.split(".")[2]
    options: dict[str, Any] = {"weights": None}
    if kind in ("detection", "segmentation"):
        options["weights_backbone"] = None
    if kind == "detection" and not name.startswith("ssd"):
        options |= {"min_size": 128, "max_size": 160}
    if "rcnn" in name:
        options["rpn_post_nms_top_n_test"] = 20
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True
    if kind == "quantization":
        options.pop("weights")
    model = builder(**options)
    if kind == "detection":
        return model, ([torch.rand(3, 128, 160)],)
    if kind == "video":
        frames = 16 if "mvit" in name or "s3d" in name else 8
        side = 224 if "mvit" in name or "s3d" in name else 64
        return model, torch.zeros(1, 3, frames, side, side)
    if kind == "optical_flow":
        return model, (torch.zeros(1, 3, 128, 128), torch.zeros(1, 3, 128, 128))
    side = 299 if "inception_v3" in name else 224 if name.startswith(("vit", "maxvit")) else 64
    return model, image(side, images=BATCH)
