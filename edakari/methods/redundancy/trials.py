"""Cutting by trial: cuts the groups whose trial cut hardly changes the network's predictions on the same images."""

from __future__ import annotations

import dataclasses as dc
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from edakari.core.budget import Limits
from edakari.core.files import write_json
from edakari.core.graph import Graph
from edakari.core.method import Job, Outcome
from edakari.core.objective import task_objective
from edakari.core.plan import Plan
from edakari.core.processes import Processes
from edakari.core.protocols import Batch, Cost, Criterion
from edakari.core.reading import parse_json
from edakari.core.space import Group, Scores, Sizes, dense_sizes
from edakari.cost import bind
from edakari.criteria.dividing import until
from edakari.criteria.labels import LabelSource
from edakari.errors import InfeasibleBudget, ModelError, RunFolderError
from edakari.graph import trace
from edakari.graph.layer_outputs import sums_into
from edakari.methods.redundancy.paired import Answers, Change, answers_of, change_between
from edakari.methods.redundancy.steps import step_down
from edakari.methods.redundancy.trial_settings import Soft, TrialSettings
from edakari.solve import keep_best
from edakari.solve.last_step import shortened
from edakari.solve.spend import reachable
from edakari.surgery import apply
from edakari.train.statistics import recalibrate_

__all__ = ["Trials", "prune_by_trials", "redundancy"]

ALL = 2**31
"""A number of images that no data set has."""
SMALLEST = 1e-9
"""A step so small that every group loses only one legal size."""

FILE = "rounds.json"
"""Name of the file in the job's folder that records the rounds so far."""


def prune_by_trials(name: str, criterion: Criterion, settings: TrialSettings, labels: LabelSource, job: Job) -> Outcome:
    """Cut in rounds, first residual streams, then the other groups, then all, until the budget is met.

    Each round first cuts every group alone, to a smaller width, by the scores of the current network. It then cuts all
    groups whose redundancy score is below the tolerance; if there are none, it halves the steps. The last round is
    shortened so that it ends just within the budget. The job's folder records every round, so that an interrupted
    pruning continues after its last round. He et al., ECCV 2022.

    Args:
        name: name of the method, recorded in the plan.
        criterion: criterion that scores the channels.
        settings: settings of the trial cuts.
        labels: source of the labels with which predictions are compared.
        job: network, budget and data.

    Raises:
        InfeasibleBudget: the groups cannot reach the budget, or no group can be cut within the tolerance.
    """
    return Trials(name, criterion, settings, labels, job).run()


def redundancy(change: Change, accuracy_weight: float, kappa: float = 1.0, soft: Soft = "cosine") -> float:
    """Redundancy score of a trial cut; a group with a low score is redundant.

    Args:
        change: change of the predictions by the trial cut.
        accuracy_weight: weight of the accuracy drop (beta in the paper); the rest weighs the class distribution.
        kappa: factor of the accuracy drop.
        soft: "cosine" counts the change of the class distribution, "off" does not.
    """
    shift = change.dissimilarity if soft == "cosine" else 0.0
    return (1.0 - accuracy_weight) * shift + accuracy_weight * kappa * change.accuracy_drop


@dc.dataclass(frozen=True)
class _Phase:
    """Groups that are cut together, the first step, and the limits at which the phase ends."""

    groups: tuple[Group, ...]
    step: float
    limits: Limits


