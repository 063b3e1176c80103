"""The latencies of a run: measured before the pruning, met by the closed loop, and measured again at the end."""

from __future__ import annotations

import dataclasses as dc
import functools
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edakari.core.blank import repeated
from edakari.core.budget import LATENCY
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
from edakari.latency.budget_loop import LoopRound, LoopSettings
from edakari.latency.closed_loop import ClosedLoop, TimedLatency
from edakari.latency.model import LatencyModel, calibrate, fill_table, known_fit
from edakari.latency.predicted import PredictedLatency
from edakari.latency.runtime_protocols import times_layers
from edakari.latency.runtimes import runtime_named
from edakari.latency.table import Key
from edakari.latency.target import LatencyTarget, TimedPair, retime_if_noisy
from edakari.latency.timing import Timing
from edakari.latency.token_widths import TokenWidthLatency
from edakari.latency.tokens import TokenLatency
from edakari.latency.whole import WholeLatency
from edakari.latency.widths import WidthLatency
from edakari.pipeline.context import Run
from edakari.pipeline.latency_settings import LatencySettings
from edakari.pipeline.load import Networks
from edakari.pipeline.preflight import run_settings
from edakari.pipeline.settings import PruneSettings, Recipe
from edakari.results import FinishedLatency, LatencyResult, MetLatency, PlannedLatency
from edakari.surgery import apply
from edakari.surgery.tokens import token_sites
from edakari.surgery.tokens.design import TokenDesign
from edakari.surgery.tokens.reduced import ReducedCost

__all__ = ["BudgetLoop", "batched", "finished_latencies", "measured_latencies", "time_latencies"]

Log = Callable[[str, Mapping[str, float]], None]


def measured_latencies(run: Run) -> dict[str, PlannedLatency]:
    """Measure what solvers need, unless a run on this machine with the same network and latencies has done so.

    Returns:
        The measurements by the name of the latency.
    """
    if run.shared is None or not run.settings.latencies:
        return _measured_here(run)
    keys = ("latency", "quantize", "groups", *(["method"] if run.prunes_tokens else []))
    inputs = {**run.inputs(*keys), "latencies": list(run.settings.latencies), "machine": platform.node()}
    found = run.shared.result(LatencyResult, inputs, lambda: LatencyResult(limits={}, planned=_measured_here(run)))
    return dict(found.planned)


def _measured_here(run: Run) -> dict[str, PlannedLatency]:
    """Time the dense network and fill a table that predicts the latency of any sizes, for each latency in the budget.

    The dense network is timed first everywhere, so that a runtime that is missing or cannot run it ends the run at
    once.

    Returns:
        The measurements by the name of the latency.
    """
    example = run.task.example()
    benches = {cost: _bench(run.settings, latency, example) for cost, latency in run.settings.latencies.items()}
    for cost, same in _shared(benches).items():
        run.notify("latency", "log", {"stage": f"{cost} is measured like {same}, and shares its table"})
    keys = {cost: bench.table().key for cost, bench in benches.items()}
    dense = {cost: bench.steady({"dense": run.dense})["dense"] for cost, bench in benches.items()}
    return {cost: _measured(run, cost, bench, keys[cost], dense[cost]) for cost, bench in benches.items()}


def _shared(benches: Mapping[str, Bench]) -> dict[str, str]:
    """Latencies with the same table and inputs as an earlier one, and the name of that one."""
    tables = {cost: (bench.table().path, bench.settings) for cost, bench in benches.items()}
    first = {table: cost for cost, table in reversed(tables.items())}
    return {cost: first[table] for cost, table in tables.items() if first[table] != cost}


def _measured(run: Run, cost: str, bench: Bench, key: Key, before: Timing) -> PlannedLatency:
    settings, model = run.settings.latencies[cost], _latency_model(run, cost, bench)

    def tell(text: str) -> None:
        run.notify("latency", "log", {"stage": text if cost == LATENCY else f"{cost}: {text}"})

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


