"""Metrics of a run's networks, and the stage of the unpruned one."""

from __future__ import annotations

from torch import nn

from edakari.core.finite import require_finite_figures
from edakari.pipeline.context import Run
from edakari.pipeline.quantizing import require_judge
from edakari.pipeline.task_facts import validation_images
from edakari.results import DenseResult

__all__ = ["dense_stage", "metrics_of"]


def dense_stage(run: Run) -> DenseResult:
    """Evaluate the dense network, unless a run with the same network and data has done so."""

    def evaluated() -> DenseResult:
        metrics = metrics_of(run, run.dense, "the dense network", "check its weights")
        images = validation_images(run.task) if metrics else None
        return DenseResult(metric=run.task.metric if metrics else "", metrics=metrics, images=images)

    found = evaluated() if run.shared is None else run.shared.result(DenseResult, run.inputs(), evaluated)
    require_judge(run, found.metrics)
    return found


def metrics_of(run: Run, model: nn.Module, what: str, advice: str) -> dict[str, float]:
    """Compute the task's metrics of a network; all must be finite.

    Args:
        run: the run.
        model: the network.
        what: name of the network in errors.
        advice: what to do if a metric is not finite.
    """
    metrics = run.evaluate(model)
    require_finite_figures(metrics, what, advice)
    return metrics
