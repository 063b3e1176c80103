"""Settings of the data section of a recipe."""

from __future__ import annotations

import dataclasses as dc
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval

from edakari.core.memory_format import AnyFormat
from edakari.core.registry import Registry
from edakari.core.settings import Count, OpenFraction, Positive, Seed, Whole, settings
from edakari.errors import SettingsError
from edakari.tasks.choice import TaskSettings, settings_of_task
from edakari.tasks.sources.examples import Broken

__all__ = ["TASKS", "Augment", "DataSettings", "Side"]

Augment = Literal["none", "light", "jitter", "timm"]
LARGEST = 16384
"""Largest side of an image; above it, a batch of one does not fit into memory."""
Side = Annotated[int, Interval(ge=1, le=LARGEST)]
"""Pixels of a side of the network's input."""
TASKS: Registry[type[TaskSettings]] = Registry(
    "task",
    "edakari.tasks",
    {
        "classification": "edakari.tasks.classify:ClassificationSettings",
        "depth": "edakari.tasks.depth:DepthSettings",
        "detection": "edakari.tasks.detection:DetectionSettings",
        "embedding": "edakari.tasks.embedding:EmbeddingSettings",
        "instance_segmentation": "edakari.tasks.instances:InstanceSettings",
        "keypoints": "edakari.tasks.keypoints:KeypointSettings",
        "multilabel": "edakari.tasks.multilabel:MultiLabelSettings",
        "pose": "edakari.tasks.pose:PoseSettings",
        "regression": "edakari.tasks.regression:RegressionSettings",
        "segmentation": "edakari.tasks.segment:SegmentationSettings",
        "super_resolution": "edakari.tasks.super_resolution:SuperResolutionSettings",
    },
    members=("make",),
    adapt=settings_of_task,
)
"""Settings of tasks, by the name that a recipe gives them."""