def finished_latencies(
    run: Run, planned: Mapping[str, PlannedLatency], met: Mapping[str, MetLatency]
) -> dict[str, FinishedLatency]:
    """Time the finished and the dense network alternately, for each latency in the budget.

    Args:
        run: the run.
        planned: measurements before anything was pruned.
        met: how the closed loop met each latency.
    """
    found = {}
    for cost in met:
        seen = [each.timing for each in met[cost].rounds]
        quickest = min(each.dense.median_ms for each in seen)
        bench = _bench(run.settings, run.settings.latencies[cost], run.task.example())
        finished = run.network("finished")
        pair = retime_if_noisy(bench, run.dense, finished, quickest)
        target = functools.reduce(LatencyTarget.seen, [*seen, pair], _target(run, cost, planned[cost]))
        others = bench.other_calls({"dense": run.dense, "finished": finished})
        found[cost] = FinishedLatency(timing=pair, relative_error=target.relative_error(pair), other_calls=others)
    return found


@dc.dataclass(frozen=True)
class Measuring:
    """How one latency of a run is measured.

    Args:
        planned: measurements before anything was pruned.
        bench: how and where networks are timed.
        cost: predicted latency, which has the latency's name.
        settings: settings of the closed loop.
        timed: timings of networks, by their sizes.
    """

    planned: PlannedLatency
    bench: Bench
    cost: PredictedLatency
    settings: LoopSettings
    timed: dict[str, TimedPair]

    @classmethod
    def of(cls, run: Run, cost: str, planned: PlannedLatency, timed: dict[str, TimedPair]) -> Measuring:
        """Prepare the measurement of a latency of a run whose latency stage is finished."""
        bench = _bench(run.settings, run.settings.latencies[cost], run.task.example())
        model = _latency_model(run, cost, bench)
        predicted = model.cost(dc.replace(bench.table(), fits={model.key: planned.fit} if planned.fit else {}))
        # the machine's speed may have changed between filling the table and timing the dense network
        return cls(planned, bench, predicted.corrected({}, planned.dense.median_ms).named(cost), model.loop, timed)

    @property
    def quickest_ms(self) -> float:
        """Smallest latency of the dense network so far, ms."""
        return min([self.planned.dense.median_ms, *(pair.dense.median_ms for pair in self.timed.values())])


@dc.dataclass
class BudgetLoop:
    """Measures the networks of a method's allocations, and solves them again; see `edakari.core.method.MeetBudget`.

    Args:
        run: the run.
        latencies: how each latency in the budget is measured, by its name.
        log: callback that takes each round.
        rounds: rounds of the last call, by the name of the latency.
    """

    run: Run
    latencies: Mapping[str, Measuring]
    log: Log
    rounds: Mapping[str, tuple[LoopRound, ...]] = dc.field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, planned: Mapping[str, PlannedLatency], log: Log) -> BudgetLoop:
        """Create the loop of a run whose latency stage is finished."""
        timed = _read(_rounds_file(run))
        return cls(
            run, {cost: Measuring.of(run, cost, each, timed.get(cost, {})) for cost, each in planned.items()}, log
        )

    @property
    def costs(self) -> Sequence[Cost]:
        """The measured costs."""
        return [each.cost for each in self.latencies.values()]

    def __call__(self, solve: Solve, costs: Sequence[Cost], before: Plan | None = None) -> Plan:
        """See `edakari.core.method.MeetBudget`."""
        latencies = [
            TimedLatency(
                each.cost,
                _target(self.run, name, each.planned),
                functools.partial(self._measured, name),
                each.settings,
            )
            for name, each in self.latencies.items()
        ]
        plan, self.rounds = ClosedLoop(latencies, self._tell).run(solve, costs, before)
        return plan

    def met(self, plan: Plan) -> dict[str, MetLatency]:
        """Return how each latency was met; if the method did not call the loop, its network is measured now.

        Raises:
            MeasurementError: the network lies above the budget.
        """
        sizes = plan.sizes()
        if not any(each.sizes == sizes for rounds in self.rounds.values() for each in rounds):
            self(lambda costs: plan, self.costs)
        return {
            name: MetLatency(
                limit_ms=_target(self.run, name, each.planned).limit_ms,
                predicted_ms=each.cost.predict(sizes),
                rounds=tuple(dc.replace(found, sizes=dict(found.sizes)) for found in self.rounds[name]),
                chosen_round=next(at for at, found in enumerate(self.rounds[name]) if found.sizes == sizes),
            )
            for name, each in self.latencies.items()
        }

    def _tell(self, number: int, name: str, found: LoopRound) -> None:
        figures = {"predicted ms": found.predicted_ms, "measured ms": found.timing.pruned.median_ms}
        figures |= {"dense ms": found.timing.dense.median_ms, "relative error %": 100 * found.relative_error}
        self.log(f"round {number}" if name == LATENCY else f"round {number}, {name}", figures)

    def _measured(self, name: str, plan: Plan) -> TimedPair:
        return self.run.processes.from_main(functools.partial(self._cached_timing, name, plan))

    def _cached_timing(self, name: str, plan: Plan) -> TimedPair:
        """A network's timing, which is cached for an interrupted run."""
        sizes, latency = json.dumps(plan.sizes(), sort_keys=True), self.latencies[name]
        if sizes not in latency.timed:
            network = apply(self.run.dense, plan, self.run.graph)
            latency.timed[sizes] = retime_if_noisy(latency.bench, self.run.dense, network, latency.quickest_ms)
            path = _rounds_file(self.run)
            if path is not None:
                timed = {cost: each.timed for cost, each in self.latencies.items()}
                write_json(
                    path, {cost: {key: dc.asdict(pair) for key, pair in at.items()} for cost, at in timed.items()}
                )
        return latency.timed[sizes]


