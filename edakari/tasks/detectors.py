"""How families of detectors are called: which losses they give for targets, and which boxes for images.

Targets and predictions have labels from 0 on, and boxes XYXY in pixels of the network's input.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from edakari.core.registry import Registry
from edakari.core.wrappers import inner
from edakari.errors import DataError

__all__ = ["DETECTORS", "Detections", "Detector", "Torchvision", "bare", "learning"]

Target = Mapping[str, Any]
Losses = Mapping[str, torch.Tensor]
Detections = list[dict[str, torch.Tensor]]
QUIET = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
"""Modules that compute something else in training mode, and stay as they are while a detector gives its losses."""


class Detector(Protocol):
    """A way of calling detectors."""

    def losses(self, model: nn.Module, images: torch.Tensor, targets: Sequence[Target]) -> Losses:
        """Compute the network's own losses, in the mode that it is in.

        Args:
            model: the network, perhaps wrapped.
            images: images, float32 [N, 3, H, W], on the network's device.
            targets: `boxes` float32 [n, 4] and `labels` int64 [n] of each image, on the network's device; `masks` uint8
                [n, H, W], or `keypoints` float32 [n, K, 2] and `visible` int64 [n, K], where the task has them.

        Returns:
            Named scalar tensors, which are added up.
        """

    def detections(self, model: nn.Module, images: torch.Tensor) -> Detections:
        """Find objects: `boxes` float32 [n, 4], `scores` float32 [n] and `labels` int64 [n] of each image."""

    def classes(self, model: nn.Module) -> int | None:
        """Return the number of classes that the network tells apart, without a background; None if unknown."""


class Torchvision:
    """Detectors of torchvision, and others that are called as they are.

    `model(images, targets)` gives a dict of losses in training mode, `model(images)` a list of dicts of boxes, scores
    and labels in evaluation mode. Label 0 is the background.
    """

    def losses(self, model: nn.Module, images: torch.Tensor, targets: Sequence[Target]) -> Losses:
        """See `Detector`."""
        given = [self._given(target) for target in targets]
        with learning(model):
            found = model(list(images), given)
        if not isinstance(found, Mapping):
            raise DataError(
                f"{type(model).__name__}(images, targets) gave a {type(found).__name__} in training mode, where a "
                "detector gives a dict of losses; name your own way of calling it: "
                "data.task: {name: detection, detector: file.py:NAME}"
            )
        return found

    def detections(self, model: nn.Module, images: torch.Tensor) -> Detections:
        """See `Detector`."""
        found = model(list(images))
        if not (isinstance(found, Sequence) and all(isinstance(each, Mapping) for each in found)):
            raise DataError(
                f"{type(model).__name__}(images) gave a {type(found).__name__} in evaluation mode, where a detector "
                "gives a list of dicts with boxes, scores and labels"
            )
        return [self._shifted(each) for each in found]

    def classes(self, model: nn.Module) -> int | None:
        """See `Detector`."""
        sizes: dict[str, Callable[[Any], int | None]] = {
            "roi_heads.box_predictor.cls_score": lambda layer: layer.out_features,
            "head.classification_head": lambda head: getattr(head, "num_classes", getattr(head, "num_columns", None)),
        }
        for path, size in sizes.items():
            with contextlib.suppress(AttributeError):
                count: int | None = size(bare(model).get_submodule(path))
                return None if count is None else count - 1
        return None

    def _given(self, target: Target) -> dict[str, torch.Tensor]:
        given = {"boxes": target["boxes"], "labels": target["labels"] + 1}
        if "masks" in target:
            given["masks"] = target["masks"]
        if "keypoints" in target:
            given["keypoints"] = torch.cat([target["keypoints"], target["visible"][..., None].float()], -1)
        return given

    def _shifted(self, found: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        real = found["labels"] > 0
        return {name: value[real] for name, value in found.items()} | {"labels": found["labels"][real] - 1}


class Transformers:
    """Detectors of transformers: DETR, RT-DETR, YOLOS and others with `pred_boxes` among their outputs."""

    most = 300
    """Largest number of boxes of an image."""

    def losses(self, model: nn.Module, images: torch.Tensor, targets: Sequence[Target]) -> Losses:
        """See `Detector`."""
        labels = [
            {"class_labels": each["labels"], "boxes": _centred(each["boxes"], images.shape[-2:])} for each in targets
        ]
        return {"loss": model(pixel_values=images, labels=labels).loss}

    def detections(self, model: nn.Module, images: torch.Tensor) -> Detections:
        """See `Detector`."""
        found = model(pixel_values=images)
        height, width = images.shape[-2:]
        scale = torch.tensor([width, height, width, height], device=images.device)
        logits = found.logits.float()
        # with one logit more than classes, the last is "no object", and classes exclude each other
        exclusive = logits.shape[-1] == (self.classes(model) or 0) + 1
        scores = logits.softmax(-1)[..., :-1] if exclusive else logits.sigmoid()
        count = min(self.most, scores[0].numel())
        best, places = scores.flatten(1).topk(count)
        queries, labels = places // scores.shape[-1], places % scores.shape[-1]
        boxes = _cornered(found.pred_boxes.float()) * scale
        return [
            {"boxes": boxes[row][queries[row]], "scores": best[row], "labels": labels[row]}
            for row in range(len(images))
        ]

    def classes(self, model: nn.Module) -> int | None:
        """See `Detector`."""
        network: Any = bare(model)
        return int(network.config.num_labels)


class Ultralytics:
    """YOLO networks of ultralytics, with the loss that they bring; the library is there if the network is."""

    threshold = 0.001
    overlap = 0.7
    """Smallest score, and largest IoU of two boxes of a class, as in that library's validation."""
    most = 300

    def losses(self, model: nn.Module, images: torch.Tensor, targets: Sequence[Target]) -> Losses:
        """See `Detector`."""
        network: Any = bare(model)
        if not hasattr(network, "args"):
            network.args = sys.modules["ultralytics.utils"].DEFAULT_CFG
        counts = torch.tensor([len(each["labels"]) for each in targets], device=images.device)
        batch = {
            "img": images,
            "batch_idx": torch.arange(len(targets), device=images.device).repeat_interleave(counts).float(),
            "cls": torch.cat([each["labels"] for each in targets]).float()[:, None],
            "bboxes": torch.cat([_centred(each["boxes"], images.shape[-2:]) for each in targets]),
        }
        # a new one each time: it copies sizes of the last layer, which a cut may change
        losses, _ = network.init_criterion()(model(images), batch)
        names = ("box", "class", "distribution")
        return {name: losses[index] for index, name in enumerate(names)} if losses.ndim else {"loss": losses}

    def detections(self, model: nn.Module, images: torch.Tensor) -> Detections:
        """See `Detector`."""
        found = model(images)
        rows = (found[0] if isinstance(found, tuple | list) else found).float()
        if rows.shape[-1] == 6:  # without suppression: corners, score and label
            return [{"boxes": each[:, :4], "scores": each[:, 4], "labels": each[:, 5].long()} for each in rows]
        return [self._suppressed(each) for each in rows.transpose(1, 2)]

    def classes(self, model: nn.Module) -> int | None:
        """See `Detector`."""
        network: Any = bare(model)
        return int(network.model[-1].nc)

    def _suppressed(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        from torchvision.ops import batched_nms

        places, labels = torch.nonzero(rows[:, 4:] > self.threshold, as_tuple=True)
        scores, boxes = rows[places, 4 + labels], _cornered(rows[places, :4])
        stay = batched_nms(boxes, scores, labels, self.overlap)[: self.most]
        return {"boxes": boxes[stay], "scores": scores[stay], "labels": labels[stay]}


class Automatic:
    """The way of calling a network by the library of its class; torchvision's for other networks."""

    def losses(self, model: nn.Module, images: torch.Tensor, targets: Sequence[Target]) -> Losses:
        """See `Detector`."""
        return self._fitting(model).losses(model, images, targets)

    def detections(self, model: nn.Module, images: torch.Tensor) -> Detections:
        """See `Detector`."""
        return self._fitting(model).detections(model, images)

    def classes(self, model: nn.Module) -> int | None:
        """See `Detector`."""
        return self._fitting(model).classes(model)

    def _fitting(self, model: nn.Module) -> Detector:
        library = type(bare(model)).__module__.partition(".")[0]
        return DETECTORS[library if library in DETECTORS.names() else "torchvision"]()


DETECTORS: Registry[type[Detector]] = Registry(
    "way of calling a detector",
    "edakari.detectors",
    {
        "auto": "edakari.tasks.detectors:Automatic",
        "torchvision": "edakari.tasks.detectors:Torchvision",
        "transformers": "edakari.tasks.detectors:Transformers",
        "ultralytics": "edakari.tasks.detectors:Ultralytics",
    },
    members=("losses", "detections", "classes"),
)
"""Ways of calling detectors, by name."""


def bare(model: nn.Module) -> nn.Module:
    """Return the network inside of wrappers such as `DistributedDataParallel`."""
    while (found := inner(model)) is not None:
        model = found
    return model


@contextlib.contextmanager
def learning(model: nn.Module) -> Iterator[None]:
    """Context in which a detector computes losses while norms and dropouts stay in the mode that they are in."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            if not isinstance(module, QUIET):
                module.training = True
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def _centred(boxes: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Corners in pixels as centre, width and height in fractions of the image."""
    height, width = size
    scale = torch.tensor([width, height, width, height], device=boxes.device)
    low, high = boxes[:, :2], boxes[:, 2:]
    return torch.cat([(low + high) / 2, high - low], 1) / scale


def _cornered(boxes: torch.Tensor) -> torch.Tensor:
    """Centre, width and height as corners."""
    centre, sides = boxes[..., :2], boxes[..., 2:4]
    return torch.cat([centre - sides / 2, centre + sides / 2], -1)
