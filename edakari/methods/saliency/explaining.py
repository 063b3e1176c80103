"""Training an explainer of a frozen network: first a predictor of masked images, then the explainer by it.

Ganjdanesh et al., ECCV 2022, section 3, after REAL-X (Jethani et al., 2021): the predictor learns on random masks what
the network says of whole images, and is then left as it is. An explainer that was trained together with it could agree
on a code with it; one that comes later has to leave the pixels in place that tell.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch
from torch import nn

from edakari.core.copying import copied
from edakari.core.finite import finite
from edakari.core.graph import Graph
from edakari.core.layout import kept as kept_positions
from edakari.core.method import Job
from edakari.core.modes import eval_mode, judging
from edakari.core.plan import Plan
from edakari.core.protocols import Batch, Schedule, Task
from edakari.errors import DataError, ModelError
from edakari.graph.taps import Tap, Tapped
from edakari.methods.saliency.losses import area, divergence, roughness
from edakari.models.explainer import Explainer
from edakari.models.saliency import Family, Frame, random_masks, relaxed_sample
from edakari.models.weights import weights_digest
from edakari.surgery.applying import masks_of
from edakari.train.best import KeepBest
from edakari.train.part import PartOfEach

__all__ = [
    "Explained",
    "ExplainerSettings",
    "LabelSource",
    "PredictorSettings",
    "Saliency",
    "agreement",
    "checked",
    "fit_explainer",
    "fit_predictor",
    "frozen",
    "labelled",
    "unchanged",
    "widened",
]

M = TypeVar("M", bound=nn.Module)
LabelSource = Literal["data", "predicted"]
_Terms = Mapping[str, torch.Tensor]


@dc.dataclass(frozen=True, kw_only=True)
class PredictorSettings:
    """How the predictor is trained.

    Args:
        schedule: of the training.
        start: "pretrained" begins with the network's own weights, "scratch" with random ones.
        family: of the random masks.
        widths: least and largest width of radial masks, as shares of the image's side.
        temperature: of the samples.
        share: of the training data, what an epoch passes over.
    """

    schedule: Schedule
    start: Literal["pretrained", "scratch"]
    family: Family
    widths: tuple[float, float]
    temperature: float
    share: float = 1.0


@dc.dataclass(frozen=True, kw_only=True)
class ExplainerSettings:
    """How the explainer is trained.

    Args:
        schedule: of the training.
        family: of its masks.
        area: weight of the masks' area.
        power: of the pixels in it.
        roughness: weight of the masks' roughness.
        temperature: of the samples.
        labels: "data", or "predicted": what the network itself says.
        share: of the training data, what an epoch passes over.
    """

    schedule: Schedule
    family: Family
    area: float
    power: float
    roughness: float
    temperature: float
    labels: LabelSource
    share: float = 1.0


class Explained(nn.Module):
    """A network that stays as it is, and an explainer that reads its feature maps.

    Args:
        network: the network.
        taps: where it is read.
        explainer: of it.
        adjusted: what a feature map goes through before the explainer reads it.
    """

    def __init__(
        self,
        network: nn.Module,
        taps: Sequence[Tap],
        explainer: Explainer,
        adjusted: Callable[[Tap, torch.Tensor], torch.Tensor] = lambda tap, features: features,
    ) -> None:
        super().__init__()
        self.tapped, self.explainer, self.adjusted = Tapped(network, taps), explainer, adjusted

    def train(self, mode: bool = True) -> Explained:
        """Put the explainer in a mode; the network stays in evaluation mode."""
        self.training = mode
        self.explainer.train(mode)
        self.tapped.eval()
        return self

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [N, classes], and explanations as the explainer gives them.

        Args:
            images: float [N, C, H, W].
            labels: int64 [N]; None takes what the network says.
        """
        logits, maps = self.tapped(images)
        labels = logits.argmax(1) if labels is None else labels
        maps = [self.adjusted(tap, each) for tap, each in zip(self.tapped.taps, maps, strict=True)]
        return logits, self.explainer(maps, labels)


