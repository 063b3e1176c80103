"""Results of a run's stages: made by `edakari.pipeline`, stored in a run folder or in memory, read by the report.

Each stage has a frozen dataclass of plain values, which its file holds; see `edakari.report.stage_files`.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import ClassVar, get_args

from edakari.core.answers import AnswersResult
from edakari.core.budget import Budget, Term
from edakari.core.graph import Unprunable
from edakari.core.memory_format import MemoryFormat
from edakari.core.settings import Count, NonNegative, Whole
from edakari.core.space import Group
from edakari.cost.sparse import MaskedWeights
from edakari.errors import SettingsError
from edakari.latency.corners import Corner, QuantizeResult
from edakari.latency.results import FinishedLatency, MetLatency, PlannedLatency
from edakari.latency.target import TimedPair

__all__ = [
    "STAGES",
    "AnswersResult",
    "CheckResult",
    "Corner",
    "DenseResult",
    "ExportResult",
    "ExportedFile",
    "FinetuneResult",
    "FinishedLatency",
    "KeptTokens",
    "LatencyResult",
    "MaskedWeights",
    "MeasureResult",
    "MetLatency",
    "PlannedLatency",
    "PruneResult",
    "QuantizeResult",
    "ReportResult",
    "Results",
    "StageResult",
    "TraceResult",
    "TracedGroup",
]

Figures = Mapping[str, float]
COUNTED = ("macs", "params", "activations")  # every network has these costs


@dc.dataclass(frozen=True, kw_only=True)
class TracedGroup:
    """A group of channels of the dense network.

    Args:
        group: group with its legal sizes.
        chosen: whether it may be pruned.
    """

    group: Group
    chosen: bool


@dc.dataclass(frozen=True, kw_only=True)
class TraceResult:
    """What can be pruned, what it costs, and what is unprunable.

    Args:
        weights: digest of the dense network's weights.
        costs: costs of the dense network by name.
        bytes: size of the stored dense network, bytes.
        groups: all groups.
        unprunable: unprunable dimensions, and why.
        uncounted: operators that no cost counts, with their numbers of calls.
        budget: budget as the user wrote it.
        memory_format: memory format in which networks are trained and evaluated.
        memory_format_reason: why it is that one.
        seconds: duration of the stage, s.
    """

    stage: ClassVar[str] = "trace"
    weights: str
    costs: Figures
    bytes: Whole
    groups: tuple[TracedGroup, ...]
    unprunable: tuple[Unprunable, ...]
    uncounted: Mapping[str, Whole]
    budget: str
    memory_format: MemoryFormat = "contiguous"
    memory_format_reason: str = ""
    seconds: NonNegative = 0.0

    def __post_init__(self) -> None:
        _require_costs(self.costs, "costs")


@dc.dataclass(frozen=True, kw_only=True)
class LatencyResult:
    """The limits of the budget; for latencies, also what a solver needs to know about their devices.

    Args:
        limits: largest value of each cost of the pruned network, in the cost's unit.
        sparsity: fraction of the maskable weights that at least are masked; 0 asks for none.
        planned: measurements for each latency in the budget, by the name of its cost.
        seconds: duration of the stage, s.
    """

    stage: ClassVar[str] = "latency"
    limits: Figures
    sparsity: NonNegative = 0.0
    planned: Mapping[str, PlannedLatency] = dc.field(default_factory=dict)
    seconds: NonNegative = 0.0

    @property
    def budget(self) -> Budget:
        """The budget with absolute limits."""
        return Budget(tuple(Term(cost, limit, False) for cost, limit in self.limits.items()), self.sparsity)


@dc.dataclass(frozen=True, kw_only=True)
class DenseResult:
    """Metrics of the dense network.

    Args:
        metric: name of the main metric; empty if the task has none.
        metrics: metrics by name.
        images: number of validation images; None if it is unknown.
        seconds: duration of the stage, s.
    """

    stage: ClassVar[str] = "dense"
    metric: str
    metrics: Figures
    images: Count | None = None
    seconds: NonNegative = 0.0

    def __post_init__(self) -> None:
        if self.metric and self.metric not in self.metrics:
            raise SettingsError(f"its metric {self.metric!r} is not among its metrics")


@dc.dataclass(frozen=True, kw_only=True)
class KeptTokens:
    """Number of patches that a selector keeps, and number that the dense network has there."""

    block: str
    kept: Whole
    of: Count


@dc.dataclass(frozen=True, kw_only=True)
class PruneResult:
    """Result of the method.

    Args:
        method: name of the method.
        paper: paper of the method.
        plan: digest of the plan.
        sizes: sizes of the groups that are cut.
        predicted: costs of the plan by name.
        tokens: patches that each selector keeps; empty if none are pruned.
        latencies: how each latency in the budget was met, by the name of its cost.
        own_finetune: whether the method brings its own objective for the fine-tuning.
        own_teachers: whether it brings networks for a memory bank.
        as_cut: metrics before statistics were recomputed and layers refit; None if neither was asked for.
        log: log of the method; the key "stage" of each entry is a text, the others are numbers.
        advice: what the user should do with the network next; empty if there is nothing.
        from_scratch: whether the method trains networks with initial weights.
        batches: number of batches of its trainings, over all epochs.
        seconds: duration of the stage, s.
    """

    stage: ClassVar[str] = "prune"
    method: str
    paper: str
    plan: str
    sizes: Mapping[str, Whole]
    predicted: Figures
    tokens: tuple[KeptTokens, ...] = ()
    latencies: Mapping[str, MetLatency] = dc.field(default_factory=dict)
    own_finetune: bool = False
    own_teachers: bool = False
    as_cut: Figures | None = None
    log: tuple[Mapping[str, float | str], ...] = ()
    advice: str = ""
    from_scratch: bool = False
    batches: Whole = 0
    seconds: NonNegative = 0.0

    def __post_init__(self) -> None:
        _require_costs(self.predicted, "predicted")
        for entry in self.log:
            if (texts := [name for name, value in entry.items() if isinstance(value, str)]) != ["stage"]:
                raise SettingsError(f"an entry of its log has texts for {texts}, where 'stage' alone is one")


@dc.dataclass(frozen=True, kw_only=True)
class CheckResult:
    """Result of the check that the cut network does what the plan says.

    Args:
        difference: largest difference from its masked twin, as a fraction of the largest output.
        costs: costs of the pruned network by name.
        bytes: size of the stored pruned network, bytes.
        metrics: metrics before fine-tuning.
        masked: counts of masked weights; None if the plan masks none, or prunes tokens.
        seconds: duration of the stage, s.
    """

    stage: ClassVar[str] = "check"
    difference: NonNegative
    costs: Figures
    bytes: Whole
    metrics: Figures
    masked: MaskedWeights | None = None
    seconds: NonNegative = 0.0

    def __post_init__(self) -> None:
        _require_costs(self.costs, "costs")


@dc.dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """Metrics of the finished network.

    Args:
        metrics: metrics by name.
        epochs: values of each epoch, with "epoch" and "loss" among them.
        metric: name of the main metric; empty if there are none.
        batches: number of batches of the training, over all epochs.
        seconds: duration of the stage, s.
    """

    stage: ClassVar[str] = "finetune"
    metrics: Figures
    epochs: tuple[Figures, ...]
    metric: str = ""
    batches: Whole = 0
    seconds: NonNegative = 0.0

    def __post_init__(self) -> None:
        for epoch in self.epochs:
            if missing := {"epoch", "loss"} - epoch.keys():
                raise SettingsError(f"one of its epochs has no {min(missing)}")


@dc.dataclass(frozen=True, kw_only=True)
class MeasureResult:
    """Latency of the dense and of the finished network.

    Args:
        runtimes: timings of both networks, measured alternately, by runtime.
        batch: number of images per call; None if nothing was measured.
        threads: CPU threads of one call.
        latencies: timings of both networks for each latency in the budget, by the name of its cost.
        seconds: duration of the stage, s.
    """

    stage: ClassVar[str] = "measure"
    runtimes: Mapping[str, TimedPair]
    batch: Count | None = None
    threads: Whole | None = None
    latencies: Mapping[str, FinishedLatency] = dc.field(default_factory=dict)
    seconds: NonNegative = 0.0


@dc.dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """An exported network.

    Args:
        path: path in the run folder.
        network: "dense" or "pruned".
        format: name of the format, such as "onnx".
        bytes: size of the file, bytes.
        absolute: largest difference between its outputs and those of the network; None if nothing here runs the format.
        relative: largest difference, as a fraction of the largest output; None as before.
    """

    path: str
    network: str
    format: str
    bytes: Whole
    absolute: float | None
    relative: float | None


@dc.dataclass(frozen=True, kw_only=True)
class ExportResult:
    """The exported networks."""

    stage: ClassVar[str] = "export"
    files: tuple[ExportedFile, ...]
    seconds: NonNegative = 0.0


@dc.dataclass(frozen=True, kw_only=True)
class ReportResult:
    """The page of the report, as a path in the run folder; empty without a folder."""

    stage: ClassVar[str] = "report"
    page: str
    seconds: NonNegative = 0.0


StageResult = (
    TraceResult
    | LatencyResult
    | DenseResult
    | PruneResult
    | CheckResult
    | FinetuneResult
    | AnswersResult
    | MeasureResult
    | QuantizeResult
    | ExportResult
    | ReportResult
)


@dc.dataclass(frozen=True, kw_only=True)
class Results:
    """All results of a run so far; the result of an unfinished stage is None."""

    trace: TraceResult
    latency: LatencyResult | None = None
    dense: DenseResult | None = None
    prune: PruneResult | None = None
    check: CheckResult | None = None
    finetune: FinetuneResult | None = None
    answers: AnswersResult | None = None
    measure: MeasureResult | None = None
    quantize: QuantizeResult | None = None
    export: ExportResult | None = None
    report: ReportResult | None = None


STAGES: Mapping[str, type[StageResult]] = {kind.stage: kind for kind in get_args(StageResult)}
"""Result of each stage of a run, in order."""


def _require_costs(found: Figures, key: str) -> None:
    for name in COUNTED:
        if name not in found or (found[name] == 0 and name != "activations"):
            raise SettingsError(f"{key}: {name} is {found.get(name)}, which no network costs")
    if any(value < 0 for value in found.values()):
        raise SettingsError(f"{key} below 0")
