"""Whole detection, segmentation and pose networks with random weights, their images, targets and losses."""

from __future__ import annotations

import dataclasses as dc
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["CASES", "Case"]

CLASSES, KEYPOINTS, OBJECTS = 5, 17, 6
"""Number of classes (with a background, where there is one), of keypoints of an object, and of objects in an image."""

Losses = Mapping[str, torch.Tensor]


@dc.dataclass(frozen=True)
class Case:
    """A network and what it takes.

    Args:
        build: makes the network.
        example: what is traced; images alone.
        infer: what it returns for images in evaluation mode.
        losses: its losses for images and targets in training mode.
    """

    build: Callable[[], nn.Module]
    example: Any
    infer: Callable[[nn.Module], Any]
    losses: Callable[[nn.Module], Losses]


def _drawn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _corners(height: int, width: int, seed: int = 2) -> torch.Tensor:
    """Boxes XYXY in pixels, float64 [objects, 4]."""
    low, sides, size = _drawn(OBJECTS, 2, seed=seed), _drawn(OBJECTS, 2, seed=seed + 9), torch.tensor([width, height])
    low, sides = low * size / 2, size * (0.15 + 0.3 * sides)
    return torch.cat([low, low + sides], 1)


def _labels(first: int, last: int, seed: int = 3) -> torch.Tensor:
    return torch.randint(first, last, (OBJECTS,), generator=torch.Generator().manual_seed(seed))


# torchvision


def _torchvision_target(height: int, width: int, seed: int) -> dict[str, torch.Tensor]:
    boxes, masks = _corners(height, width, seed), torch.zeros(OBJECTS, height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    points = boxes[:, None, :2] + (boxes[:, None, 2:] - boxes[:, None, :2]) * _drawn(OBJECTS, KEYPOINTS, 2)
    keypoints = torch.cat([points, torch.ones(OBJECTS, KEYPOINTS, 1)], 2).float()  # it takes no others
    labels = _labels(1, CLASSES)
    return {"boxes": boxes, "labels": labels, "masks": masks, "keypoints": keypoints}


def _detector(name: str, images: int = 2, height: int = 96, width: int = 128, **options: Any) -> Case:
    def build() -> nn.Module:
        import torchvision

        classes = 2 if "keypoint" in name else CLASSES
        return torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=classes, **options)

    pictures = list(_drawn(images, 3, height, width))
    targets = [_torchvision_target(height, width, 2 + index) for index in range(images)]
    if "keypoint" in name:
        targets = [{**target, "labels": target["labels"] * 0 + 1} for target in targets]
    return Case(build, (pictures,), lambda model: model(pictures), lambda model: model(pictures, targets))


def _pixelwise(build: Callable[[], nn.Module]) -> Case:
    """A network that gives a class for each pixel, under cross-entropy."""
    images = _drawn(2, 3, 96, 128)
    truth = torch.randint(0, CLASSES, (2, 96, 128), generator=torch.Generator().manual_seed(1))

    def losses(model: nn.Module) -> Losses:
        found = model(images)
        found = found if isinstance(found, Mapping) else {"out": found}
        return {name: nn.functional.cross_entropy(logits, truth) for name, logits in found.items()}

    return Case(build, images, lambda model: model(images), losses)


def _segmenter(name: str, **options: Any) -> Case:
    def build() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES, **options)

    return _pixelwise(build)


SMALL = {"min_size": 96, "max_size": 128}
TWO_STAGES = {**SMALL, "box_score_thresh": 0.0, "rpn_post_nms_top_n_test": 20, "rpn_post_nms_top_n_train": 40}
ONE_STAGE = {**SMALL, "score_thresh": 0.0}

