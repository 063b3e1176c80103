"""The latency of a run: measured before the pruning, met by the closed loop, and measured again at the end."""

from __future__ import annotations

import dataclasses as dc
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edakari.core.blank import repeated
from edakari.core.files import write_json
from edakari.core.method import Solve
from edakari.core.plan import Plan
from edakari.core.protocols import Cost
from edakari.core.reading import read_json
from edakari.cost import macs
from edakari.cost.example import mapped
from edakari.graph import trace
from edakari.latency import Fit
from edakari.latency.bench import Bench
from edakari.latency.budget_loop import (
    ClosedLoop,
    LatencyTarget,
    LoopRound,
    LoopSettings,
    TimedPair,
    retime_if_noisy,
)
from edakari.latency.model import LatencyModel, calibrate, fill_table, known_fit
from edakari.latency.predicted import PredictedLatency
from edakari.latency.runtime_protocols import times_layers
from edakari.latency.runtimes import runtime_named
from edakari.latency.timing import Timing
from edakari.latency.tokens import TokenLatency
from edakari.latency.whole import WholeLatency
from edakari.latency.widths import WidthLatency
from edakari.pipeline.context import Run
from edakari.pipeline.preflight import run_settings
from edakari.pipeline.settings import LatencySettings
from edakari.results import MetLatency, PlannedLatency
from edakari.surgery import apply

__all__ = ["BudgetLoop", "batched", "finished_latency", "measured_latency"]

Log = Callable[[str, Mapping[str, float]], None]


def measured_latency(run: Run) -> PlannedLatency | None:
    """Time the dense network and fill a table that predicts the latency of any sizes; None without a latency budget.

    The dense network is timed first, so that a runtime that is missing or cannot run it ends the run at once.
    """
    settings = run.settings.latency
    if settings is None:
        return None

    def tell(text: str) -> None:
        run.notify("latency", "log", {"stage": text})

    bench = _bench(run, settings)
    key = bench.table().key
    before = bench.steady({"dense": run.dense})["dense"]
    model = _latency_model(run, bench)
    table, details = fill_table(model, bench, tell)
    fit = known_fit(model, table, settings.networks)
    if fit is None:
        fitted = dict(calibrate(model, bench, settings.networks, tell)[1])
        found = fitted.pop("fit")
        fit, details = Fit(**found) if found else None, {**details, **fitted}
    # before and after the minutes that the table took: other programs come and go, and only slow the machine down
    after = bench.steady({"dense": run.dense})["dense"]
    dense = min(before, after, key=lambda timing: timing.median_ms)
    return PlannedLatency(key=key, table=str(table.path), batch=settings.batch, dense=dense, fit=fit, details=details)


def finished_latency(
    run: Run, planned: PlannedLatency | None, met: MetLatency | None
) -> tuple[TimedPair, float] | None:
    """Time the finished and the dense network alternately; None without a latency budget.

    Args:
        run: the run.
        planned: measurements before anything was pruned.
        met: how the closed loop met the latency.

    Returns:
        The pair, and the distance of the finished network's latency above the limit, as a fraction of the limit.
    """
    settings = run.settings.latency
    if settings is None or planned is None or met is None:
        return None
    seen = [each.timing for each in met.rounds]
    quickest = min(each.dense.median_ms for each in seen)
    pair = retime_if_noisy(_bench(run, settings), run.dense, run.network("finished"), quickest)
    target = functools.reduce(LatencyTarget.seen, [*seen, pair], _target(run, planned))
    return pair, target.relative_error(pair)


