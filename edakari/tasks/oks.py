"""Average precision of keypoints by object keypoint similarity (OKS), as COCO defines it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from edakari.core.optional import needs
from edakari.core.processes import Processes
from edakari.errors import DataError
from edakari.tasks.placing import sent_back

__all__ = ["COCO_SIGMAS", "KeypointPrecision", "points_in_original", "sigmas_for"]

COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072,
    0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089,
)  # fmt: skip
"""Deviation of each of COCO's 17 keypoints among annotators, relative to the person's size."""
OTHER = 0.05


def sigmas_for(given: Sequence[float], count: int) -> tuple[float, ...]:
    """Return one sigma for each keypoint: those given, else COCO's for 17 keypoints, else 0.05.

    Raises:
        DataError: another number of sigmas than of keypoints is given.
    """
    if given and len(given) != count:
        raise DataError(f"data.task has {len(given)} sigmas, but the data has {count} keypoints; give one for each")
    return tuple(given) or (COCO_SIGMAS if count == len(COCO_SIGMAS) else (OTHER,) * count)


def points_in_original(points: torch.Tensor, target: Mapping[str, Any]) -> torch.Tensor:
    """Return keypoints of the network's input in pixels of the image as it was, on the CPU.

    Args:
        points: float [n, K, 2 or more]; what stands behind x and y is left out.
        target: the target of the image, which knows how it was resized.
    """
    flat = torch.as_tensor(points).as_subclass(torch.Tensor)[..., :2].float().cpu()
    scale, offset = target["placed"][:2], target["placed"][2:]
    back: torch.Tensor = (flat - offset) / scale
    return back


class KeypointPrecision:
    """Collects keypoints of images; mutable state of an evaluation.

    Args:
        sigmas: deviation of each keypoint.
        classes: names of the classes.
        suppression: similarity above which the worse of two poses in an image is dropped; 1 keeps all.
    """

    def __init__(self, sigmas: Sequence[float], classes: Sequence[str], suppression: float = 1.0) -> None:
        self.sigmas, self.classes, self.suppression = tuple(sigmas), tuple(classes), suppression
        self.truth: list[dict[str, Any]] = []
        self.found: list[dict[str, Any]] = []
        self.calls = 0

    def add(
        self,
        target: Mapping[str, Any],
        labels: torch.Tensor,
        points: torch.Tensor,
        scores: torch.Tensor,
        image: int | None = None,
    ) -> None:
        """Add an image, or a part of one.

        Args:
            target: what it shows, in pixels of the network's input; its `area` is that of the image as it was.
            labels: predicted classes, int64 [n].
            points: predicted keypoints in pixels of the image as it was, float32 [n, K, 2].
            scores: predicted scores, float32 [n].
            image: number of the image, if several calls add parts of it; None is another image in each call.

        Raises:
            DataError: the network has another number of keypoints than the data.
        """
        if len(points) and points.shape[1] != len(self.sigmas):
            raise DataError(f"the network gives {points.shape[1]} keypoints, but the data has {len(self.sigmas)}")
        key = (Processes.here().rank, self.calls) if image is None else (-1, image)
        self.calls += 1
        where, seen = points_in_original(target["keypoints"], target), target["visible"]
        corners = sent_back(torch.as_tensor(target["boxes"]).float(), target["placed"], target["original"])
        for row in range(len(where)):
            low, high = corners[row, :2], corners[row, 2:]
            self.truth.append(
                {
                    "image_id": key,
                    "category_id": int(target["labels"][row]),
                    "keypoints": torch.cat([where[row], seen[row][:, None].float()], 1).flatten().tolist(),
                    "num_keypoints": int((seen[row] > 0).sum()),
                    "bbox": [*low.tolist(), *(high - low).tolist()],
                    "area": float(target["area"][row]),
                    "iscrowd": int(target["iscrowd"][row]),
                }
            )
        areas = (corners[:, 2:] - corners[:, :2]).prod(1).tolist() if self.suppression < 1 else [0.0] * len(points)
        for label, pose, score, area in zip(labels.tolist(), points, scores.tolist(), areas, strict=True):
            shown = torch.cat([pose, torch.ones(len(pose), 1)], 1).flatten().tolist()
            about = {"image_id": key, "category_id": label, "keypoints": shown, "score": score}
            self.found.append({**about, "size": area})

    def compute(self) -> dict[str, float]:
        """Return "oks_map" and "oks_map50", over all processes; 0 where nothing is annotated or found."""
        with needs("detection", "evaluating keypoints"):
            from faster_coco_eval import COCO, COCOeval_faster
        truth, found = self._of_all()
        if not any(each["num_keypoints"] for each in truth) or not found:
            return {"oks_map": 0.0, "oks_map50": 0.0}
        keys = dict.fromkeys(each["image_id"] for each in (*truth, *found))
        numbers = {key: number for number, key in enumerate(keys)}
        truth, found = ([{**each, "image_id": numbers[each["image_id"]]} for each in some] for some in (truth, found))
        found = self._suppressed(found)
        content = {
            "images": [{"id": number} for number in numbers.values()],
            "categories": [{"id": label, "name": name} for label, name in enumerate(self.classes)],
            "annotations": [{"id": number + 1, **each} for number, each in enumerate(truth)],
        }
        known = COCO(content)
        judge: Any = COCOeval_faster(known, known.loadRes(found), "keypoints", kpt_oks_sigmas=list(self.sigmas))
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
        return {name: max(0.0, float(judge.stats[place])) for place, name in enumerate(("oks_map", "oks_map50"))}

    def _suppressed(self, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The poses that are unlike each better one of their image and class, by COCO's similarity."""
        variances = (2 * torch.tensor(self.sigmas)) ** 2
        kept: dict[tuple[int, int], list[dict[str, Any]]] = {}
        for pose in sorted(found, key=lambda each: -each["score"]):
            better = kept.setdefault((pose["image_id"], pose["category_id"]), [])
            likes = (_similarity(pose, other, variances) for other in better)
            if self.suppression == 1 or not any(like > self.suppression for like in likes):
                better.append(pose)
        rest = [each for some in kept.values() for each in some]
        return [{name: value for name, value in each.items() if name != "size"} for each in rest]

    def _of_all(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Truth and predictions of all processes."""
        world = Processes.here().world
        parts: list[Any] = [None] * world
        if world == 1:
            return self.truth, self.found
        dist.all_gather_object(parts, (self.truth, self.found))
        return [each for truth, _ in parts for each in truth], [each for _, found in parts for each in found]


def _similarity(pose: Mapping[str, Any], other: Mapping[str, Any], variances: torch.Tensor) -> float:
    """Object keypoint similarity of two poses, relative to the mean area of their boxes."""
    one, two = (torch.tensor(each["keypoints"]).view(-1, 3)[:, :2] for each in (pose, other))
    area = max((pose["size"] + other["size"]) / 2, 1e-9)
    return float(torch.exp(-(one - two).square().sum(1) / (2 * area * variances)).mean())