TORCHVISION = {
    **{
        name: functools.partial(_detector, name, **TWO_STAGES)
        for name in (
            *("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2"),
            *("fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"),
            *("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2", "keypointrcnn_resnet50_fpn"),
        )
    },
    **{
        name: functools.partial(_detector, name, **ONE_STAGE)
        for name in ("retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn")
    },
    "ssd300_vgg16": functools.partial(_detector, "ssd300_vgg16", images=1),
    "ssdlite320_mobilenet_v3_large": functools.partial(_detector, "ssdlite320_mobilenet_v3_large"),
    **{
        name: functools.partial(_segmenter, name, aux_loss=True)
        for name in ("deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "fcn_resnet50")
    },
    "lraspp_mobilenet_v3_large": functools.partial(_segmenter, "lraspp_mobilenet_v3_large"),
}

# transformers

RESNET = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1], "layer_type": "basic"}
THREE = ["stage2", "stage3", "stage4"]
WIDTHS: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40, "num_queries": 8,
    "num_labels": CLASSES,
}  # fmt: skip
VIT: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": [64, 64], "patch_size": 16
}  # fmt: skip


def _transformers(name: str, options: Callable[[Any], Mapping[str, Any]], targets: Mapping[str, Any]) -> Case:
    def build() -> nn.Module:
        import transformers

        transformers.logging.set_verbosity_error()
        cls = getattr(transformers, name)
        model: nn.Module = cls(cls.config_class(**options(transformers)))
        return model

    images = {"pixel_values": _drawn(2, 3, 64, 64)}

    def losses(model: nn.Module) -> Losses:
        if targets:
            return {"loss": model(**images, **targets).loss}
        return {"heatmaps": model(**images).heatmaps.square().mean()}

    return Case(build, images, lambda model: model(**images), losses)


def _resnet(library: Any, prefix: str = "", stages: list[str] | None = None) -> Any:
    return getattr(library, f"{prefix}ResNetConfig")(**RESNET, out_features=stages or ["stage4"])


def _detr(library: Any) -> dict[str, Any]:
    return {"use_timm_backbone": False, "backbone_config": _resnet(library), "auxiliary_loss": True, **WIDTHS}


def _deformable(library: Any) -> dict[str, Any]:
    points = {"num_feature_levels": 3, "encoder_n_points": 2, "decoder_n_points": 2}
    return {**_detr(library), "backbone_config": _resnet(library, stages=THREE), **points}


def _rt_detr(library: Any) -> dict[str, Any]:
    backbone = _resnet(library, "RTDetr", THREE)
    hybrid = {"encoder_hidden_dim": 32, "encoder_in_channels": [12, 16, 24], "decoder_in_channels": [32] * 3}
    points = {"num_feature_levels": 3, "decoder_n_points": 2, "num_denoising": 6}
    return {**WIDTHS, "backbone_config": backbone, **hybrid, **points}


def _yolos(library: Any) -> dict[str, Any]:
    return {**VIT, "intermediate_size": 48, "num_detection_tokens": 8, "num_labels": CLASSES}


