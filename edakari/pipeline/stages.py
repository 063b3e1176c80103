"""The stages of a run: each takes the run and results of earlier stages, and returns a result.

Results are dataclasses in `edakari.results`, and networks. `edakari.pipeline.runner` runs stages and stores results.
"""

from __future__ import annotations

import contextlib
import dataclasses as dc
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.utils._pytree import tree_leaves

from edakari.core.blank import require_memory
from edakari.core.budget import Budget
from edakari.core.copying import copied
from edakari.core.files import write_json
from edakari.core.method import Job, Outcome, allocate_once, name_of, paper_of, scored_here
from edakari.core.owned import enlisting
from edakari.core.plan import Plan
from edakari.cost import counted, uncounted
from edakari.errors import PlanError
from edakari.latency.runtimes import runtime_named
from edakari.latency.target import TimedPair
from edakari.latency.timing import RunSettings, measure
from edakari.methods.allocation import allocate
from edakari.methods.fixed_widths import prune_with_fixed
from edakari.models.weights import weights_digest
from edakari.pipeline.context import Run, stored_bytes
from edakari.pipeline.counting import CountedTraining, epochs_left
from edakari.pipeline.evaluating import dense_stage, metrics_of
from edakari.pipeline.exact import check_exact, check_zeros, cut_costs
from edakari.pipeline.feasible import require_feasible, require_reachable
from edakari.pipeline.latency import BudgetLoop, batched, finished_latencies, measured_latencies
from edakari.pipeline.log import KeepLog, logged
from edakari.pipeline.masked import fixed_masks, masked_within
from edakari.pipeline.passing import warn_if_blocked
from edakari.pipeline.quantizing import check_quantizing
from edakari.pipeline.recovery import recovered
from edakari.pipeline.scored import ScoreRecord
from edakari.pipeline.settings import FinetuneSettings, MeasureSettings
from edakari.pipeline.task_facts import task_facts
from edakari.pipeline.teaching import training
from edakari.pipeline.trial import tried_format
from edakari.results import (
    CheckResult,
    FinetuneResult,
    KeptTokens,
    LatencyResult,
    MeasureResult,
    PruneResult,
    ReportResult,
    TracedGroup,
    TraceResult,
)
from edakari.surgery import apply, held_masks
from edakari.surgery.tokens import token_sites
from edakari.train import fitter
from edakari.train.scope import random_state_kept

__all__ = [
    "check_stage",
    "dense_stage",
    "finetune_stage",
    "latency_stage",
    "measure_stage",
    "prune_stage",
    "report_stage",
    "time_networks",
    "trace_stage",
]


def trace_stage(run: Run) -> TraceResult:
    """Find the groups, their costs and what is unprunable; a network with outputs that are not finite is refused."""
    run.task.batches("train")  # raises here if the batches do not divide among the processes
    for timed in (*run.settings.latencies.values(), run.settings.measure):
        for tensor in tree_leaves(run.example) if timed is not None else ():  # check memory now, not hours later
            if hasattr(tensor, "element_size"):
                require_memory((timed.batch, *tensor.shape), tensor.element_size())  # type: ignore[union-attr]
    check_quantizing(run)
    check_zeros(run.dense, held_masks(run.dense), "the network to prune")
    require_reachable(run)
    chosen = tried_format(run)
    run.notify("trace", "log", {"stage": f"memory format {chosen.form}: {chosen.why}"})
    require_feasible(run)
    if run.store.path is not None and run.processes.main:
        write_json(run.store.path / "task.json", task_facts(run.task))
    limited = {group.name: group for group in run.groups}
    return TraceResult(
        weights=weights_digest(run.dense),
        costs=dict(run.dense_costs),
        bytes=stored_bytes(run.dense),
        groups=tuple(
            TracedGroup(group=limited.get(group.name, group), chosen=group.name in limited)
            for group in run.graph.groups
        ),
        unprunable=tuple(run.graph.unprunable),
        uncounted=dict(uncounted(run.graph)),
        budget=str(run.settings.budget),
        memory_format=chosen.form,
        memory_format_reason=chosen.why,
    )


def latency_stage(run: Run) -> LatencyResult:
    """Compute the limits of the budget; for latencies, measure what a solver needs on their devices."""
    planned = run.processes.from_main(lambda: measured_latencies(run))
    timed = {cost: each.dense.median_ms for cost, each in planned.items()}
    budget = run.settings.budget.absolute({**run.dense_costs, **timed})
    return LatencyResult(limits={t.cost: t.limit for t in budget.terms}, sparsity=budget.sparsity, planned=planned)


