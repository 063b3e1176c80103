"""The stages of a run, in order; each gives its result as plain values."""

from __future__ import annotations

import contextlib
import dataclasses as dc
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from edakari.core.blank import repeated, require_memory
from edakari.core.budget import Budget
from edakari.core.copying import copied
from edakari.core.finite import require_finite, require_finite_figures
from edakari.core.method import Job, Outcome, allocate_once
from edakari.core.owned import enlisting
from edakari.core.plan import Plan
from edakari.cost import dense, uncounted
from edakari.errors import PlanError, RunFolderError
from edakari.export import to_onnx, to_program
from edakari.graph import fixed_graph
from edakari.latency.runtimes import runtime_named
from edakari.latency.timing import RunSettings, measure
from edakari.methods.fixed_widths import prune_beside
from edakari.models.weights import weights_digest
from edakari.pipeline import processes
from edakari.pipeline.context import Run, costs_at, stored_bytes
from edakari.pipeline.exact import check_exact
from edakari.pipeline.latency import BudgetLoop, finished_latency, measured_latency
from edakari.pipeline.log import logged, with_log
from edakari.pipeline.settings import MeasureSettings
from edakari.pipeline.teaching import training
from edakari.pipeline.token_view import token_view
from edakari.report import write_report
from edakari.report.explanation import keep as keep_explanation
from edakari.report.tokens import draw_tokens
from edakari.surgery import apply, save
from edakari.surgery.tokens import token_sites
from edakari.train import fit, fitter

__all__ = ["STAGES", "time_networks"]

Result = dict[str, Any]


def trace_stage(run: Run) -> Result:
    """What can be pruned, what it costs, what was refused; a network whose outputs are not finite is."""
    run.task.batches("train")  # which are refused here where they do not divide among the processes
    for timed in (run.recipe.latency, run.recipe.measure):
        if timed is not None:  # not only hours later, when it is timed
            require_memory((timed.batch, *run.task.example().shape), run.task.example().element_size())
    limited = {group.name: group for group in run.groups}
    groups = [
        dc.asdict(limited.get(group.name, group)) | {"chosen": group.name in limited} for group in run.graph.groups
    ]
    batch = next(iter(run.task.batches("calibration")), None)
    if batch is not None:
        require_finite(run.dense, lambda: run.task.outputs(run.dense, batch), "the dense network")
    return {
        "weights": weights_digest(run.dense),
        "costs": dict(run.dense_costs),
        "bytes": stored_bytes(run.dense),
        "groups": groups,
        "unprunable": [dc.asdict(unprunable) for unprunable in run.graph.unprunable],
        "uncounted": dict(uncounted(run.graph)),
        "budget": str(run.recipe.budget),
        "input": list(run.task.example().shape),
    }


def latency_stage(run: Run) -> Result:
    """The budget in figures; where it has a latency, what a solver needs to know of this machine."""
    timed = processes.from_main(lambda: measured_latency(run), cpu=run.recipe.device == "cpu")
    share = {"latency": timed["dense"]["median_ms"]} if timed else {}
    budget = run.recipe.budget.absolute({**run.dense_costs, **share})
    return {"limits": {term.cost: term.limit for term in budget.terms}, **timed}


def dense_stage(run: Run) -> Result:
    """How good the dense network is."""
    return {"metric": run.task.metric, "metrics": _metrics(run, run.dense, "the dense network", "check its weights")}


def prune_stage(run: Run) -> Result:
    """The method: from the dense network to a plan and a pruned network."""
    log: list[Result] = []

    def note(stage: str, figures: Mapping[str, float]) -> None:
        log.append(logged(stage, figures))
        run.notify("prune", "log", {"stage": stage, **figures})

    name, method = run.recipe.method
    loop = BudgetLoop.of(run, note) if run.recipe.latency else None
    job = Job(
        model=copied(run.dense),
        graph=run.graph,
        groups=run.groups,
        task=run.task,
        budget=run.budget,
        fit=with_log(fitter(run.task, run.fitting("prune")), log),
        costs=loop.costs if loop else (),
        meet_budget=loop or allocate_once,
        seed=run.recipe.seed,
        log=note,
        folder=run.folder.work("prune"),
        artifacts=run.folder.kept,
    )
    with enlisting(run.folder.kept, run.folder.work("prune")) if run.main else contextlib.nullcontext():
        outcome = prune_beside(run.chosen.fixed, method, job)
    plan = dc.replace(outcome.plan, method=outcome.plan.method or name)
    latency = loop.met(plan) if loop else None
    run.outcome = dc.replace(outcome, plan=plan)
    store(run, outcome.model, pruned=True)
    return {
        "method": name,
        "paper": method.paper,
        "plan": plan.digest(),
        "sizes": dict(plan.sizes()),
        "tokens": _tokens(run, plan),
        "predicted": _counted(run, outcome.model) if plan.tokens() else costs_at(run.graph, plan.sizes()),
        "latency": latency,
        "own_finetune": outcome.finetune is not None,
        "own_teachers": outcome.teachers is not None,
        "log": log,
    }


def _tokens(run: Run, plan: Plan) -> list[Result]:
    """Patches that go on at each selector, and those that the dense network has there."""
    edits = plan.tokens()
    if not edits:
        return []
    sites = token_sites(run.dense, run.task.example())
    patches = dict(zip(sites.names, sites.patches, strict=True))
    return [{"block": edit.block, "kept": edit.count, "of": patches[edit.block]} for edit in edits]


