"""Settings of the data section of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from edakari.core.protocols import Task
from edakari.core.registry import Registry
from edakari.core.settings import BelowOne, Count, OpenFraction, Positive, Seed, Whole, settings

__all__ = ["TASKS", "Augment", "DataSettings", "TaskFactory"]

Augment = Literal["none", "light", "jitter", "timm"]
LARGEST = 16384
"""Largest side of an image; above it, a batch of one does not fit into memory."""
TaskFactory = Callable[["DataSettings", int], Task]
"""From what a recipe says about data, and the seed of the training's order, to the task."""
TASKS: Registry[TaskFactory] = Registry(
    "task",
    "edakari.tasks",
    {
        "classification": "edakari.tasks.classify:classification",
        "multilabel": "edakari.tasks.multilabel:multilabel",
        "segmentation": "edakari.tasks.segment:segmentation",
    },
    members=("metric", "example", "batches", "outputs", "loss", "evaluate"),
)
"""What makes a task, by the name that a recipe gives it."""


@settings
class DataSettings:
    """Where images come from and how they become batches.

    Args:
        task: what images show. "classification": one class each; "multilabel": any number of classes each;
            "segmentation": a class at every pixel; or one of your own, by its registered name or
            "path/to/file.py:name".
        source: "embedded:fashion", an image folder (with `train/` and `val/` in it, or classes only), an .npz file, or
            a source of your own: "NAME", "NAME:ARGUMENT" of a registered one, or "path/to/file.py:name".
        train: training data, .npz files or one image folder; takes the place of `source`.
        val: validation data; None takes `source`'s own, else a part of the training data (`val_share`).
        image_size: side of the network's input; None is as stored for .npz, 224 for folders.
        channels: number of channels of the network's input; None is as stored.
        mean: mean of each channel, for pixels in 0 to 1; None is the data set's own for embedded data and ImageNet's
            for folders, and is computed from the training images for .npz.
        std: standard deviation of each channel; None as for `mean`.
        augment: augmentation of the training split. "none"; "light": mirror and shift (.npz and sizes up to 64) or
            random resized crop and mirror; "jitter": "light" after a change of brightness, contrast and saturation by
            up to a fifth; "timm": timm's `create_transform` for training, with RandAugment.
        pad: largest shift in "light" and "jitter", in pixels.
        batch_size: images per batch over all processes.
        workers: number of processes that read files.
        memory_format: memory format of images when they enter the network; convolutions may be faster with
            "channels_last", a network that calls `view` on feature maps needs "contiguous".
        calibration_size: number of images in the "calibration" split, which is drawn from the training split in
            proportion to the classes and is not augmented.
        hold_out: remove the images of the "calibration" split from the training split. Nothing trains on them then, nor
            has `edakari train` with the same `data`.
        val_share: fraction of the training data that becomes the validation split if there is none.
        max_images: largest number of training images, drawn in proportion to the classes; None takes all.
        metric: main metric: "top1" or "top5" in classification; "map", mean average precision, with several classes an
            image; "miou", mean intersection over union, or "pixel_accuracy" in segmentation; None is the first.
        label_smoothing: label smoothing of the loss (Szegedy et al., 2016, section 7); classification only.
        ignore_index: label of pixels that do not count; segmentation only.
        seed: seed of the splits and subsets: `max_images`, `val_share` and `calibration_size`. The recipe's own `seed`
            draws everything else.
    """

    task: Annotated[str, TASKS] = "classification"
    source: str = "embedded:fashion"
    train: tuple[str, ...] = ()
    val: str | None = None
    image_size: Annotated[int, Interval(ge=1, le=LARGEST)] | None = None
    channels: Literal[1, 3] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[Positive, ...] | None = None
    augment: Augment = "light"
    pad: Whole = 4
    batch_size: Count = 128
    workers: Whole = 2
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    calibration_size: Count = 1024
    hold_out: bool = False
    val_share: OpenFraction = 0.1
    max_images: Annotated[int, Ge(2)] | None = None
    metric: str | None = None
    label_smoothing: BelowOne = 0.0
    ignore_index: int = 255
    seed: Seed = 0