def prune_stage(run: Run, limits: LatencyResult) -> tuple[PruneResult, Outcome]:
    """Run the method: from the dense network to a plan and a pruned network.

    Args:
        run: the run.
        limits: limits of the budget as numbers.

    Returns:
        The result, and the outcome of the method, whose plan names the method.
    """
    log: list[dict[str, Any]] = []

    def note(stage: str, figures: Mapping[str, float]) -> None:
        log.append(logged(stage, figures))
        run.notify("prune", "log", {"stage": stage, **figures})

    method, name = run.settings.method, name_of(run.settings.method)
    loop = BudgetLoop.of(run, limits.planned, note) if limits.planned else None
    work, train = run.store.work("prune"), CountedTraining(run.train)
    scored = ScoreRecord(scored_here if run.shared is None else run.shared.scores(run.inputs("seed")))
    job = Job(
        model=copied(run.dense),
        graph=run.graph,
        groups=run.groups,
        task=run.task,
        budget=limits.budget,
        fit=fitter(run.task, run.fitting("prune"), lambda: (KeepLog(log),), train=train),
        costs=loop.costs if loop else (),
        loop=loop or allocate_once,
        allocating=allocate,
        seed=run.settings.seed,
        log=note,
        folder=work,
        artifacts=run.store.artifacts,
        scoring=scored,
    )
    written = [folder for folder in (run.store.artifacts, work) if folder is not None and run.processes.main]
    with enlisting(*written) if written else contextlib.nullcontext():
        outcome = prune_with_fixed(run.chosen.fixed, method, job)
        if run.store.artifacts is not None and run.processes.main:
            scored.write(run.store.artifacts, run.groups, outcome.plan)
    plan = dc.replace(outcome.plan, method=outcome.plan.method or name)
    model, as_cut = recovered(run, plan, outcome.model)
    result = PruneResult(
        method=plan.method or name,
        paper=paper_of(method),
        plan=plan.digest(),
        sizes=dict(plan.sizes()),
        tokens=_tokens(run, plan),
        predicted=cut_costs(run, plan, outcome.model)
        if plan.tokens()
        else counted(run.graph, plan.sizes(), run.settings.budget),
        latencies=loop.met(plan) if loop else {},
        own_finetune=outcome.finetune is not None,
        own_teachers=outcome.teachers is not None,
        as_cut=as_cut,
        log=tuple(log),
        advice=outcome.advice,
        from_scratch=bool(getattr(method, "from_scratch", False)),
        batches=train.batches,
    )
    return result, dc.replace(outcome, plan=plan, model=model)


def _tokens(run: Run, plan: Plan) -> tuple[KeptTokens, ...]:
    """Number of patches that each selector keeps, and that the dense network has there."""
    edits = plan.tokens()
    if not edits:
        return ()
    sites = token_sites(run.dense, run.example)
    patches = dict(zip(sites.names, sites.patches, strict=True))
    return tuple(KeptTokens(block=edit.block, kept=edit.count, of=patches[edit.block]) for edit in edits)


def check_stage(run: Run, plan: Plan, pruned: nn.Module, limits: LatencyResult) -> CheckResult:
    """Check that the cut network equals its masked twin and lies within the budget; in the main process only.

    Args:
        run: the run.
        plan: plan of the method.
        pruned: network that the method returned.
        limits: limits of the budget as numbers.

    Raises:
        PlanError: the network does not.
    """
    # one process is enough, and its network in float64 takes memory; a task's metrics take all of them
    found = run.processes.from_main(lambda: _checked(run, plan, pruned, limits))
    return dc.replace(
        found, metrics=metrics_of(run, pruned, "the pruned network", "lower the learning rates of the method")
    )


def _checked(run: Run, plan: Plan, pruned: nn.Module, limits: LatencyResult) -> CheckResult:
    """The result of the check, without metrics."""
    with random_state_kept():
        _same_shapes(run, plan, pruned)
        difference = check_exact(run, plan)
        costs = cut_costs(run, plan, pruned)
        _within(limits.budget, costs, name_of(run.settings.method))
        warn_if_blocked(run.dense, pruned, run.task)
        masked = masked_within(run, plan, limits.sparsity)
    return CheckResult(difference=difference, costs=costs, bytes=stored_bytes(pruned), metrics={}, masked=masked)


