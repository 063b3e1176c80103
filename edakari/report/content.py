"""The content of a run's report, from what its stages have found out."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # what the command line shows at once must not wait for torch
    from edakari.core.answers import AnswersResult
    from edakari.latency.timing import Timing
    from edakari.results import (
        CheckResult,
        DenseResult,
        FinetuneResult,
        LatencyResult,
        Results,
        TracedGroup,
        TraceResult,
    )

    Judged = DenseResult | CheckResult | FinetuneResult

__all__ = ["Content", "gathered", "method_label"]

Content = dict[str, Any]


def gathered(results: Results, recipe: Mapping[str, Any]) -> Content:
    """Make the content of `report.json`, for a run in a folder or in memory.

    Args:
        results: results of the stages so far.
        recipe: recipe of the run, as plain values.
    """
    traced, pruned = results.trace, results.prune
    measured = results.measure
    return {
        "version": 1,
        "model": recipe["model"]["name"],
        "random_weights": recipe["model"].get("weights") == "random",
        "from_scratch": bool(pruned and pruned.from_scratch),
        "method": method_label(recipe["method"]),
        "paper": pruned.paper if pruned else "",
        "budget": traced.budget,
        "limits": dict(results.latency.limits) if results.latency else {},
        "sparsity": results.latency.sparsity if results.latency else 0.0,
        "finished": results.export is not None,
        "metric": (results.dense.metric or None) if results.dense else None,
        "images": results.dense.images if results.dense else None,
        "networks": _networks(results),
        "as_cut": dict(pruned.as_cut) if pruned and pruned.as_cut is not None else None,
        "measured": {"batch": measured and measured.batch, "threads": measured and measured.threads},
        "latencies": _latencies(results),
        "int8": dc.asdict(results.quantize) if results.quantize and results.quantize.corners else None,
        "answers": _answers(results.answers),
        "groups": _groups(traced.groups, pruned.sizes if pruned else {}),
        "dropped": _dropped(traced.groups, pruned.sizes if pruned else {}),
        "masked": dc.asdict(results.check.masked) if results.check and results.check.masked else None,
        "tokens": [dc.asdict(each) for each in pruned.tokens] if pruned else [],
        "unprunable": [dc.asdict(each) for each in traced.unprunable],
        "uncounted": dict(traced.uncounted),
        "difference": results.check.difference if results.check else None,
        "log": [dict(entry) for entry in pruned.log] if pruned else [],
        "advice": pruned.advice if pruned else "",
        "epochs": [dict(epoch) for epoch in results.finetune.epochs] if results.finetune else [],
        "examples": _examples(results, recipe),
        "export": [dc.asdict(file) for file in results.export.files] if results.export else [],
        "explanations": [],
        "ticket": {},
        "sensitivity": [],
        "sweep": [],
        "seconds": {name: stage.seconds for name, stage in vars(results).items() if stage},
        "recipe": dict(recipe),
        "environment": {},
    }


def _answers(found: AnswersResult | None) -> dict[str, Any] | None:
    """How the answers changed; the duration is among those of all stages."""
    if found is None or not found.images:
        return None
    return {name: value for name, value in dc.asdict(found).items() if name != "seconds"}


def _examples(results: Results, recipe: Mapping[str, Any]) -> int | None:
    """Number of training examples that all trainings took; None if the size of a batch is unknown."""
    size = (recipe.get("data") or {}).get("batch_size")
    views = (recipe.get("finetune") or {}).get("views", 1)
    if size is None or results.prune is None or results.finetune is None:
        return None
    return int(size * (results.prune.batches + results.finetune.batches * views))


def _networks(results: Results) -> list[Content]:
    runtimes = results.measure.runtimes if results.measure else {}
    known: tuple[tuple[str, TraceResult | CheckResult | None, Judged | None, str], ...] = (
        ("dense", results.trace, results.dense, "dense"),
        ("pruned", results.check, results.check, ""),
        ("fine-tuned", results.check, results.finetune, "pruned"),
    )
    return [
        {
            "name": name,
            "metrics": dict(judged.metrics) if judged else {},
            "costs": dict(costed.costs),
            "bytes": costed.bytes,
            "latency": {runtime: dc.asdict(getattr(pair, timed)) for runtime, pair in runtimes.items()}
            if timed
            else {},
        }
        for name, costed, judged, timed in known
        if costed and (name != "fine-tuned" or judged)
    ]


def _latencies(results: Results) -> Content:
    """The latencies of the budget by name: dense, predicted and measured, and the rounds of the closed loop."""
    found = results.latency
    return {} if found is None else {cost: _latency(results, found, cost) for cost in found.planned}


def _latency(results: Results, limits: LatencyResult, cost: str) -> Content:
    planned, limit_ms = limits.planned[cost], limits.limits[cost]
    met = results.prune.latencies[cost] if results.prune else None
    last = results.measure.latencies.get(cost) if results.measure else None
    # until the finished network has been timed, the timing of the pruned network takes its place
    pair, error = (met.chosen.timing, met.chosen.relative_error) if met else (None, None)
    if last is not None:
        pair, error = last.timing, last.relative_error
    dense, timed = dc.asdict(planned.dense), None
    if pair is not None and error is not None:
        # the dense network's latency at the machine's speed, from all of its measurements in the run
        timed = _at(limit_ms * (1 + error), pair.pruned)
        dense = _at(limit_ms * (1 + error) / pair.pruned.ratio, planned.dense)
    return {
        "runtime": planned.key.runtime,
        "batch": planned.batch,
        "settings": dict(planned.key.settings),
        "limit_ms": limit_ms,
        "fit": dc.asdict(planned.fit) if planned.fit else None,
        "dense": dense,
        "predicted_ms": met.predicted_ms if met else None,
        "measured": timed,
        "relative_error": error,
        "finished": last is not None,
        "calls": planned.key.settings.get("calls", "steady"),
        "other_calls": dict(last.other_calls) if last else {},
        "rounds": [dc.asdict(each) for each in met.rounds] if met else [],
    }


def _at(median: float, timing: Timing) -> Content:
    """A timing scaled to another speed of the machine, at which its median has this value."""
    return {**dc.asdict(timing), "median_ms": median, "spread": timing.spread * median / timing.median_ms}


def _groups(groups: Sequence[TracedGroup], sizes: Mapping[str, int]) -> list[Content]:
    return [
        {**dc.asdict(each.group), "chosen": each.chosen, "kept": sizes.get(each.group.name, each.group.size)}
        for each in groups
    ]


def _dropped(groups: Sequence[TracedGroup], sizes: Mapping[str, int]) -> list[str]:
    """Names of the branches and parallel paths that are gone with all of their layers."""
    known = {each.group.name for each in groups}
    return [name for name, size in sizes.items() if not size and name not in known]


def method_label(section: Mapping[str, Any]) -> str:
    """Name of a recipe's method: that of the criterion if the method takes one."""
    criterion = section.get("criterion") if section["name"] == "score" else None
    return str(criterion.get("name") if isinstance(criterion, Mapping) else criterion or section["name"])
