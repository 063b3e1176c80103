"""How long an arm of headline.py takes on this machine, from a few steps."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from headline_arms import Arm, Passes

import edakari
from edakari.core.protocols import Hook, Schedule, StepState
from edakari.models import build
from edakari.pipeline.recipe import read_recipe
from edakari.tasks import task_from_settings
from edakari.train import FitSettings, task_objective

__all__ = ["estimated"]

Recipe = Callable[[Mapping[str, Any]], tuple[Path, Sequence[str]]]
"""From settings to a recipe's file and all settings of the arm."""
STEPS, SKIPPED = 60, 20
"""Steps that are taken, and those that are not timed: the first ones compile, and choose algorithms."""


class Clock(Hook):
    """Times after the first step, after those that are skipped, and at the end; it waits for the device there only."""

    def __init__(self, last: int, skipped: int) -> None:
        self.ends, self.times, self.start = (0, skipped, last), list[float](), time.perf_counter()

    def after_step(self, state: StepState) -> None:
        """See `Hook`."""
        if state.step in self.ends:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.times.append(time.perf_counter())


def estimated(arm: Arm, recipe: Recipe, mode: str, steps: int = STEPS, batch: int | None = None) -> dict[str, float]:
    """Seconds of an arm: of its plain trainings, of what its method does beside them, and together.

    Args:
        arm: the arm.
        recipe: makes the arm's recipe with further settings.
        mode: mode of the compilation.
        steps: number of steps of each training that are taken.
        batch: images per batch, where the estimate is only tried; None is as in the arm.
    """
    parts = {
        f"training {number + 1}": _passes(each, recipe, mode, (steps, batch or each.batch))
        for number, each in enumerate(arm.passes)
    }
    if arm.rehearsal is not None:
        first, second, times = arm.rehearsal
        shorter, longer = _method(recipe, first), _method(recipe, second)
        parts["method"] = shorter + times * max(0.0, longer - shorter)
    return {**parts, "seconds": sum(parts.values())}


def _passes(passes: Passes, recipe: Recipe, mode: str, taken: tuple[int, int]) -> float:
    """Seconds of a training, from some steps of some images each."""
    steps, batch = taken
    images = {"data.batch_size": batch, "data.max_images": steps * batch}
    asked = read_recipe(*recipe({**images, "model.weights": "random"}))
    model, task = build(asked.model), task_from_settings(asked.data)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    batches = task.with_indices(passes.views) if passes.views > 1 else task.batches("train")
    count = len(batches)
    skipped = min(SKIPPED, count // 2)
    clock = Clock(count - 1, skipped)
    settings = FitSettings(progress=False, compile=mode if passes.compiled else "none")
    schedule = Schedule(epochs=1, lr=0.01, precision="auto")
    edakari.fit(model, task_objective(task), batches, schedule, settings=settings, hooks=[clock])
    each = (clock.times[-1] - clock.times[-2]) / (count - 1 - skipped)
    task.evaluate(model)
    start = time.perf_counter()
    task.evaluate(model)
    judging = time.perf_counter() - start
    begin = clock.times[0] - clock.start
    # the last batch of an epoch has another shape, which is compiled as well
    return (2 * begin if passes.compiled and mode != "none" else begin) + passes.steps * each + passes.epochs * judging


def _method(recipe: Recipe, changes: Mapping[str, Any]) -> float:
    """Seconds of the method in a run without fine-tuning."""
    plain = {"finetune.epochs": 0, "compile": "none", "model.weights": "random"}
    asked = read_recipe(*recipe({**changes, **plain}))
    with tempfile.TemporaryDirectory() as folder:
        found = edakari.run(asked, Path(folder) / "run").results.prune
    assert found is not None
    return found.seconds