@settings
class DataSettings:
    """Where images come from and how they become batches.

    Args:
        task: what the network does, with the settings of that task: "classification": one class each; "multilabel": any
            number of classes each; "segmentation": a class at every pixel; "detection": objects in boxes;
            "instance_segmentation": objects with masks; "keypoints": objects with keypoints; "pose": keypoints
            of objects whose boxes are known; "depth": how far away each pixel is; "super_resolution": an image of
            higher resolution; "embedding": vectors that are near for images of one class; "regression": one or several
            numbers for each image; or your own, by its registered name or "path/to/file.py:name".
        source: "embedded:fashion", an image folder (with `train/` and `val/` in it, or classes only), an .npz file, a
            source of annotated images, "FORMAT:PATH", or a source of your own: "NAME", "NAME:ARGUMENT" of a registered
            one, or "path/to/file.py:name". Numbers for regression: an .npz file, a .csv table (file, then numbers) or
            a folder with `train.csv` and `val.csv`.
        train: training data, .npz files or one image folder; takes the place of `source`.
        val: validation data; None takes `source`'s own, else a part of the training data (`val_share`).
        image_size: height and width of the network's input, or one number for both; None is as stored for .npz, for
            maps of one size, and for data sets of images of one size up to 224, and else 224 for images of classes.
        resize: how annotated images and maps get the network's size: "stretch" changes their aspect, "letterbox" keeps
            it and fills the rest with grey. Images of classes are cropped instead.
        broken: what happens to broken annotations: "stop" counts and names them in an error; "drop" removes them;
            "clip" cuts boxes off at the border of the image, and removes what is broken otherwise.
        channels: number of channels of the network's input; None is as stored.
        mean: mean of each channel, for pixels in 0 to 1; None is the data set's own for embedded data and ImageNet's
            for folders and data sets, and is computed from the training images for .npz. Detectors and
            super-resolution take 0.
        std: standard deviation of each channel; None as for `mean`; detectors and super-resolution take 1.
        augment: augmentation of the training split. "none"; "light": mirror and shift (.npz and sizes up to 64) or
            random resized crop (with a map: zoom and crop) and mirror; "jitter": "light" after a change of brightness,
            contrast and saturation by up to a fifth; "timm": timm's `create_transform` for training, with RandAugment.
        pad: largest shift in "light" and "jitter", in pixels.
        batch_size: images per batch over all processes.
        val_batch_size: images per batch of the validation split; None is `batch_size`.
        drop_last: leave out an incomplete last batch in training; a last batch of one image is always left out.
        workers: number of processes that read files; they stay from pass to pass.
        memory_format: memory format of the network and its images in training and evaluation. "auto" is "channels_last"
            for convolutional networks whose code allows it, and "contiguous" for others; where layers alone do not
            tell, both are timed once.
        device: device that makes the images of training and validation: "cpu", or "auto" for a GPU if there is one. The
            GPU's memory must have room for all images of .npz files, as bytes; they are augmented there. Images of
            files are copied to it as bytes, and normalised there. A small network then does not wait for the processor.
        transforms: what crops, resizes, mirrors and recolours images of files with a class or numbers: "workers", or
            the "device", so that workers only read and decode; this needs `device: auto`. Images are the same up to
            rounding. Without a GPU, workers transform them in either case.
        calibration_size: number of images in the "calibration" split, which is drawn from the training split in
            proportion to the classes and is not augmented.
        hold_out: remove the images of the "calibration" split from the training split. Nothing trains on them then, nor
            has `edakari train` with the same `data`.
        val_share: fraction of the training data that becomes the validation split if there is none.
        max_images: largest number of training images, drawn in proportion to the classes; None takes all.
        metric: main metric, of which larger is better: "top1" or "top5" in classification; "map" with several classes
            an image; "miou", "pixel_accuracy" or "mean_accuracy" in segmentation; "delta1", "minus_abs_rel" or
            "minus_rmse" in depth; "psnr" or "ssim" in super-resolution; "recall_at_1", "recall_at_5" or "map_at_r" of
            embeddings; "r2", "minus_mae" or "minus_rmse" in regression; "map", "mask_map" or "oks_map" of objects; None
            is the first that the task has.
        seed: seed of the splits and subsets: `max_images`, `val_share` and `calibration_size`. The recipe's own `seed`
            draws everything else.
        datasets: map-style data sets of a program, for training and for validation, which may be None; they take the
            place of `source`, and no recipe can hold them.
    """

    task: Annotated[TaskSettings, TASKS] = "classification"  # type: ignore[assignment]
    source: str = "embedded:fashion"
    train: tuple[str, ...] = ()
    val: str | None = None
    image_size: Side | tuple[Side, Side] | None = None
    resize: Literal["stretch", "letterbox"] = "stretch"
    broken: Broken = "clip"
    channels: Literal[1, 3] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[Positive, ...] | None = None
    augment: Augment = "light"
    pad: Whole = 4
    batch_size: Count = 128
    val_batch_size: Count | None = None
    drop_last: bool = False
    workers: Whole = 2
    memory_format: AnyFormat = "auto"
    device: Literal["cpu", "auto"] = "cpu"
    transforms: Literal["workers", "device"] = "workers"
    calibration_size: Count = 1024
    hold_out: bool = False
    val_share: OpenFraction = 0.1
    max_images: Annotated[int, Ge(2)] | None = None
    metric: str | None = None
    seed: Seed = 0
    datasets: tuple[Any, Any] | None = dc.field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.transforms == "device" and self.device == "cpu":
            raise SettingsError("DataSettings: transforms is 'device', but device is 'cpu'; set device to 'auto'")
        if self.transforms == "device" and self.augment == "timm":
            raise SettingsError(
                "DataSettings: transforms is 'device', but augment is 'timm', whose transforms work on Pillow's images "
                "on the CPU; set transforms to 'workers', or augment to 'light' or 'jitter'"
            )

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the network's input; None where they follow from the data."""
        given = self.image_size
        return (given, given) if isinstance(given, int) else given