@dc.dataclass(frozen=True)
class Saliency:
    """What explains a network.

    Args:
        taps: where the network is read.
        explainer: of the network.
        predictor: of masked images.
        agreement: fraction of the calibration images whose masked form the predictor classifies as the network does.
    """

    taps: tuple[Tap, ...]
    explainer: Explainer
    predictor: nn.Module
    agreement: float


def checked(task: Task, model: nn.Module, labels: LabelSource) -> tuple[Frame, int]:
    """What images look like, and how many classes there are.

    Raises:
        ModelError: the network's outputs are not finite.
        DataError: batches are no labelled images, or network and data have different classes, or there is only one.
    """
    batch = next(iter(task.batches("calibration")), None)
    if batch is None:
        raise DataError(
            "the calibration split is empty, and nothing can be explained without images; raise data.calibration_size"
        )
    images, given = labelled(batch, labels)
    with judging(model):
        logits = task.outputs(model, batch)
    if logits.ndim != 2:
        raise DataError(f"ISP explains the classes of whole images, but the network gives {list(logits.shape)}")
    if not finite(logits):
        raise ModelError("ISP explains what a network says, but its outputs are not finite (NaN or infinite)")
    classes = logits.shape[1]
    if classes < 2:
        raise DataError("ISP asks where a network looks to tell classes apart, but it has a single one")
    if given is not None and int(given.max()) >= classes:
        raise DataError(f"the data has class {int(given.max())}, but the network has {classes} only (from 0 on)")
    return Frame(images.shape[2], images.shape[3]), classes


def labelled(batch: Batch, labels: LabelSource) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Images, and their labels where the data's own are asked for.

    Raises:
        DataError: a batch holds something else.
    """
    parts = list(batch) if isinstance(batch, list | tuple) else [batch]
    images = parts[0]
    if not isinstance(images, torch.Tensor) or images.ndim != 4:
        raise DataError(f"ISP needs batches of images [N, C, H, W], but they begin with {type(images).__name__}")
    if labels == "predicted":
        return images, None
    given = parts[1] if len(parts) > 1 else None
    if not isinstance(given, torch.Tensor) or given.shape != images.shape[:1]:
        raise DataError(
            "ISP needs a class for every image; where there is none, method.labels: predicted takes its own"
        )
    return images, given


def fit_predictor(job: Job, frame: Frame, settings: PredictorSettings) -> nn.Module:
    """A network that says of partly masked images what the job's network says of whole ones (stage 1)."""
    dense, predictor = job.model, copied(job.model)
    if settings.start == "scratch":
        _reset(predictor, job.seed)

    def masked(images: torch.Tensor) -> torch.Tensor:
        masks = random_masks(len(images), frame, settings.widths, settings.family, images)
        return images * relaxed_sample(masks, settings.temperature)

    def objective(model: nn.Module, batch: Batch) -> Mapping[str, torch.Tensor]:
        images, _ = labelled(batch, "predicted")
        with torch.no_grad():
            aim = dense.to(images.device)(images)
        return {"divergence": divergence(aim, model(masked(images)))}

    def figure() -> float:
        torch.manual_seed(job.seed)  # every epoch is judged by the same masks
        found = [divergence(dense(x), predictor(masked(x))) for x in _images(job.task, dense)]
        return -float(torch.stack(found).mean())

    best = KeepBest(predictor, figure)
    with unchanged("fitting the predictor", dense), eval_mode(dense):
        some = PartOfEach(job.task.batches("train"), settings.share)
        job.fit(predictor, objective, settings.schedule, hooks=[best], batches=some)
    best.restore()
    if best.best is not None:
        job.log("predictor", {"divergence": -best.best, "best epoch": best.epoch})
    return frozen(predictor)


