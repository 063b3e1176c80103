"""The settings of a recipe, as plain data."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from edakari.core.budget import Budget
from edakari.core.choosing import Groups
from edakari.core.method import Method, name_of
from edakari.core.plain_values import plain
from edakari.core.protocols import Fit, Schedule
from edakari.core.settings import Count, Fraction, Positive, Seed, Whole, settings
from edakari.core.user_code import names_file
from edakari.errors import SettingsError
from edakari.export import EXPORTERS
from edakari.export.int8 import QuantizeSettings
from edakari.latency.runtimes import RUNTIMES
from edakari.latency.timing import WARMUP
from edakari.models import ModelSpec
from edakari.pipeline.latency_settings import Latencies, LatencySettings, by_cost, matched
from edakari.pipeline.tracking import TRACKERS
from edakari.tasks import DataSettings
from edakari.train.compiling import Compile
from edakari.train.fits import FITS, fit_name, require_fit

__all__ = [
    "BankSettings",
    "DistillSettings",
    "FinetuneSettings",
    "LatencySettings",
    "MeasureSettings",
    "PruneSettings",
    "QuantizeSettings",
    "Recipe",
    "TransferSettings",
]


@settings
class DistillSettings:
    """Distillation from a teacher while fine-tuning.

    Args:
        weight: weight of the comparison of outputs in the loss, from 0 to 1; the task's loss gets the rest. 0 does not
            compare them.
        temperature: temperature by which the logits of both networks are divided.
        features: modules whose outputs are compared by squared difference, each with its weight, such as `{layer3:
            0.5}`. Of the dense network's features, those that the plan kept count.
    """

    weight: Fraction = 0.0
    temperature: Positive = 4.0
    features: Mapping[str, Positive] = dc.field(default_factory=dict)

    @property
    def active(self) -> bool:
        """Whether anything is compared."""
        return self.weight > 0 or bool(self.features)


@settings
class BankSettings:
    """The memory bank: the outputs of networks between the dense and the pruned one, written once.

    Args:
        teachers: number of teachers, among the networks that the method went through, or between the dense network and
            its plan.
        temperature: temperature by which logits are divided; None is 4, and 10 from 1000 classes on.
        gate: teachers that count: those nearer to the best teacher than the student is ("distance"), or those whose
            loss does not exceed the student's ("loss").
        share: factor of the divergence from the teachers, which is added to the task's loss.
        folder: folder in which the bank is stored; None selects the run folder, until the run is finished.
    """

    teachers: Count = 5
    temperature: Positive | None = None
    gate: Literal["distance", "loss"] = "distance"
    share: Positive = 1.0
    folder: str | None = None


@settings
class FinetuneSettings(Schedule):
    """Training of the pruned network: a schedule, what the network sees, and who teaches it.

    Args:
        views: number of times that each image appears in a batch, each time with other augmentation.
        teacher: "dense" is the dense network, with the settings in `distill`; so is "path/to/file.py:name", a function
            that returns a network, or a function from a batch to outputs; "bank" is a memory bank of the outputs of
            several networks. None is "dense" if `distill` compares anything, and no teacher otherwise.
        distill: distillation from the dense network, or another one.
        bank: memory bank, if it is the teacher.
        counts_method: whether the epochs count those of the method's own trainings, so that the fine-tuning gets what
            these leave.
    """

    views: Count = 1
    teacher: str | None = None
    distill: DistillSettings = DistillSettings()
    bank: BankSettings = BankSettings()
    counts_method: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher not in (None, "dense", "bank") and not names_file(self.teacher):
            raise SettingsError(
                f'finetune.teacher must be "dense", "bank" or "path/to/file.py:name", found {self.teacher!r}'
            )
        if self.teacher == "bank" and self.distill.active:
            raise SettingsError(
                "finetune.distill compares with one network, but finetune.teacher is the memory bank, with settings in "
                "finetune.bank; leave finetune.distill out, or name another teacher"
            )
        if self.teacher not in (None, "bank") and not self.distill.active:
            raise SettingsError(
                "finetune.distill.weight must be above 0 where a network teaches, or name finetune.distill.features"
            )

    @classmethod
    def of(cls, schedule: Schedule) -> FinetuneSettings:
        """Make these settings from a schedule alone: one view, and no teacher."""
        if isinstance(schedule, cls):
            return schedule
        return cls(**{field.name: getattr(schedule, field.name) for field in dc.fields(Schedule)})


@settings
class TransferSettings:
    """How the network moves to the task of `data`; see `edakari.transfer`.

    Args:
        layer: dotted paths of the prediction layers to replace; none finds them.
        outputs: number of outputs; None takes that of the task, such as its number of classes.
        head: kind of the new head, for a classifier that is an `edakari:supernet`; None replaces the prediction layer.
        graft: folder of a pruned `edakari:supernet` whose head is taken, except for the classifier.
        reinitialise: replace layers that have the right number of outputs, too.
        seed: seed of the new weights.
    """

    layer: tuple[str, ...] = ()
    outputs: Count | None = None
    head: Literal["classification", "segmentation", "pose"] | None = None
    graft: str | None = None
    reinitialise: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.graft is not None and self.head is None:
            raise SettingsError("transfer.graft is the source of a new head; set transfer.head to its kind")
        if self.layer and self.head is not None:
            raise SettingsError("transfer.layer and transfer.head exclude each other: a new head has a new last layer")


@settings
class MeasureSettings:
    """How latency is measured.

    Args:
        runtimes: runtimes in which networks are timed: "torch", "onnxruntime".
        batch: number of images per call.
        threads: CPU threads of one call; 0 leaves the choice to the runtime.
        warmup: least number of calls at the start of a network's turn that are not timed.
        repeats: least number of timed calls, in up to ten turns.
    """

    runtimes: tuple[Annotated[str, RUNTIMES], ...] = ("torch", "onnxruntime")
    batch: Count = 1
    threads: Whole = 1
    warmup: Whole = WARMUP
    repeats: Count = 50


@settings
class PruneSettings:
    """Settings that turn a trained network into a smaller one; a recipe adds the network and its data.

    Args:
        method: pruning method.
        budget: limits of the pruned network's costs.
        latency: runtime of the budget's latency; of several, a mapping of their names to such settings. None if the
            budget has none.
        groups: groups that may be pruned, and their sizes.
        recalibrate: number of batches of the calibration data from which batch norms recompute their statistics after
            the cut, before any fine-tuning; 0 leaves them as they are.
        reconstruct: refit the layers after a cut to the calibration data; see `edakari.reconstruct`.
        finetune: training of the pruned network; None trains nothing.
        fit: training loop of every training in the run, such as another library's; None is edakari's own.
        measure: measurement of the latency before and after; None measures nothing.
        quantize: quantisation of the finished network to int8; None is none, unless the latency is in int8.
        export: formats to write.
        seed: seed of everything random except the splits and subsets of the data, which depend on `data.seed`.
        device: "auto" selects an accelerator if there is one.
        compile: mode in which `torch.compile` compiles the network for fine-tuning and for `edakari train`: "default",
            or "reduce-overhead", which adds CUDA graphs; "none" does not compile. It takes a minute or so at the start.
            Trainings inside of a method are not compiled: they are short, or change the network.
        gradient_checkpointing: whether every training computes activations again in the backward pass instead of
            keeping them, in networks of timm and transformers: less memory, more time. None does not.
        sync_bn: whether batch norms of a training on several processes, with a GPU each, take their statistics from the
            parts of a batch of all processes, by torch's `SyncBatchNorm`; None does not. Networks are saved without it.
        tf32: whether trainings use TF32 for matrix products of float32 on a GPU that has it; None does.
        report_to: trackers that receive the figures of the run while it works.
    """

    method: Method
    budget: Budget
    latency: Latencies | None = None
    groups: Groups = Groups()
    recalibrate: Whole = 0
    reconstruct: bool = False
    finetune: FinetuneSettings | None = None
    fit: Annotated[Fit | None, FITS] = None
    measure: MeasureSettings | None = None
    quantize: QuantizeSettings | None = None
    export: tuple[Annotated[str, EXPORTERS], ...] = ()
    seed: Seed = 0
    device: Literal["auto", "cpu"] = "auto"
    compile: Compile = "none"
    gradient_checkpointing: bool | None = None
    sync_bn: bool | None = None
    tf32: bool | None = None
    report_to: tuple[Annotated[str, TRACKERS], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", self.groups.under(self.budget))
        object.__setattr__(self, "latency", matched(self.budget, self.latency))
        if any(each.precision == "int8" for each in self.latencies.values()):
            object.__setattr__(self, "quantize", self.quantize or QuantizeSettings())
        if self.fit is not None:
            require_fit(self.fit)

    @property
    def latencies(self) -> dict[str, LatencySettings]:
        """Settings of each latency, by its name in the budget."""
        return by_cost(self.latency)

    @property
    def programs(self) -> dict[str, str]:
        """What the latencies run: commands and libraries, by the text that names each."""
        return {text: what for each in self.latencies.values() for text, what in each.programs.items()}

    @property
    def batch(self) -> int:
        """Number of images per call of the networks that are written: that of the first latency, or 1."""
        return next((each.batch for each in self.latencies.values()), 1)

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """Names of the fields that are stored with the results; those that a subclass adds come first."""
        names = [field.name for field in dc.fields(cls) if field.compare]
        added = [name for name in names if name in cls.__annotations__ and cls is not PruneSettings]
        return (*added, *(name for name in names if name not in added))

    @property
    def content(self) -> dict[str, Any]:
        """All of these as plain values, as they are stored with the results."""
        found = {name: (_named if name == "fit" else _plain)(getattr(self, name)) for name in self.keys()}
        return found if self.budget.terms or self.budget.sparsity else {**found, "method": None, "budget": None}


def _named(fit: Fit | None) -> Any:
    """The name of a training loop, with its settings if it has any; objects among them are told by their class."""
    if fit is None or not dc.is_dataclass(fit):
        return None if fit is None else fit_name(fit)
    given = {field.name: getattr(fit, field.name) for field in dc.fields(fit)}
    told = {name: _told(value) for name, value in given.items() if value}
    return {"name": fit_name(fit), **told} if told else fit_name(fit)


def _told(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _told(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_told(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float | str) else type(value).__qualname__


def _plain(value: Any) -> Any:
    if isinstance(value, Budget):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if not dc.is_dataclass(value):
        if isinstance(value, Method):  # a class of its own without settings
            return {"name": name_of(value)}
        return list(value) if isinstance(value, tuple) else value
    found = plain(value)
    return {"name": name_of(value), **found} if isinstance(value, Method) else found


def _about(default: Any) -> Any:
    """A field that describes a recipe and is no part of it."""
    made = {"default_factory": default} if callable(default) else {"default": default}
    return dc.field(**made, compare=False, repr=False)


@settings
class Recipe(PruneSettings):
    """A whole recipe; its fields are the keys of a recipe file.

    Args:
        model: trained network.
        transfer: replace the prediction layer, to move the network to the task of `data`; None leaves it.
        data: data on which it is trained and evaluated.
        train: training of a dense network by `edakari train`.
        trust_code: whether to run a Python file that `model.name` names.
        where: origin of the recipe, for errors.
        lines: line of each dotted key, if known.
    """

    model: ModelSpec
    transfer: TransferSettings | None = None
    data: DataSettings = DataSettings()
    train: Schedule | None = None
    trust_code: bool = _about(False)
    where: str = _about("the recipe")
    lines: Mapping[str, int] = _about(dict)