class Trials:
    """The rounds of one pruning; run state.

    Args:
        name: name of the method, recorded in the plan.
        criterion: criterion that scores the channels of the current network.
        settings: settings of the trial cuts.
        labels: source of the labels with which predictions are compared.
        job: network, budget and data.
    """

    def __init__(self, name: str, criterion: Criterion, settings: TrialSettings, labels: LabelSource, job: Job) -> None:
        self.name, self.criterion, self.settings, self.labels, self.job = name, criterion, settings, labels, job
        self.model: nn.Module = job.model
        self.graph: Graph = job.graph
        self.plan = Plan((), job.graph.fingerprint, job.graph.inputs, name)
        self.sizes = dense_sizes(job.groups)
        self.limits = bind(job.budget, job.graph, job.costs)
        self.blocks = sums_into(job.graph)
        self.tolerance = settings.tolerance
        self.rounds: list[dict[str, Any]] = []
        self.met = False
        self._scores: Scores | None = None
        self._reference: Answers | None = None
        self._changes: dict[tuple[tuple[str, int], ...], Change] = {}

    def run(self) -> Outcome:
        """Prune until the budget is met."""
        values = {group.name: np.zeros(group.size + 1) for group in self.job.groups}
        if reachable(self.job.groups, values, self.limits) is None:
            phases = self._phases()
            first, step = self._resume()
            for number, phase in enumerate(phases[first:], start=first):
                self._phase(number, phase, step or phase.step, last=number == len(phases) - 1)
                step = None
        return Outcome(self.plan, self.model)

    def _phases(self) -> list[_Phase]:
        groups, settings = tuple(self.job.groups), self.settings
        streams = tuple(group for group in groups if group.name in self.blocks)
        inner = tuple(group for group in groups if group.name not in self.blocks)
        dense = [(cost, cost.total({}), limit) for cost, limit in self.limits.terms]
        first = Limits(
            tuple((cost, max(limit, full - settings.residual_share * (full - limit))) for cost, full, limit in dense)
        )
        return [
            *([_Phase(streams, settings.residual_step, first)] if streams else []),
            *([_Phase(inner, settings.inner_step, self.limits)] if inner else []),
            # differs: the authors' code has two phases; a budget that those do not reach needs both kinds of groups
            _Phase(groups, max(settings.inner_step, settings.residual_step), self.limits),
        ]

    def _phase(self, number: int, phase: _Phase, step: float, last: bool) -> None:
        while not self.met and phase.limits.excess(self.sizes) > 0:
            tried = self._trial_sizes(phase, step)
            redundant = {name: self._redundancy({name: size}) for name, size in tried.items()}
            passing = {name: size for name, size in tried.items() if redundant[name] < self.tolerance}
            if passing:
                passing = self._jointly(passing, redundant)
                figures = {"phase": float(number), "step": step, "redundancy": max(map(redundant.__getitem__, passing))}
                self._cut(passing, figures)
            elif tried != self._trial_sizes(phase, SMALLEST):
                step /= 2
            elif not last:
                # differs: the authors' code would loop forever; here the next phase has other groups to cut
                return
            else:
                # differs: the steps begin again, as larger ones may be within the larger tolerance
                self._stalled()
                step = phase.step

    def _trial_sizes(self, phase: _Phase, step: float) -> dict[str, int]:
        """Return the size to which each group would be cut."""
        sizes = {}
        for group in phase.groups:
            width = step_down(group, self.sizes[group.name], step, self.blocks.get(group.name, 0))
            if width is not None:
                sizes[group.name] = width
        return sizes

    def _stalled(self) -> None:
        if self.settings.stalled == "stop":
            raise InfeasibleBudget(
                f"method {self.name!r}: no group can be cut within tolerance={self.tolerance:g}, with "
                f"{self.limits.describe(self.sizes)}. Raise method.trial.tolerance or the budget, or set "
                "method.trial.stalled to 'relax'.",
                self._costs(),
            )
        # differs: the authors' code would loop forever
        self.tolerance *= 2

    def _redundancy(self, sizes: Sizes) -> float:
        """Redundancy score of a cut to some sizes; trials are cached until the network changes."""
        change = self._change(sizes)
        kappa = self.settings.residual_weight if all(name in self.blocks for name in sizes) else 1.0
        found = redundancy(change, self.settings.accuracy_weight, kappa, self.settings.soft)
        if not math.isfinite(found):
            raise ModelError(f"cut to {dict(sizes)}, the network gives outputs that are not finite; leave these out")
        return found

    def _change(self, sizes: Sizes) -> Change:
        key = tuple(sorted(sizes.items()))
        if key not in self._changes:
            trial = apply(self.model, self._cut_to(sizes), self.graph)
            if self.settings.recalibrate:
                recalibrate_(trial, self.job.task.outputs, until(self._images(), self.settings.images or ALL))
            if self._reference is None:
                self._reference = self._answers(self.model)
            self._changes[key] = change_between(self._reference, self._answers(trial))
        return self._changes[key]

    def _answers(self, model: nn.Module) -> Answers:
        return answers_of(model, self._images(), self.job.task, self.settings.images or ALL, self.labels)

    def _images(self) -> Iterable[Batch]:
        return self.job.task.batches("calibration")

    def _cut_to(self, sizes: Sizes) -> Plan:
        return Plan(keep_best(self._scored(), sizes), self.graph.fingerprint, self.graph.inputs, self.name)

    def _scored(self) -> Scores:
        if self._scores is None:
            task = self.job.task
            self._scores = self.criterion.score(self.model, self.graph, task.batches("calibration"), task)
        return self._scores

    def _jointly(self, passing: Mapping[str, int], redundant: Mapping[str, float]) -> dict[str, int]:
        """Return the groups to cut together: all, or with `joint` the largest of their halves within the tolerance."""
        order = sorted(passing, key=lambda name: (redundant[name], name))
        while self.settings.joint and len(order) > 1:
            if self._redundancy({name: passing[name] for name in order}) < self.tolerance:
                break
            order = order[: (len(order) + 1) // 2]
        return {name: passing[name] for name in order}

    def _cut(self, sizes: Mapping[str, int], figures: Mapping[str, float]) -> None:
        """Cut groups, and train briefly unless this was the last cut."""
        disagreement = max(self._change({name: size}).disagreement for name, size in sizes.items())
        proposed = {**self.sizes, **sizes}
        plan = self._cut_to(sizes)
        if self.limits.excess(proposed) <= 0:

            def solve(costs: Sequence[Cost]) -> Plan:
                limits = bind(self.job.budget, self.job.graph, costs)
                return self._cut_to(shortened(self.job.groups, self.sizes, proposed, self._scored(), limits))

            plan, self.met = self.job.meet_budget(solve, self.plan), True
        entry = {"plan": plan.to_json(), "tolerance": self.tolerance, "met": self.met}
        entry["figures"] = {"groups": float(len(plan.edits)), "disagreement": disagreement, **figures}
        if self.job.folder is not None and Processes.here().main:
            write_json(self.job.folder / FILE, {"digest": self._digest(), "rounds": [*self.rounds, entry]})
        self._carry_out(entry)

    def _carry_out(self, entry: dict[str, Any]) -> None:
        plan = Plan.from_json(entry["plan"])
        self.model, self.plan = apply(self.model, plan, self.graph), self.plan.then(plan)
        self.sizes.update(self.plan.sizes())
        self.tolerance, self.met = entry["tolerance"], entry["met"]
        self.rounds.append(entry)
        figures = {**self._costs(), "tolerance": self.tolerance, **entry["figures"]}
        self.job.log(f"round {len(self.rounds)}", figures)
        if self.settings.recovery_epochs and not self.met:
            self.job.fit(self.model, task_objective(self.job.task), self.settings.recovery)
        self.graph = trace(self.model, self.job.task.example())
        self._forget()

    def _resume(self) -> tuple[int, float | None]:
        """Repeat the cuts of an interrupted pruning; returns the phase and the step with which it continues.

        Raises:
            RunFolderError: the file of rounds is damaged, or belongs to another pruning.
        """
        for entry in _read(self.job.folder, self._digest()):
            self._carry_out(entry)
        if not self.rounds:
            return 0, None
        figures = self.rounds[-1]["figures"]
        return int(figures["phase"]), float(figures["step"])

    def _digest(self) -> str:
        """Digest of everything that the rounds depend on, except the data."""
        inputs = (
            f"{self.settings!r} {self.labels} {self.criterion!r} {self.job.budget} {self.job.groups!r} {self.job.seed}"
        )
        return hashlib.sha256(f"{inputs} {self.job.graph.fingerprint}".encode()).hexdigest()

    def _costs(self) -> dict[str, float]:
        return {cost.name: float(cost.total(self.sizes)) for cost, _ in self.limits.terms}

    def _forget(self) -> None:
        """Drop what was cached for the previous network."""
        self._scores, self._reference, self._changes = None, None, {}


def _read(folder: Path | None, digest: str) -> list[dict[str, Any]]:
    """Read the rounds from a folder; the first process reads for all."""
    path = folder / FILE if folder is not None else None
    text = Processes.here().from_main(
        lambda: path.read_text(encoding="utf-8") if path is not None and path.is_file() else ""
    )
    if not text:
        return []
    try:
        content = parse_json(text)
        rounds: list[dict[str, Any]] = content["rounds"]
        known = content["digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path} cannot be read: {error!r}; remove it to prune from the start") from error
    if known != digest:
        raise RunFolderError(f"{path} belongs to a pruning with other settings; remove it, or use --overwrite")
    return rounds