def _segformer(library: Any) -> dict[str, Any]:
    widths = {"hidden_sizes": [8, 16, 20, 24], "num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 24}
    return {**widths, "depths": [1, 1, 1, 1], "num_labels": CLASSES}


def _mask2former(library: Any) -> dict[str, Any]:
    stages = [f"stage{index}" for index in range(1, 5)]
    swin = library.SwinConfig(
        image_size=64, embed_dim=8, depths=[1] * 4, num_heads=[1, 2, 2, 4], window_size=2, out_features=stages
    )
    widths = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "dim_feedforward": 48}
    layers = {"encoder_feedforward_dim": 40, "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 4}
    return {
        "backbone_config": swin,
        **widths,
        **layers,
        "num_queries": 8,
        "num_labels": CLASSES,
        "train_num_points": 64,
    }


def _vitpose(library: Any) -> dict[str, Any]:
    backbone = library.VitPoseBackboneConfig(**{**VIT, "patch_size": [16, 16]}, mlp_ratio=2, out_features=["stage2"])
    return {"backbone_config": backbone, "num_labels": KEYPOINTS, "use_simple_decoder": False}


def _of_queries() -> dict[str, Any]:
    """Boxes as centre, width and height, in fractions of the image."""
    targets = []
    for seed in (2, 3):
        boxes = _corners(1, 1, seed)
        centred = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
        targets.append({"class_labels": _labels(0, CLASSES, seed), "boxes": centred})
    return {"labels": targets}


def _of_masks() -> dict[str, Any]:
    masks = [(_drawn(2, 64, 64, seed=seed) > 0.5).double() for seed in (2, 3)]
    return {"mask_labels": masks, "class_labels": [torch.tensor([0, 2]), torch.tensor([1, 2])]}


def _of_pixels() -> dict[str, Any]:
    return {"labels": torch.randint(0, CLASSES, (2, 64, 64), generator=torch.Generator().manual_seed(1))}


TRANSFORMERS = {
    name: functools.partial(_transformers, name, options, targets())
    for name, options, targets in (
        ("DetrForObjectDetection", _detr, _of_queries),
        ("DeformableDetrForObjectDetection", _deformable, _of_queries),
        ("RTDetrForObjectDetection", _rt_detr, _of_queries),
        ("RTDetrV2ForObjectDetection", _rt_detr, _of_queries),
        ("YolosForObjectDetection", _yolos, _of_queries),
        ("SegformerForSemanticSegmentation", _segformer, _of_pixels),
        ("Mask2FormerForUniversalSegmentation", _mask2former, _of_masks),
        ("VitPoseForPoseEstimation", _vitpose, dict),
    )
}

# ultralytics, segmentation_models_pytorch


def _ultralytics(name: str) -> Case:
    def build() -> nn.Module:
        from ultralytics import YOLO
        from ultralytics.utils import DEFAULT_CFG

        model: Any = YOLO(f"{name}.yaml").model
        model.args = DEFAULT_CFG
        return model

    images, boxes = _drawn(2, 3, 96, 128), torch.cat([_corners(1, 1, seed) for seed in (2, 3)])
    centred = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
    labels = _labels(0, 1 if "pose" in name else CLASSES).repeat(2)
    batch = {
        "img": images,
        "batch_idx": torch.arange(2).repeat_interleave(OBJECTS).double(),
        "cls": labels[:, None].double(),
        "bboxes": centred,
        "masks": torch.randint(0, OBJECTS + 1, (2, 24, 32), generator=torch.Generator().manual_seed(1)).double(),
        "keypoints": torch.cat([_drawn(2 * OBJECTS, KEYPOINTS, 2), torch.ones(2 * OBJECTS, KEYPOINTS, 1)], 2),
    }

    def losses(model: Any) -> Losses:
        network = getattr(model, "model", model) if type(model).__name__ == "Simulated" else model
        return {"loss": network.init_criterion()(model(images), batch)[0]}

    return Case(build, images, lambda model: model(images), losses)


def _smp(name: str) -> Case:
    def build() -> nn.Module:
        import segmentation_models_pytorch

        return getattr(segmentation_models_pytorch, name)("resnet18", encoder_weights=None, classes=CLASSES)

    return _pixelwise(build)


ULTRALYTICS = {
    name: functools.partial(_ultralytics, name)
    for name in ("yolo11n", "yolov8n", "yolo11n-seg", "yolov8n-seg", "yolo11n-pose", "yolov8n-pose")
}
SMP = {name: functools.partial(_smp, name) for name in ("Unet", "FPN", "DeepLabV3Plus")}

CASES: Mapping[str, Callable[[], Case]] = {
    f"{library}:{name}": case
    for library, cases in {
        "torchvision": TORCHVISION,
        "transformers": TRANSFORMERS,
        "ultralytics": ULTRALYTICS,
        "segmentation_models_pytorch": SMP,
    }.items()
    for name, case in cases.items()
}
"""Networks by library and name."""
