"""The latency of a run: measured before anything is pruned, met while it is pruned, measured again in the end."""

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
from edakari.graph import trace
from edakari.latency import Fit
from edakari.latency.bench import Bench
from edakari.latency.budget_loop import (
    ClosedLoop,
    LatencyTarget,
    LoopRound,
    LoopSettings,
    TimedPair,
    plain,
    retime_if_noisy,
)
from edakari.latency.model import LatencyModel, calibrate, fill_table, known_fit
from edakari.latency.predicted import PredictedLatency
from edakari.latency.runtimes import runtime_named
from edakari.latency.timing import LayerRuntime, Timing
from edakari.latency.tokens import TokenLatency
from edakari.latency.whole import WholeLatency
from edakari.latency.widths import WidthLatency
from edakari.pipeline import processes
from edakari.pipeline.context import Run
from edakari.pipeline.preflight import run_settings
from edakari.pipeline.settings import LatencySettings
from edakari.surgery import apply

__all__ = ["BudgetLoop", "finished_latency", "measured_latency"]

Result = dict[str, Any]
Log = Callable[[str, Mapping[str, float]], None]


def measured_latency(run: Run) -> Result:
    """The dense network's latency and a table from which any sizes can be predicted; nothing without a latency budget.

    The dense network comes first, so that a runtime that is missing or does not run it ends the run at once.
    """
    settings = run.recipe.latency
    if settings is None:
        return {}

    def tell(text: str) -> None:
        run.notify("latency", "log", {"stage": text})

    bench = _bench(run, settings)
    key = bench.table().key
    before = bench.steady({"dense": run.dense})["dense"]
    model = _latency_model(run, bench)
    table, filling = fill_table(model, bench, tell)
    fit = known_fit(model, table, settings.networks)
    fitted = {"fit": dc.asdict(fit)} if fit else calibrate(model, bench, settings.networks, tell)[1]
    # before and after the minutes that the table took: what else runs on a machine comes and goes, and only slows
    after = bench.steady({"dense": run.dense})["dense"]
    dense = min(before, after, key=lambda timing: timing.median_ms)
    found = {**dc.asdict(key), "table": str(table.path), "batch": settings.batch, "dense": dc.asdict(dense)}
    return {**found, **filling, **fitted}


def finished_latency(run: Run) -> Result | None:
    """The finished network beside the dense one, in turns; None without a latency budget."""
    settings = run.recipe.latency
    if settings is None:
        return None
    rounds = [_pair(each["timing"]) for each in run.folder.read("prune")["latency"]["rounds"]]
    quickest = min(each.dense.median_ms for each in rounds)
    pair = retime_if_noisy(_bench(run, settings), run.dense, run.final(), quickest)
    target = functools.reduce(LatencyTarget.seen, [*rounds, pair], _target(run))
    return {**dc.asdict(pair), "relative_error": target.relative_error(pair)}


@dc.dataclass
class BudgetLoop:
    """Measures what a method's allocation leads to, and has it solved again; see `edakari.core.method.MeetBudget`.

    Args:
        run: of which.
        bench: where networks are timed.
        cost: latency as predicted.
        log: told of each round.
        settings: how the loop goes.
        rounds: what was measured last.
    """

    run: Run
    bench: Bench
    cost: PredictedLatency
    log: Log
    settings: LoopSettings
    rounds: tuple[LoopRound, ...] = ()

    @classmethod
    def of(cls, run: Run, log: Log) -> BudgetLoop:
        """The loop of a run whose latency stage is finished."""
        assert run.recipe.latency is not None
        bench = _bench(run, run.recipe.latency)
        model, found = _latency_model(run, bench), run.folder.read("latency")
        fits = {model.key: Fit(**found["fit"])} if found["fit"] else {}
        cost = model.cost(dc.replace(bench.table(), fits=fits))
        # the machine may have been slower or quicker when the table was filled than when the dense network was timed
        return cls(run, bench, cost.corrected({}, found["dense"]["median_ms"]), log, model.loop)

    @property
    def costs(self) -> Sequence[Cost]:
        """The measured costs."""
        return (self.cost,)

    def __call__(self, solve: Solve, costs: Sequence[Cost], before: Plan | None = None) -> Plan:
        """See `edakari.core.method.MeetBudget`."""
        loop = ClosedLoop(self.cost, _target(self.run), self._measured, self._tell, self.settings)
        plan, self.rounds = loop.run(solve, costs, before)
        return plan

    def met(self, plan: Plan) -> Result:
        """What became of the latency; a plan of a method that did not ask for rounds is measured now.

        Raises:
            MeasurementError: its network lies above the budget.
        """
        if not any(each.sizes == plan.sizes() for each in self.rounds):
            self(lambda costs: plan, self.costs)
        found = next(each for each in self.rounds if each.sizes == plan.sizes())
        return {
            "limit_ms": _target(self.run).limit_ms,
            "predicted_ms": self.cost.predict(plan.sizes()),
            "relative_error": found.relative_error,
            "rounds": [plain(each) for each in self.rounds],
        }

    def _tell(self, number: int, found: LoopRound) -> None:
        figures = {"predicted ms": found.predicted_ms, "measured ms": found.timing.pruned.median_ms}
        self.log(
            f"round {number}",
            {**figures, "dense ms": found.timing.dense.median_ms, "relative error %": 100 * found.relative_error},
        )

    def _measured(self, plan: Plan) -> TimedPair:
        return processes.from_main(functools.partial(self._kept, plan), cpu=self.run.recipe.device == "cpu")

    def _kept(self, plan: Plan) -> TimedPair:
        """A network's timing, which is kept for a run that is interrupted."""
        path, name = self.run.folder.work("latency") / "rounds.json", json.dumps(plan.sizes(), sort_keys=True)
        known = _read(path)
        if name not in known:
            seen = [self.run.folder.read("latency"), *known.values()]
            quickest = min(each["dense"]["median_ms"] for each in seen)
            pair = retime_if_noisy(self.bench, self.run.dense, apply(self.run.dense, plan, self.run.graph), quickest)
            known[name] = dc.asdict(pair)
            write_json(path, known)
        return _pair(known[name])


def _bench(run: Run, settings: LatencySettings) -> Bench:
    return Bench(
        runtime_named(settings.runtime),
        run_settings(settings),
        repeated(run.task.example(), settings.batch),
        settings.repeats,
        settings.spread,
        Path(settings.cache) if settings.cache else None,
    )


def _latency_model(run: Run, bench: Bench) -> LatencyModel:
    """What predicts the latency: by widths, by numbers of tokens, or not at all where layers cannot be timed."""
    # what layers work on depends on the batch
    graph = run.graph if len(bench.example) == 1 else trace(run.dense, bench.example.to(run.device))
    layered = isinstance(bench.runtime, LayerRuntime)
    if run.prunes_tokens:
        return TokenLatency.of(run.dense, graph) if layered else WholeLatency.of_tokens(run.dense, graph)
    return WidthLatency(run.dense, graph, run.groups) if layered else WholeLatency(run.dense, graph, macs(graph))


def _target(run: Run) -> LatencyTarget:
    return LatencyTarget.of(run.recipe.budget, run.folder.read("latency")["dense"]["median_ms"])


def _pair(content: Mapping[str, Any]) -> TimedPair:
    return TimedPair(**{network: Timing(**timing) for network, timing in content.items()})


def _read(path: Path) -> Result:
    try:
        found: Result = read_json(path)
    except (OSError, ValueError):
        return {}
    return found