def finetune_stage(
    run: Run, traced: TraceResult, pruned: PruneResult, model: nn.Module, given: Callable[[], Outcome]
) -> FinetuneResult:
    """Train the pruned network; an interrupted training resumes.

    Args:
        run: the run.
        traced: result of the trace stage, with the digest of the dense network's weights.
        pruned: result of the method.
        model: network that the method returned; trained in place.
        given: function that returns the method's outcome; called if its own objective or teachers are needed.
    """
    schedule, epochs, metrics = _tuning(run, pruned), [], {}
    train = CountedTraining(run.train)
    if schedule is not None and schedule.epochs > 0:
        with training(run, traced, pruned, given) as (objective, batches):
            history = train(
                model,
                objective,
                batches,
                schedule,
                hooks=fixed_masks(model),
                settings=dc.replace(run.fitting("finetune"), compile=run.settings.compile),
                evaluate=run.task.evaluate,
            )
        epochs = [dict(epoch) for epoch in history.epochs]
        metrics = dict(history.metrics) if run.settings.fit is None else {}
    else:
        metrics = dict(run.store.result(CheckResult).metrics)  # of the same network
    if not metrics:  # another loop may return other weights than it evaluated
        metrics = metrics_of(run, model, "the fine-tuned network", "lower finetune.lr or set finetune.clip")
    return FinetuneResult(
        metrics=metrics, epochs=tuple(epochs), metric=run.task.metric if metrics else "", batches=train.batches
    )


def _tuning(run: Run, pruned: PruneResult) -> FinetuneSettings | None:
    """The schedule of the fine-tuning, without the epochs that the method has taken, if they count."""
    asked = run.settings.finetune
    if asked is None or not asked.counts_method:
        return asked
    return dc.replace(asked, epochs=epochs_left(asked.epochs, run.task.batches("train"), pruned.batches))


def measure_stage(run: Run, limits: LatencyResult, pruned: PruneResult) -> MeasureResult:
    """Time the dense and the finished network alternately; in the main process only."""
    if not run.processes.main:
        return MeasureResult(runtimes={})
    latencies = finished_latencies(run, limits.planned, pruned.latencies)
    settings = run.settings.measure
    if settings is None:
        return MeasureResult(runtimes={}, latencies=latencies)
    runtimes = time_networks(run.dense, run.network("finished"), run.task.example(), settings)
    found = MeasureResult(runtimes=runtimes, latencies=latencies)
    return dc.replace(found, batch=settings.batch, threads=settings.threads)


def time_networks(dense: nn.Module, pruned: nn.Module, example: Any, settings: MeasureSettings) -> dict[str, TimedPair]:
    """Time two networks alternately, in each runtime.

    Args:
        dense: unpruned network.
        pruned: pruned network.
        example: an input of batch size 1.
        settings: runtimes, and number of calls.
    """
    networks, batch, found = {"dense": dense, "pruned": pruned}, batched(example, settings.batch), {}
    for name in settings.runtimes:
        how = RunSettings(threads=settings.threads, warmup=settings.warmup)
        timings = measure(networks, batch, runtime_named(name), settings=how, repeats=settings.repeats)
        found[name] = TimedPair(**timings)
    return found


def report_stage(run: Run, plan: Plan) -> ReportResult:
    """Write the report of a run in a folder: as JSON, as a page and as a picture."""
    folder = run.store.path
    if folder is None:
        return ReportResult(page="")
    if run.processes.main:
        from edakari.explain.tokens import token_view
        from edakari.report import write_report
        from edakari.report.explanation import write_explanation
        from edakari.report.tokens import draw_tokens

        if plan.tokens():
            view = token_view(run.dense, run.network("finished"), plan, run.task)
            write_explanation(draw_tokens(view, folder), folder)
        write_report(folder)
    return ReportResult(page="report.html")


def _same_shapes(run: Run, plan: Plan, pruned: nn.Module) -> None:
    small = apply(run.dense, plan, run.graph)
    expected = {name: tuple(value.shape) for name, value in small.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in pruned.state_dict().items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise PlanError(
                f"method {name_of(run.settings.method)!r}: its plan gives {name} the shape {expected.get(name)}, "
                f"its network has {found.get(name)}"
            )
    check_zeros(pruned, held_masks(small), f"the network of method {name_of(run.settings.method)!r}")


def _within(budget: Budget, costs: Mapping[str, float], method: str) -> None:
    for term in budget.terms:  # the loop has measured a latency already
        if term.cost in costs and costs[term.cost] > term.limit * (1 + 1e-9):
            raise PlanError(
                f"method {method!r} left {term.cost} at {costs[term.cost]:.6g}, above the budget of {term.limit:.6g}"
            )