def batched(example: Any, batch: int) -> Any:
    """Repeat an example of batch size 1; in a tuple or dict, each tensor that has a dimension."""
    return mapped(example, lambda tensor: repeated(tensor, batch) if batch > 1 and tensor.dim() else tensor)


def time_latencies(recipe: Recipe, networks: Networks) -> dict[str, dict[str, Timing]]:
    """Time the networks of a finished run alternately, as each latency in its budget is measured.

    Args:
        recipe: recipe of the run.
        networks: its networks.

    Returns:
        Timings of the "dense" and the "pruned" network, by the name of the latency.
    """
    models = {"dense": networks.dense, "pruned": networks.pruned}
    benches = {cost: _bench(recipe, latency, networks.example) for cost, latency in recipe.latencies.items()}
    return {cost: bench.steady(models) for cost, bench in benches.items()}


def _bench(settings: PruneSettings, latency: LatencySettings, example: Any) -> Bench:
    return Bench(
        runtime_named(latency.runtime, latency),
        run_settings(latency, settings.quantize),
        batched(example, latency.batch),
        latency.repeats,
        latency.spread,
        Path(latency.cache) if latency.cache else None,
    )


def _latency_model(run: Run, cost: str, bench: Bench) -> LatencyModel:
    """The model that predicts a latency: from widths, from numbers of tokens, or not at all without timed layers."""
    settings = run.settings.latencies[cost]
    alone = settings.batch == 1  # the shapes of the layers depend on the batch
    graph = run.graph if alone else trace(run.dense, mapped(bench.example, lambda x: x.to(run.processes.device)))
    layered = times_layers(bench.runtime) and settings.layers
    if run.prunes_both:
        design = _design(run)
        surrogate = ReducedCost(graph, design.sites, design.packages, macs)
        return (
            TokenWidthLatency.of(run.dense, graph, run.groups, design)
            if layered
            else WholeLatency(run.dense, graph, surrogate)
        )
    if run.prunes_tokens:
        return TokenLatency.of(run.dense, graph, _design(run)) if layered else WholeLatency.of_tokens(run.dense, graph)
    return WidthLatency(run.dense, graph, run.groups) if layered else WholeLatency(run.dense, graph, macs(graph))


def _design(run: Run) -> TokenDesign:
    """The selectors of the run's method; usual ones if the method does not name its own by `design(sites)`."""
    sites = token_sites(run.dense, run.task.example())
    make = getattr(run.settings.method, "design", None)
    if callable(make):
        own: TokenDesign = make(sites)
        return own
    return TokenDesign(sites=sites, selector="random", blocks=sites.quarters(), settings={"package": "merge"})


def _target(run: Run, cost: str, planned: PlannedLatency) -> LatencyTarget:
    term = run.settings.budget.term(cost)
    assert term is not None
    return LatencyTarget.of(term, planned.dense.median_ms)


def _rounds_file(run: Run) -> Path | None:
    work = run.store.work("latency")
    return work / "rounds.json" if work is not None else None


def _read(path: Path | None) -> dict[str, dict[str, TimedPair]]:
    try:
        content: Mapping[str, Any] = read_json(path) if path is not None else {}
    except (OSError, ValueError):
        return {}
    return {cost: {sizes: _pair(pair) for sizes, pair in timed.items()} for cost, timed in content.items()}


def _pair(content: Mapping[str, Any]) -> TimedPair:
    return TimedPair(**{network: Timing(**timing) for network, timing in content.items()})
