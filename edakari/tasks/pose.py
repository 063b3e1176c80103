"""Keypoints of objects whose boxes are known, by heatmaps (top-down pose estimation)."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

import torch
from torch import nn

from edakari.core.output_kinds import OutputKind
from edakari.core.protocols import Batch, Split
from edakari.core.settings import BelowOne, Fraction, NonNegative, Positive, PositiveFraction, settings
from edakari.errors import DataError, UnknownName
from edakari.tasks.annotated import annotated_images
from edakari.tasks.base import ImageTask
from edakari.tasks.drawing import pointed
from edakari.tasks.example_data import ExampleData, divided_examples
from edakari.tasks.oks import KeypointPrecision, points_in_original, sigmas_for
from edakari.tasks.pose_data import UPPER, Cropping, PoseChanges, pose_crops
from edakari.tasks.settings import DataSettings
from edakari.tasks.sources.examples import Wanted
from edakari.tasks.splits import IMAGENET, evaluating, images_for, named_metric, require_own

__all__ = ["Pose", "PoseSettings", "heatmaps", "peaks"]


@settings
class PoseSettings:
    """Keypoints of objects whose boxes are known, by one heatmap for each keypoint.

    Args:
        sigma: deviation of the Gaussian around a keypoint, in pixels of the heatmap.
        flip_test: whether evaluation averages the heatmaps of an image and of its mirror image.
        sigmas: how far off each keypoint may be, relative to the object's size; () takes COCO's for 17 keypoints, and
            0.05 for each otherwise.
        scale: largest random change of a crop's size, as a fraction.
        shift: largest random change of a crop's centre, as a fraction of the box.
        rotation: deviation of the random angle in degrees; 60 % of the crops are rotated, by twice of it at most.
        half_body: fraction of the crops that show the upper or the lower half of a body.
        upper_body: names of the keypoints of the upper half; () takes COCO's for 17 keypoints.
        average: keypoints over which the squared error is averaged: "labelled" ones; or "all", where unlabelled ones
            have none, and half of it is taken (Sun et al., 2019).
        oks_nms: similarity (OKS) above which the worse of two poses in an image is dropped in evaluation; 1 keeps all.
    """

    sigma: Positive = 2.0
    flip_test: bool = False
    sigmas: tuple[Positive, ...] = ()
    scale: BelowOne = 0.25
    shift: BelowOne = 0.1
    rotation: NonNegative = 0.0
    half_body: Fraction = 0.0
    upper_body: tuple[str, ...] = ()
    average: Literal["labelled", "all"] = "labelled"
    oks_nms: PositiveFraction = 1.0

    output_kind: ClassVar[OutputKind] = "heatmaps"

    def make(self, data: DataSettings, seed: int = 0) -> Pose:
        """Read the annotations, but no images.

        Args:
            data: settings of the data; `image_size` is the size of a crop. `max_images` and `calibration_size` count
                objects.
            seed: seed of the training's order and augmentation.

        Raises:
            DataError: the data is missing, damaged or of the wrong form.
            UnknownName: the metric or the format is unknown.
        """
        named_metric(data, Pose.metrics)
        require_own(data, "pose")
        if data.size is None:
            raise DataError(
                "data.task pose needs data.image_size, the size of a crop: [height, width], such as [256, 192]"
            )
        train, val = annotated_images(data, Wanted("keypoints", broken=data.broken))
        splits, notes = divided_examples(data, pose_crops(train), None if val is None else pose_crops(val))
        mean, std = (values * (3 // len(values)) for values in (data.mean or IMAGENET[0], data.std or IMAGENET[1]))
        pairs = tuple(getattr(train, "flip_pairs", ()))
        changes = PoseChanges(self.scale, self.shift, self.rotation, self.half_body, self._upper(splits["train"]))
        cropping = Cropping(data.size, pairs, changes)
        return Pose(ExampleData(data, splits, data.size, (mean, std), cropping, notes=notes, seed=seed), self, pairs)

    def _upper(self, examples: Any) -> tuple[int, ...]:
        """Indices of the keypoints of the upper body, where they are needed."""
        joints = list(getattr(examples, "joints", ()))
        unknown = [name for name in self.upper_body if name not in joints]
        if unknown:
            raise UnknownName("keypoint", unknown[0], joints)
        upper = tuple(joints.index(name) for name in self.upper_body) or UPPER.get(len(joints), ())
        if self.half_body and not upper:
            raise DataError(
                f"data.task.half_body needs data.task.upper_body, some names of the data's {len(joints)} keypoints: "
                f"{', '.join(joints)}"
            )
        return upper


@final
@dc.dataclass(frozen=True, eq=False)
class Pose(ImageTask):
    """Keypoints of objects whose boxes are known: squared error of heatmaps, and average precision by COCO's OKS.

    Args:
        data: crops of objects with `keypoints` and `visible`.
        options: settings of the task.
        flip_pairs: keypoints that change places in a mirrored image.
    """

    data: ExampleData
    options: PoseSettings = dc.field(default_factory=PoseSettings)
    flip_pairs: tuple[tuple[int, int], ...] = ()

    metrics = ("oks_map", "oks_map50")

    @property
    def num_outputs(self) -> int:
        """Number of keypoints."""
        return len(self.data.joints)

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return heatmaps [N, K, height, width]; the network may give them as `heatmaps`.

        Raises:
            DataError: the network gives something else, or another number of keypoints than the data has.
        """
        return self._maps(model, images_for(model, batch, self.data.settings))

    def loss(self, outputs: torch.Tensor, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Return the term "heatmaps", the mean squared error over keypoints; see `average` of the settings."""
        points = torch.cat([torch.as_tensor(each["keypoints"]).as_subclass(torch.Tensor) for each in batch[1]])
        seen = torch.cat([each["visible"] for each in batch[1]]).to(outputs.device) > 0
        height, width = outputs.shape[-2:]
        high, wide = self.data.size
        aims = heatmaps(points.to(outputs) * torch.tensor([width / wide, height / high]).to(outputs), (height, width),
                        self.options.sigma)  # fmt: skip
        inside = seen & (aims.amax((2, 3)) > 0)
        each = (outputs.float() - aims).square().mean((2, 3)) * inside
        if self.options.average == "all":
            return {"heatmaps": each.mean() / 2}
        return {"heatmaps": each.sum() / inside.sum().clamp(min=1)}

    def divergence(self, outputs: torch.Tensor, aims: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return the mean squared difference from a teacher's heatmaps, both divided by the temperature."""
        return ((outputs.float() - aims.float()) / temperature).square().mean()

    def drawn(self, image: torch.Tensor, shown: Any) -> torch.Tensor:
        """Draw labelled keypoints of a target, or the peaks of heatmaps; see `edakari.explain.predictions`."""
        if isinstance(shown, Mapping):
            return pointed(image, shown["keypoints"], shown["visible"] > 0)
        places, _ = peaks(shown[None])
        scale = torch.tensor([image.shape[2] / shown.shape[2], image.shape[1] / shown.shape[1]])
        return pointed(image, places.cpu() * scale)

    def evaluate(self, model: nn.Module, split: Split = "val") -> Mapping[str, float]:
        """Compute average precision in pixels of the images as they were, with the annotated boxes.

        Returns:
            "oks_map", mean over OKS thresholds 0.5 to 0.95, "oks_map50", and "loss".
        """
        count = len(self.data.joints)
        precision = KeypointPrecision(sigmas_for(self.options.sigmas, count), self.classes, self.options.oks_nms)
        losses = []
        with evaluating(model):
            for batch in self.batches(split):
                maps = self.outputs(model, batch)
                losses.append(float(self.loss(maps, batch)["heatmaps"]))
                points, scores = peaks(self._flipped(model, batch, maps) if self.options.flip_test else maps)
                scale = torch.tensor([self.data.size[1] / maps.shape[-1], self.data.size[0] / maps.shape[-2]])
                for target, pose, score in zip(batch[1], points.cpu() * scale, scores.cpu(), strict=True):
                    there = points_in_original(pose[None], target)
                    precision.add(target, target["labels"], there, score.mean()[None], target["image"])
        return {**precision.compute(), "loss": sum(losses) / max(1, len(losses))}

    def _maps(self, model: nn.Module, images: torch.Tensor) -> torch.Tensor:
        found: Any = model(images)
        maps = getattr(found, "heatmaps", found)
        count = len(self.data.joints)
        if not isinstance(maps, torch.Tensor) or maps.ndim != 4 or maps.shape[1] != count:
            shape = list(maps.shape) if isinstance(maps, torch.Tensor) else type(maps).__name__
            raise DataError(
                f"the network gives {shape} for a batch, but the data has {count} keypoints, which are heatmaps [N, "
                f"{count}, height, width]"
            )
        return maps

    def _flipped(self, model: nn.Module, batch: Batch, maps: torch.Tensor) -> torch.Tensor:
        """The mean of the heatmaps and of those of the mirrored images, mirrored back."""
        mirrored = self._maps(model, images_for(model, batch, self.data.settings).flip(3)).flip(3)
        order = list(range(maps.shape[1]))
        for first, second in self.flip_pairs:
            order[first], order[second] = second, first
        return (maps + mirrored[:, order]) / 2


def heatmaps(points: torch.Tensor, size: tuple[int, int], sigma: float) -> torch.Tensor:
    """Return Gaussians of height 1 around keypoints (Xiao et al., 2018, section 2); 0 for points outside.

    Args:
        points: x and y in pixels of the heatmap, float [N, K, 2]; (0.5, 0.5) is the middle of the first pixel.
        size: height and width of the heatmaps.
        sigma: deviation in pixels.

    Returns:
        float [N, K, height, width].
    """
    y, x = (torch.arange(side, device=points.device, dtype=points.dtype) + 0.5 for side in size)
    across, down = (x - points[..., :1]) ** 2, (y - points[..., 1:2]) ** 2
    maps = torch.exp(-(down[..., :, None] + across[..., None, :]) / (2 * sigma**2))
    inside = ((points >= 0) & (points < torch.tensor([size[1], size[0]]).to(points))).all(-1)
    return maps * inside[..., None, None]


def peaks(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the place of the largest value of each heatmap, moved a quarter pixel towards its larger neighbour.

    Args:
        maps: heatmaps, float [N, K, height, width].

    Returns:
        Places in pixels of the heatmap, float [N, K, 2], and values, float [N, K] (Newell et al., 2016, section 3.3).
    """
    width = maps.shape[-1]
    values, flat = maps.float().flatten(2).max(-1)
    y, x = flat // width, flat % width
    padded = nn.functional.pad(maps.float(), (1, 1, 1, 1), mode="replicate").flatten(2)

    def at(down: int, right: int) -> torch.Tensor:
        place = (y + 1 + down) * (width + 2) + x + 1 + right
        return padded.gather(2, place[..., None])[..., 0]

    steps = torch.stack([at(0, 1) - at(0, -1), at(1, 0) - at(-1, 0)], -1).sign() / 4
    return torch.stack([x, y], -1) + 0.5 + steps, values