def check_stage(run: Run) -> Result:
    """That the cut network is what the plan says: equal to its masked twin, and within the budget."""
    pruned = run.pruned()
    _same_shapes(run, pruned)
    difference = check_exact(run)
    costs = _counted(run, pruned)
    _within(run.budget, costs, run.recipe.method[0])
    return {
        "difference": difference,
        "costs": costs,
        "bytes": stored_bytes(pruned),
        "metrics": _metrics(run, pruned, "the pruned network", "lower the learning rates of the method"),
    }


def finetune_stage(run: Run) -> Result:
    """Training of the pruned network; resumes inside of itself."""
    model = run.pruned()
    schedule, epochs = run.recipe.finetune, []
    if schedule is not None and schedule.epochs > 0:
        objective, batches = training(run, lambda: _outcome(run))
        history = fit(
            model,
            objective,
            batches,
            schedule,
            settings=run.fitting("finetune"),
            evaluate=run.task.evaluate,
        )
        epochs = [dict(epoch) for epoch in history.epochs]
    metrics = _metrics(run, model, "the fine-tuned network", "lower finetune.lr or set finetune.clip")
    store(run, model, pruned=False)
    return {"metrics": metrics, "epochs": epochs}


def measure_stage(run: Run) -> Result:
    """Latency of the dense and of the finished network, in turns."""
    if not run.main:
        return {"runtimes": {}}
    latency = finished_latency(run)
    settings = run.recipe.measure
    if settings is None:
        return {"runtimes": {}, "latency": latency}
    runtimes = time_networks(run.dense, run.final(), run.task.example(), settings)
    return {"batch": settings.batch, "threads": settings.threads, "runtimes": runtimes, "latency": latency}


def time_networks(dense: nn.Module, pruned: nn.Module, example: torch.Tensor, settings: MeasureSettings) -> Result:
    """Latency of two networks in each runtime, as plain values.

    Args:
        dense: the network as it was.
        pruned: the network as it is.
        example: an input, [1, ...].
        settings: where and how often.
    """
    batch = repeated(example, settings.batch)
    found = {}
    for name in settings.runtimes:
        timings = measure(
            {"dense": dense, "pruned": pruned},
            batch,
            runtime_named(name),
            settings=RunSettings(threads=settings.threads, warmup=settings.warmup),
            repeats=settings.repeats,
        )
        found[name] = {network: dc.asdict(timing) for network, timing in timings.items()}
    return found


def export_stage(run: Run) -> Result:
    """The dense and the finished network in other formats, for the batch whose latency is met; outputs compared."""
    if not run.main:
        return {"files": []}
    exporters = {"onnx": (to_onnx, "onnx"), "program": (to_program, "pt2")}
    batch = run.recipe.latency.batch if run.recipe.latency else 1
    example, files = repeated(run.task.example(), batch), []
    for kind in run.recipe.export:
        export, suffix = exporters[kind]
        for name, model in (("dense", run.dense), ("pruned", run.final())):
            found = export(copied(model).cpu(), example, run.folder.exported / f"{name}.{suffix}")
            files.append(dc.asdict(found) | {"path": f"export/{name}.{suffix}", "network": name})
    return {"files": files}


def report_stage(run: Run) -> Result:
    """The report, as JSON, as a page and as a picture."""
    if run.main:
        if run.plan.tokens():
            view = token_view(run.dense, run.final(), run.plan, run.task)
            keep_explanation(draw_tokens(view, run.folder.path), run.folder.path)
        write_report(run.folder.path)
    return {"page": "report.html"}


STAGES: dict[str, Callable[[Run], Result]] = {
    "trace": trace_stage,
    "latency": latency_stage,
    "dense": dense_stage,
    "prune": prune_stage,
    "check": check_stage,
    "finetune": finetune_stage,
    "measure": measure_stage,
    "export": export_stage,
    "report": report_stage,
}


def store(run: Run, model: nn.Module, *, pruned: bool) -> None:
    """Write a network of the run from the main process."""
    plan = run.outcome.plan if pruned and run.outcome else run.plan
    if not run.main:
        return
    save(model, plan, run.folder.pruned if pruned else run.folder.path, base=run.dense, overwrite=True)


def _outcome(run: Run) -> Outcome:
    """What the method gave; a process that goes on with a run has it made again from what the method cached."""
    if run.outcome is None:
        before = run.folder.read("prune")["plan"]
        prune_stage(run)
        if run.outcome is None or run.outcome.plan.digest() != before:
            raise RunFolderError(
                f"{run.folder.path}: method {run.recipe.method[0]!r} made another plan when run again; "
                "start anew with --overwrite"
            )
    return run.outcome


def _counted(run: Run, model: nn.Module) -> dict[str, float]:
    """What a finished network costs."""
    return dense(fixed_graph(model, run.task.example().to(run.device)))


def _same_shapes(run: Run, pruned: nn.Module) -> None:
    expected = {name: tuple(value.shape) for name, value in apply(run.dense, run.plan, run.graph).state_dict().items()}
    found = {name: tuple(value.shape) for name, value in pruned.state_dict().items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise PlanError(
                f"method {run.recipe.method[0]!r}: its plan gives {name} the shape {expected.get(name)}, "
                f"its network has {found.get(name)}"
            )


def _metrics(run: Run, model: nn.Module, what: str, advice: str) -> dict[str, float]:
    """The task's figures of a network, all of them finite."""
    metrics = dict(run.task.evaluate(model))
    require_finite_figures(metrics, what, advice)
    return metrics


def _within(budget: Budget, costs: Mapping[str, float], method: str) -> None:
    for term in budget.terms:  # a latency has been measured by the loop
        if term.cost in costs and costs[term.cost] > term.limit * (1 + 1e-9):
            raise PlanError(
                f"method {method!r} left {term.cost} at {costs[term.cost]:.6g}, above the budget of {term.limit:.6g}"
            )
