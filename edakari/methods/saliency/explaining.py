"""Training of an explainer of a frozen network: first a predictor of masked images, then the explainer.

Ganjdanesh et al., ECCV 2022, section 3, after REAL-X (Jethani et al., 2021). The predictor learns to predict, from
randomly masked images, the network's outputs for unmasked ones, and is then frozen. If both were trained together, the
explainer could encode the class in its mask; with a frozen predictor, it has to show the pixels that matter.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from edakari.core.copying import copied
from edakari.core.finite import finite
from edakari.core.method import Job
from edakari.core.modes import eval_mode, judging
from edakari.core.processes import Processes
from edakari.core.protocols import Batch, Schedule, Task
from edakari.errors import DataError, ModelError
from edakari.graph.taps import Tap
from edakari.methods.saliency.asked import Asked, asked
from edakari.methods.saliency.explained import Explained, Saliency, calibration_mean, frozen, moved
from edakari.methods.saliency.losses import area, class_divergence, divergence, roughness
from edakari.models.explainer import Explainer
from edakari.models.saliency import Family, Frame, random_masks, relaxed_sample
from edakari.models.weights import weights_digest
from edakari.train.best import KeepBest
from edakari.train.part import PartOfEach

__all__ = [
    "ExplainerSettings",
    "LabelSource",
    "PredictorSettings",
    "agreement",
    "checked",
    "checked_batch",
    "fit_explainer",
    "fit_predictor",
    "labelled",
    "unchanged",
]

LabelSource = Literal["data", "predicted"]
_Terms = Mapping[str, torch.Tensor]


@dc.dataclass(frozen=True, kw_only=True)
class PredictorSettings:
    """Settings of the training of the predictor.

    Args:
        schedule: schedule of the training.
        start: initial weights: "pretrained" takes the network's own, "scratch" random ones.
        family: family of the random masks.
        widths: smallest and largest width of radial masks, as fractions of the image's side; None takes the authors'
            for the size of the images.
        temperature: temperature of the relaxed samples.
        fraction: fraction of the training data that an epoch uses.
        hard: whether samples are rounded to 0 and 1.
    """

    schedule: Schedule
    start: Literal["pretrained", "scratch"]
    family: Family
    widths: tuple[float, float] | None
    temperature: float
    fraction: float = 1.0
    hard: bool = False


@dc.dataclass(frozen=True, kw_only=True)
class ExplainerSettings:
    """Settings of the training of the explainer.

    Args:
        schedule: schedule of the training.
        family: family of the explainer's masks.
        area: weight of the masks' area.
        power: exponent of the pixels in the area.
        roughness: weight of the masks' roughness.
        temperature: temperature of the relaxed samples.
        labels: classes to explain: "data" takes the labels of the data, "predicted" the network's predictions.
        fraction: fraction of the training data that an epoch uses.
        hard: whether samples are rounded to 0 and 1, with the gradient of those that are not.
    """

    schedule: Schedule
    family: Family
    area: float
    power: float
    roughness: float
    temperature: float
    labels: LabelSource
    fraction: float = 1.0
    hard: bool = False


def checked(task: Task, model: nn.Module, labels: LabelSource) -> tuple[Frame, int]:
    """Check that a network can be explained; returns the size of the images and the number of classes.

    Args:
        task: data, and how the network is called.
        model: network to explain.
        labels: source of the classes to explain.

    Raises:
        ModelError: the network's outputs are not finite.
        DataError: batches are not labelled images, the data has more classes than the network, or there is only one.
    """
    batch = next(iter(task.batches("calibration")), None)
    if batch is None:
        raise DataError("the calibration split is empty, but explanations need images; raise data.calibration_size")
    return checked_batch(task, model, batch, labels)


def checked_batch(task: Task, model: nn.Module, batch: Batch, labels: LabelSource) -> tuple[Frame, int]:
    """Check a network by one batch; see `checked`.

    Args:
        task: see `checked`.
        model: see `checked`.
        batch: images, and labels.
        labels: see `checked`.
    """
    images, given = labelled(batch, labels)
    with judging(model):
        logits = task.outputs(model, batch)
    if logits.ndim != 2:
        raise DataError(f"ISP explains image classification, but the network's outputs have shape {list(logits.shape)}")
    if not finite(logits):
        raise ModelError("ISP explains a network's predictions, but its outputs are not finite (NaN or infinite)")
    classes = logits.shape[1]
    if classes < 2:
        raise DataError("ISP explains how a network tells classes apart, but the network has a single class")
    if _several(batch) and (given is None or given.shape[1] != classes):
        raise DataError(
            "images of several classes are explained by their labels [N, classes], and the network has "
            f"{classes} classes; set method.labels: data, and build the network with as many classes as the data has"
        )
    if given is not None and given.ndim == 1 and int(given.max()) >= classes:
        raise DataError(f"the data has class {int(given.max())}, but the network has only {classes} classes, from 0")
    return Frame(images.shape[2], images.shape[3]), classes


def labelled(batch: Batch, labels: LabelSource) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the images of a batch, and their labels if `labels` is "data".

    Args:
        batch: images [N, C, H, W], or a list that begins with images and labels.
        labels: source of the classes to explain.

    Raises:
        DataError: the batch does not begin with images, or has no label for each image.
    """
    parts = list(batch) if isinstance(batch, list | tuple) else [batch]
    images = parts[0]
    if not isinstance(images, torch.Tensor) or images.ndim != 4:
        raise DataError(f"ISP needs batches of images [N, C, H, W], but they begin with {type(images).__name__}")
    if labels == "predicted":
        return images, None
    given = parts[1] if len(parts) > 1 else None
    if not isinstance(given, torch.Tensor) or given.shape[:1] != images.shape[:1] or not _classes(given):
        raise DataError("ISP needs a class for every image; without labels, set method.labels: predicted")
    return images, given


