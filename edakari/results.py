"""What the stages of a run find out: made by `edakari.pipeline`, kept by a run folder or in memory, read by the report.

There is one frozen dataclass for each stage, whose fields are plain values, so that a stage's file holds just them. A
file that was edited becomes no such dataclass; see `edakari.report.stage_files`.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import ClassVar

from edakari.core.budget import Budget, Term
from edakari.core.graph import Unprunable
from edakari.core.settings import Count, NonNegative, Whole
from edakari.core.space import Group
from edakari.errors import SettingsError
from edakari.latency.budget_loop import TimedPair
from edakari.latency.results import MetLatency, PlannedLatency

__all__ = [
    "STAGES",
    "CheckResult",
    "DenseResult",
    "ExportResult",
    "ExportedFile",
    "FinetuneResult",
    "KeptTokens",
    "LatencyResult",
    "MeasureResult",
    "MetLatency",
    "PlannedLatency",
    "PruneResult",
    "ReportResult",
    "Results",
    "StageResult",
    "TraceResult",
    "TracedGroup",
]

Figures = Mapping[str, float]
COUNTED = ("macs", "params", "activations")
"""Costs that are known of every network."""


@dc.dataclass(frozen=True, kw_only=True)
class TracedGroup:
    """A group of channels of the dense network.

    Args:
        group: with its legal sizes.
        chosen: whether it may be sized.
    """

    group: Group
    chosen: bool


@dc.dataclass(frozen=True, kw_only=True)
class TraceResult:
    """What can be pruned, what it costs, what was refused.

    Args:
        weights: digest of the dense network's.
        costs: of the dense network by name.
        bytes: that it takes when stored.
        groups: all of them.
        unprunable: what stays, and why.
        uncounted: operators that no cost counts, with how often they are called.
        budget: as it was asked for.
        seconds: that the stage took.
    """

    stage: ClassVar[str] = "trace"
    weights: str
    costs: Figures
    bytes: Whole
    groups: tuple[TracedGroup, ...]
    unprunable: tuple[Unprunable, ...]
    uncounted: Mapping[str, Whole]
    budget: str
    seconds: NonNegative = 0.0

    def __post_init__(self) -> None:
        _require_costs(self.costs, "costs")


@dc.dataclass(frozen=True, kw_only=True)
class LatencyResult:
    """The budget in figures; where it has a latency, what a solver needs to know of this machine.

    Args:
        limits: what the pruned network may cost, by cost; shares are of the dense network's.
        planned: of the latency; None without one in the budget.
        seconds: that the stage took.
    """

    stage: ClassVar[str] = "latency"
    limits: Figures
    planned: PlannedLatency | None = None
    seconds: NonNegative = 0.0

    @property
    def budget(self) -> Budget:
        """The budget in figures, which is known here and nowhere else."""
        return Budget(tuple(Term(cost, limit, False) for cost, limit in self.limits.items()))


@dc.dataclass(frozen=True, kw_only=True)
class DenseResult:
    """How good the dense network is.

    Args:
        metric: the figure that counts; empty where the task cannot judge.
        metrics: figures by name.
        seconds: that the stage took.
    """

    stage: ClassVar[str] = "dense"
    metric: str
    metrics: Figures
    seconds: NonNegative = 0.0

    def __post_init__(self) -> None:
        if self.metric and self.metric not in self.metrics:
            raise SettingsError(f"its metric {self.metric!r} is not among its metrics")


@dc.dataclass(frozen=True, kw_only=True)
class KeptTokens:
    """Patches that go on at a selector, and those that the dense network has there."""

    block: str
    kept: Whole
    of: Count


@dc.dataclass(frozen=True, kw_only=True)
class PruneResult:
    """What the method did.

    Args:
        method: its name.
        paper: that it is from.
        plan: digest.
        sizes: of the groups that are cut.
        predicted: costs of the plan by name.
        tokens: patches that go on; empty where none are pruned.
        latency: how the budget's was met; None without one.
        own_finetune: whether the method brings its own objective for the fine-tuning.
        own_teachers: whether it brings networks for a memory bank.
        as_cut: figures of the network before its statistics were taken anew and its layers refit; None where that was
            not asked for.
        log: what it told; the key "stage" of each entry is a text, the others are figures.
        seconds: that the stage took.
    """

    stage: ClassVar[str] = "prune"
    method: str
    paper: str
    plan: str
    sizes: Mapping[str, Whole]
    predicted: Figures
    tokens: tuple[KeptTokens, ...] = ()
    latency: MetLatency | None = None
    own_finetune: bool = False
    own_teachers: bool = False
    as_cut: Figures | None = None
    log: tuple[Mapping[str, float | str], ...] = ()
    seconds: NonNegative = 0.0

    def __post_init__(self) -> None:
        _require_costs(self.predicted, "predicted")
        for entry in self.log:
            texts = [name for name, value in entry.items() if isinstance(value, str)]
            if texts != ["stage"]:
                raise SettingsError(f"an entry of its log has texts for {texts}, where 'stage' alone is one")


@dc.dataclass(frozen=True, kw_only=True)
class CheckResult:
    """That the cut network is what the plan says.

    Args:
        difference: from its masked twin, as a share of the largest output.
        costs: of the pruned network by name.
        bytes: that it takes when stored.
        metrics: before fine-tuning.
        seconds: that the stage took.
    """

    stage: ClassVar[str] = "check"
    difference: NonNegative
    costs: Figures
    bytes: Whole
    metrics: Figures
    seconds: NonNegative = 0.0

    def __post_init__(self) -> None:
        _require_costs(self.costs, "costs")


@dc.dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """How good the finished network is.

    Args:
        metrics: figures by name.
        epochs: figures of each epoch, "epoch" and "loss" among them.
        seconds: that the stage took.
    """

    stage: ClassVar[str] = "finetune"
    metrics: Figures
    epochs: tuple[Figures, ...]
    seconds: NonNegative = 0.0

    def __post_init__(self) -> None:
        for epoch in self.epochs:
            if missing := {"epoch", "loss"} - epoch.keys():
                raise SettingsError(f"one of its epochs has no {min(missing)}")


@dc.dataclass(frozen=True, kw_only=True)
class MeasureResult:
    """Latency of the dense and of the finished network.

    Args:
        runtimes: both in turns, by runtime.
        batch: images per call; None where nothing was asked for.
        threads: of one call.
        latency: both in the runtime of the budget's latency; None without one.
        relative_error: how far the finished network lies above the budget's latency, as a share of it.
        seconds: that the stage took.
    """

    stage: ClassVar[str] = "measure"
    runtimes: Mapping[str, TimedPair]
    batch: Count | None = None
    threads: Whole | None = None
    latency: TimedPair | None = None
    relative_error: float = 0.0
    seconds: NonNegative = 0.0


@dc.dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """An exported network.

    Args:
        path: in the run folder.
        network: "dense" or "pruned".
        format: "onnx" or "program".
        bytes: of the file.
        absolute: largest difference of its outputs from the network's.
        relative: the same as a share of the largest output.
    """

    path: str
    network: str
    format: str
    bytes: Whole
    absolute: float
    relative: float


@dc.dataclass(frozen=True, kw_only=True)
class ExportResult:
    """The exported networks."""

    stage: ClassVar[str] = "export"
    files: tuple[ExportedFile, ...]
    seconds: NonNegative = 0.0


@dc.dataclass(frozen=True, kw_only=True)
class ReportResult:
    """The report's page, in the run folder; empty where there is no folder."""

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
    | MeasureResult
    | ExportResult
    | ReportResult
)


@dc.dataclass(frozen=True, kw_only=True)
class Results:
    """All that a run has found out so far; a stage that is not finished is None."""

    trace: TraceResult
    latency: LatencyResult | None = None
    dense: DenseResult | None = None
    prune: PruneResult | None = None
    check: CheckResult | None = None
    finetune: FinetuneResult | None = None
    measure: MeasureResult | None = None
    export: ExportResult | None = None
    report: ReportResult | None = None


STAGES: Mapping[str, type[StageResult]] = {
    kind.stage: kind
    for kind in (
        *(TraceResult, LatencyResult, DenseResult, PruneResult, CheckResult),
        *(FinetuneResult, MeasureResult, ExportResult, ReportResult),
    )
}
"""What each stage of a run gives, in order."""


def _require_costs(found: Figures, key: str) -> None:
    for name in COUNTED:
        if name not in found or (found[name] == 0 and name != "activations"):
            raise SettingsError(f"{key}: {name} is {found.get(name)}, which no network costs")
    if any(value < 0 for value in found.values()):
        raise SettingsError(f"{key} below 0")