def fit_explainer(
    job: Job, predictor: nn.Module, taps: Sequence[Tap], shape: tuple[Frame, int], settings: ExplainerSettings
) -> Saliency:
    """The explainer of the job's network (stage 2).

    Args:
        job: its network is the encoder, and stays as it is.
        predictor: judges masked images, and stays as it is.
        taps: where the network is read.
        shape: of images, and the number of classes.
        settings: of the training.
    """
    frame, classes = shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        sizes = [(tap.channels, tap.height, tap.width) for tap in taps]
        explainer = Explainer(sizes, classes, frame, settings.family).to(next(job.model.parameters()).device)
    model = Explained(job.model, taps, explainer)

    def judged(network: nn.Module, batch: Batch, sample: Callable[[torch.Tensor], torch.Tensor]) -> _Terms:
        images, labels = labelled(batch, settings.labels)
        logits, raw = network(images, labels)
        shown = sample(explainer.mask(raw))
        said = predictor.to(images.device)(images * shown)
        return {
            "divergence": divergence(logits.detach(), said),
            "area": settings.area * area(shown, settings.power),
            "roughness": settings.roughness * roughness(shown),
        }

    def objective(network: nn.Module, batch: Batch) -> _Terms:
        return judged(network, batch, lambda mask: relaxed_sample(mask, settings.temperature))

    def figure() -> float:
        # differs: the authors keep what agrees most, which are masks that show the whole image
        found = [judged(model, _moved(batch, model), lambda mask: mask) for batch in job.task.batches("calibration")]
        return -float(torch.stack([torch.stack(list(terms.values())).sum() for terms in found]).mean())

    best = KeepBest(explainer, figure)
    with unchanged("fitting the explainer", job.model, predictor):
        some, params = PartOfEach(job.task.batches("train"), settings.share), list(explainer.parameters())
        job.fit(model, objective, settings.schedule, hooks=[best], params=params, batches=some)
    best.restore()
    with judging(model):
        found = agreement(job.task, model, predictor, settings.labels)
    job.log("explainer", {"agreement": found, "best epoch": best.epoch})
    return Saliency(tuple(taps), frozen(explainer), predictor, found)


def widened(plan: Plan, graph: Graph) -> Callable[[Tap, torch.Tensor], torch.Tensor]:
    """Puts zeros where a plan has removed channels of a feature map, so that an explainer can read a cut network."""
    masks = masks_of(plan, graph)

    def whole(tap: Tap, features: torch.Tensor) -> torch.Tensor:
        kept = torch.from_numpy(kept_positions(tap.layout, masks)).to(features.device)
        full = features.new_zeros(len(features), len(kept), *features.shape[2:])
        full[:, kept] = features
        return full

    return whole


def agreement(task: Task, model: Explained, predictor: nn.Module, labels: LabelSource) -> float:
    """Share of the calibration split's images that the predictor, seeing them masked, gives the network's own class."""
    right: list[torch.Tensor] = []
    for batch in task.batches("calibration"):
        images, given = labelled(_moved(batch, model), labels)
        logits, raw = model(images, given)
        right.append(predictor(images * model.explainer.mask(raw)).argmax(1) == logits.argmax(1))
    return float(torch.cat(right).float().mean())


def frozen(model: M) -> M:
    """The network in evaluation mode, none of its parameters asking for gradients, in place."""
    return model.eval().requires_grad_(False)


@contextmanager
def unchanged(what: str, *models: nn.Module) -> Iterator[None]:
    """Proves that networks are left as they are, statistics included.

    Raises:
        ModelError: one was changed.
    """
    before = [weights_digest(model) for model in models]
    yield
    for model, digest in zip(models, before, strict=True):
        if weights_digest(model) != digest:
            raise ModelError(f"{what} changed weights or statistics of {type(model).__name__}, which had to stay")


def _images(task: Task, model: nn.Module) -> Iterator[torch.Tensor]:
    for batch in task.batches("calibration"):
        yield _moved(batch, model)[0]


def _moved(batch: Batch, model: nn.Module) -> Batch:
    device = next(model.parameters()).device
    parts: Iterable[Batch] = batch if isinstance(batch, list | tuple) else [batch]
    return [part.to(device) if isinstance(part, torch.Tensor) else part for part in parts]


def _reset(model: nn.Module, seed: int) -> None:
    """Random weights, in place, where modules know how to draw them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