@dc.dataclass
class BudgetLoop:
    """Measures the networks of a method's allocations, and solves them again; see `edakari.core.method.MeetBudget`.

    Args:
        run: the run.
        planned: measurements before anything was pruned.
        bench: how and where networks are timed.
        cost: predicted latency.
        log: callback that takes each round.
        settings: settings of the loop.
        rounds: rounds of the last call.
        timed: timings of networks, by their sizes.
    """

    run: Run
    planned: PlannedLatency
    bench: Bench
    cost: PredictedLatency
    log: Log
    settings: LoopSettings
    rounds: tuple[LoopRound, ...] = ()
    timed: dict[str, TimedPair] = dc.field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, planned: PlannedLatency, log: Log) -> BudgetLoop:
        """Create the loop of a run whose latency stage is finished."""
        assert run.settings.latency is not None
        bench = _bench(run, run.settings.latency)
        model = _latency_model(run, bench)
        cost = model.cost(dc.replace(bench.table(), fits={model.key: planned.fit} if planned.fit else {}))
        # the machine's speed may have changed between filling the table and timing the dense network
        cost = cost.corrected({}, planned.dense.median_ms)
        return cls(run, planned, bench, cost, log, model.loop, timed=_read(_rounds_file(run)))

    @property
    def costs(self) -> Sequence[Cost]:
        """The measured costs."""
        return (self.cost,)

    def __call__(self, solve: Solve, costs: Sequence[Cost], before: Plan | None = None) -> Plan:
        """See `edakari.core.method.MeetBudget`."""
        loop = ClosedLoop(self.cost, _target(self.run, self.planned), self._measured, self._tell, self.settings)
        plan, self.rounds = loop.run(solve, costs, before)
        return plan

    def met(self, plan: Plan) -> MetLatency:
        """Return how the latency was met; if the method did not call the loop, its network is measured now.

        Raises:
            MeasurementError: the network lies above the budget.
        """
        if not any(each.sizes == plan.sizes() for each in self.rounds):
            self(lambda costs: plan, self.costs)
        return MetLatency(
            limit_ms=_target(self.run, self.planned).limit_ms,
            predicted_ms=self.cost.predict(plan.sizes()),
            rounds=tuple(dc.replace(each, sizes=dict(each.sizes)) for each in self.rounds),
            chosen_round=next(at for at, each in enumerate(self.rounds) if each.sizes == plan.sizes()),
        )

    def _tell(self, number: int, found: LoopRound) -> None:
        figures = {"predicted ms": found.predicted_ms, "measured ms": found.timing.pruned.median_ms}
        figures |= {"dense ms": found.timing.dense.median_ms, "relative error %": 100 * found.relative_error}
        self.log(f"round {number}", figures)

    def _measured(self, plan: Plan) -> TimedPair:
        return self.run.processes.from_main(functools.partial(self._cached_timing, plan))

    def _cached_timing(self, plan: Plan) -> TimedPair:
        """A network's timing, which is cached for an interrupted run."""
        name = json.dumps(plan.sizes(), sort_keys=True)
        if name not in self.timed:
            quickest = min([self.planned.dense.median_ms, *(pair.dense.median_ms for pair in self.timed.values())])
            network = apply(self.run.dense, plan, self.run.graph)
            self.timed[name] = retime_if_noisy(self.bench, self.run.dense, network, quickest)
            path = _rounds_file(self.run)
            if path is not None:
                write_json(path, {name: dc.asdict(pair) for name, pair in self.timed.items()})
        return self.timed[name]


def batched(example: Any, batch: int) -> Any:
    """Repeat an example of batch size 1; in a tuple or dict, each tensor that has a dimension."""
    return mapped(example, lambda tensor: repeated(tensor, batch) if batch > 1 and tensor.dim() else tensor)


def _bench(run: Run, settings: LatencySettings) -> Bench:
    return Bench(
        runtime_named(settings.runtime, settings),
        run_settings(settings, run.settings.quantize),
        batched(run.task.example(), settings.batch),
        settings.repeats,
        settings.spread,
        Path(settings.cache) if settings.cache else None,
    )


def _latency_model(run: Run, bench: Bench) -> LatencyModel:
    """The model that predicts the latency: from widths, from numbers of tokens, or not at all without timed layers."""
    # the shapes of the layers depend on the batch
    alone = run.settings.latency is None or run.settings.latency.batch == 1
    graph = run.graph if alone else trace(run.dense, mapped(bench.example, lambda x: x.to(run.processes.device)))
    layered = times_layers(bench.runtime) and (run.settings.latency is None or run.settings.latency.layers)
    if run.prunes_tokens:
        return TokenLatency.of(run.dense, graph) if layered else WholeLatency.of_tokens(run.dense, graph)
    return WidthLatency(run.dense, graph, run.groups) if layered else WholeLatency(run.dense, graph, macs(graph))


def _target(run: Run, planned: PlannedLatency) -> LatencyTarget:
    return LatencyTarget.of(run.settings.budget, planned.dense.median_ms)


def _rounds_file(run: Run) -> Path | None:
    work = run.store.work("latency")
    return work / "rounds.json" if work is not None else None


def _read(path: Path | None) -> dict[str, TimedPair]:
    try:
        content: Mapping[str, Any] = read_json(path) if path is not None else {}
    except (OSError, ValueError):
        return {}
    return {
        sizes: TimedPair(**{network: Timing(**timing) for network, timing in pair.items()})
        for sizes, pair in content.items()
    }