def _classes(labels: torch.Tensor) -> bool:
    """Whether labels are one class an image, [N], or 0 and 1 for each class, [N, classes]."""
    return labels.ndim == 1 or (labels.ndim == 2 and bool(((labels == 0) | (labels == 1)).all()))


def _several(batch: Batch) -> bool:
    """Whether the images of a batch have several classes."""
    labels = batch[1] if isinstance(batch, list | tuple) and len(batch) > 1 else None
    return isinstance(labels, torch.Tensor) and labels.ndim == 2


def fit_predictor(job: Job, frame: Frame, settings: PredictorSettings) -> nn.Module:
    """Train a network that predicts, from masked images, the job's network's outputs for unmasked ones (stage 1).

    Args:
        job: network and data.
        frame: size of the images.
        settings: settings of the training.
    """
    dense, predictor = job.model, copied(job.model)
    if settings.start == "scratch":
        _reset(predictor, job.seed)

    widths, several = settings.widths or frame.random_widths, _several(next(iter(job.task.batches("calibration"))))

    def apart(aim: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        return class_divergence(aim, outputs).sum(1).mean() if several else divergence(aim, outputs)

    def masked(images: torch.Tensor) -> torch.Tensor:
        masks = random_masks(len(images), frame, widths, settings.family, images)
        return images * relaxed_sample(masks, settings.temperature, settings.hard)

    def objective(model: nn.Module, batch: Batch) -> Mapping[str, torch.Tensor]:
        images, _ = labelled(batch, "predicted")
        with torch.no_grad():
            aim = dense.to(images.device)(images)
        return {"divergence": apart(aim, model(masked(images)))}

    def divergence_of(number: int, batch: Batch) -> torch.Tensor:
        torch.manual_seed(job.seed + number)  # every epoch is evaluated with the same masks
        images = batch[0]
        return apart(dense(images), predictor(masked(images)))

    def figure() -> float:
        return -calibration_mean(job.task, dense, divergence_of)

    best = KeepBest(predictor, figure)
    with unchanged("fitting the predictor", dense), eval_mode(dense):
        some = PartOfEach(job.task.batches("train"), settings.fraction)
        job.fit(predictor, objective, settings.schedule, hooks=[best], batches=some)
    best.restore()
    if best.best is not None:
        job.log("predictor", {"divergence": -best.best, "best epoch": best.epoch})
    return frozen(predictor)


def fit_explainer(
    job: Job, predictor: nn.Module, taps: Sequence[Tap], shape: tuple[Frame, int], settings: ExplainerSettings
) -> Saliency:
    """Train the explainer of the job's network (stage 2).

    Args:
        job: job whose network is the frozen encoder.
        predictor: frozen classifier of masked images.
        taps: modules whose feature maps are read.
        shape: size of the images, and number of classes.
        settings: settings of the training.
    """
    frame, classes = shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        sizes = [(tap.channels, tap.height, tap.width) for tap in taps]
        explainer = Explainer(sizes, classes, frame, settings.family).to(next(job.model.parameters()).device)
    model = Explained(job.model, taps, explainer)

    def terms_of(network: nn.Module, batch: Batch, sample: Callable[[torch.Tensor], torch.Tensor]) -> _Terms:
        images, labels = labelled(batch, settings.labels)
        logits, raw = network(images, labels)
        shown = sample(explainer.mask(raw))
        found = asked(logits.argmax(1) if labels is None else labels)
        outputs, aim = predictor.to(images.device)(found.images(images) * shown), found.images(logits.detach())
        # of several classes, a mask is to show the one that it explains
        own = found.mean(_of(class_divergence(aim, outputs), found)) if found.several else divergence(aim, outputs)
        return {
            "divergence": own,
            "area": settings.area * area(shown, settings.power),
            "roughness": settings.roughness * roughness(shown),
        }

    def objective(network: nn.Module, batch: Batch) -> _Terms:
        return terms_of(network, batch, lambda mask: relaxed_sample(mask, settings.temperature, settings.hard))

    def figure() -> float:
        # differs: the authors select by agreement alone, which prefers masks that show the whole image
        def loss(number: int, batch: Batch) -> torch.Tensor:
            return torch.stack(list(terms_of(model, batch, lambda mask: mask).values())).sum()

        return -calibration_mean(job.task, model, loss)

    best = KeepBest(explainer, figure)
    with unchanged("fitting the explainer", job.model, predictor):
        some, params = PartOfEach(job.task.batches("train"), settings.fraction), list(explainer.parameters())
        job.fit(model, objective, settings.schedule, hooks=[best], params=params, batches=some)
    best.restore()
    with judging(model):
        agreed = agreement(job.task, model, predictor, settings.labels)
    job.log("explainer", {"agreement": agreed, "best epoch": best.epoch})
    return Saliency(tuple(taps), frozen(explainer), predictor, agreed)


def agreement(task: Task, model: Explained, predictor: nn.Module, labels: LabelSource) -> float:
    """Fraction of the calibration images that the predictor, seeing them masked, classifies as the network does.

    Of images of several classes, each class that is explained counts by itself.

    Args:
        task: data.
        model: network and explainer.
        predictor: classifier of masked images.
        labels: source of the classes to explain.
    """
    right: list[float] = []
    for batch in Processes.here().own(task.batches("calibration")):
        images, given = labelled(moved(batch, model), labels)
        logits, raw = model(images, given)
        found = asked(logits.argmax(1) if given is None else given)
        seen, logits = predictor(found.images(images) * model.explainer.mask(raw)), found.images(logits)
        if found.several:
            right += (_of(seen, found) > 0).eq(_of(logits, found) > 0)[found.weights > 0].tolist()
        else:
            right += (seen.argmax(1) == logits.argmax(1)).tolist()
    return Processes.here().mean(right)


@contextmanager
def unchanged(what: str, *models: nn.Module) -> Iterator[None]:
    """Check that the block inside leaves the weights and statistics of networks unchanged.

    Args:
        what: name of the block, for the error.
        models: networks that must not change.

    Raises:
        ModelError: a network was changed.
    """
    before = [weights_digest(model) for model in models]
    yield
    for model, digest in zip(models, before, strict=True):
        if weights_digest(model) != digest:
            raise ModelError(f"{what} changed weights or statistics of {type(model).__name__}, which must not change")


def _of(values: torch.Tensor, found: Asked) -> torch.Tensor:
    """Entries [P] of each pair's class in values [P, classes]."""
    return values.gather(1, found.classes[:, None].to(values.device))[:, 0]


@torch.no_grad()
def _reset(model: nn.Module, seed: int) -> None:
    """Set random weights in place: those of `reset_parameters`, or else the trained values in random order.

    A random order, such as that of a position embedding, keeps the scale of the values and nothing that was learned.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for parameter in module.parameters(recurse=False):
                order = torch.randperm(parameter.numel()).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
