"""The interface of pruning methods: a frozen dataclass of hyper-parameters with one method, `prune`."""

from __future__ import annotations

import dataclasses as dc
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from torch import nn

from edakari.core.arguments import require
from edakari.core.budget import Budget
from edakari.core.graph import Graph
from edakari.core.plan import Plan
from edakari.core.protocols import Allocator, Cost, Criterion, Fit, Objective, Task
from edakari.core.registry import Registry
from edakari.core.space import Group, Scores
from edakari.errors import SettingsError, WrongArgument

__all__ = [
    "METHODS",
    "Allocate",
    "Job",
    "Log",
    "MeetBudget",
    "Method",
    "Outcome",
    "Scoring",
    "Solve",
    "allocate_once",
    "method_named",
    "name_of",
    "needs_data",
    "needs_training",
    "paper_of",
    "parts_of",
    "problems_of",
    "register",
    "registered",
    "require_possible",
    "scored_here",
]

Solve = Callable[[Sequence[Cost]], Plan]
"""A function from measured costs of the job's network to a plan; it is cheap enough to be called several times."""

Log = Callable[[str, Mapping[str, float]], None]
"""A callback that takes the name of a stage and its figures by name, such as `log("step 1", {"macs": 2.1e9})`."""


class MeetBudget(Protocol):
    """Repeats an allocation until the measured cost of its network meets the budget."""

    def __call__(self, solve: Solve, costs: Sequence[Cost], before: Plan | None = None) -> Plan:
        """Return a plan whose network meets the budget by measurement.

        Args:
            solve: function from costs to a plan; it is called first with `costs`, then with corrected ones.
            costs: measured costs of the job's network.
            before: plan that leads from the job's network to the network of `solve`; None if they are the same.

        Raises:
            InfeasibleBudget: no plan is within the budget at the corrected costs.
            MeasurementError: the network could not be measured, or its cost stays above the budget.
        """


def allocate_once(solve: Solve, costs: Sequence[Cost], before: Plan | None = None) -> Plan:
    """Allocate once, without measuring the network; the default `loop` of a job.

    Args:
        solve: function from costs to a plan.
        costs: costs of the job's network.
        before: not used.
    """
    return solve(costs)


class Allocate(Protocol):
    """Turns scores and a budget into a plan, as `edakari.allocate` does."""

    def __call__(
        self,
        graph: Graph,
        scores: Scores,
        budget: Budget,
        allocator: Allocator | None,
        groups: Sequence[Group],
        costs: Sequence[Cost],
        /,
    ) -> Plan:
        """Return the plan.

        Args:
            graph: graph of the network to prune.
            scores: score of each channel, float [size], by group.
            budget: limits on the costs of the pruned network.
            allocator: allocator that chooses the size of each group; None is the default one.
            groups: groups that may be cut.
            costs: measured costs that the budget names.
        """


class Scoring(Protocol):
    """Gives the scores of a criterion for a job's unpruned network."""

    def __call__(self, criterion: Criterion, make: Callable[[], Scores], /) -> Scores:
        """Return the scores.

        Args:
            criterion: the criterion.
            make: function that computes them.
        """


def scored_here(criterion: Criterion, make: Callable[[], Scores], /) -> Scores:
    """Compute the scores."""
    return make()


def _cannot_allocate(*arguments: Any) -> Plan:
    """Raise the error of a job that was made without `allocating`."""
    raise WrongArgument("this job has no function that allocates; make it with allocating=edakari.allocate")


@dc.dataclass(frozen=True)
class Job:
    """The inputs of a method.

    Args:
        model: private copy of the trained network; the method may change it.
        graph: graph of the network.
        groups: groups that may be cut, with their legal sizes.
        task: data, loss and metrics.
        budget: limits on the costs of the pruned network, in absolute units, without percentages.
        fit: function that trains a network.
        costs: measured costs of the network that the budget may name, such as its latency. Counted costs are not among
            them. `bind(job.budget, job.graph, job.costs)` and `allocate(..., costs=job.costs)` then know all terms.
        loop: function that repeats an allocation while the measured network misses the budget; see `meet_budget`.
        allocating: function that turns scores and a budget into a plan, as `edakari.allocate` does; see `allocate`.
        seed: seed of all randomness of the method.
        log: callback that takes the name of a stage and its figures, such as `log("step 1", {"macs": 2.1e9})`.
        folder: folder for a cache of expensive intermediate results; None disables the cache.
        artifacts: folder for files that explain the method's result; None disables them.
        scoring: function that gives the scores of a criterion for the unpruned network: those that another run has
            computed, or else those of the function that is passed with it.
    """

    model: nn.Module
    graph: Graph
    groups: Sequence[Group]
    task: Task
    budget: Budget
    fit: Fit
    costs: Sequence[Cost] = ()
    loop: MeetBudget = allocate_once
    allocating: Allocate = _cannot_allocate
    seed: int = 0
    log: Log = lambda stage, figures: None
    folder: Path | None = None
    artifacts: Path | None = None
    scoring: Scoring = scored_here

    def allocate(self, scores: Scores, allocator: Allocator | None = None) -> Plan:
        """Return the plan that keeps the channels of highest score, as many as the job's budget allows.

        If the budget names a measured cost, the network of the plan meets it by measurement.

        Args:
            scores: score of each channel, float [size], by group.
            allocator: allocator that chooses the size of each group; None is the default one.

        Raises:
            InfeasibleBudget: no legal sizes are within the budget.
            MeasurementError: the network could not be measured, or stays above the budget.
        """

        def solve(costs: Sequence[Cost]) -> Plan:
            return self.allocating(self.graph, scores, self.budget, allocator, self.groups, costs)

        return self.meet_budget(solve)

    def meet_budget(self, solve: Solve, before: Plan | None = None) -> Plan:
        """Return the final plan of a method that does not allocate by scores.

        Calls `solve` again with corrected costs while the measured network misses the budget.

        Args:
            solve: function from measured costs of the job's network to a plan.
            before: plan that leads from the job's network to the network of `solve`; None if they are the same.

        Raises:
            InfeasibleBudget: no plan is within the budget at the corrected costs.
            MeasurementError: the network could not be measured, or stays above the budget.
        """
        return self.loop(solve, self.costs, before)


@dc.dataclass(frozen=True)
class Outcome:
    """The result of a method.

    Args:
        plan: plan for the job's original network; `apply(original, plan)` has the keys and shapes of `model`.
        model: the pruned network, with the weights from which the fine-tuning starts.
        finetune: objective of the fine-tuning; None is the task's own.
        teachers: function that returns up to n intermediate networks, best first, to distil from; None if there are
            none.
        advice: what the user should do with the network next, shown with the result unless it was fine-tuned.
    """

    plan: Plan
    model: nn.Module
    finetune: Objective | None = None
    teachers: Callable[[int], Sequence[nn.Module]] | None = None
    advice: str = ""


@runtime_checkable
class Method(Protocol):
    """A pruning method; its fields are hyper-parameters with the defaults of the paper.

    Two more functions, which a method may have, find before anything runs what cannot work:

    - `problems(budget)` returns what of its settings is not possible under a budget: a text by the name of the setting.
    - `check_job(job)` raises an error for a network or a budget with which `prune(job)` could not finish. The job has
      no function that trains, and of its budget only the costs that are counted.
    """

    paper: ClassVar[str]
    emits: ClassVar[frozenset[type[Any]]]

    def prune(self, job: Job) -> Outcome:
        """Prune a trained network to a budget.

        Args:
            job: network, budget, data and callbacks.

        Raises:
            InfeasibleBudget: the method cannot reach the budget.
        """


def paper_of(method: Method) -> str:
    """Return the paper of a method's criterion, if it has one, else the paper of the method."""
    own: str | None = getattr(getattr(method, "criterion", None), "paper", None)
    return own or method.paper


M = TypeVar("M", bound=type[Method])
METHODS: Registry[type[Method]] = Registry("method", "edakari.methods", members=("prune", "paper", "emits"))
"""Methods by their name in recipes; importing `edakari.methods` registers those of edakari."""


def register(name: str) -> Callable[[M], M]:
    """Return a class decorator that registers a method under a name.

    Args:
        name: name of the method in recipes.

    Raises:
        EdakariError: the name is taken.
    """
    require("register(name)", name=(name, str))
    return METHODS.register(name)


def registered() -> Mapping[str, type[Method]]:
    """Return every known method by name."""
    return dict(METHODS)


def method_named(name: str) -> Callable[..., Method]:
    """Return the function that makes the method of a name from its settings.

    Args:
        name: registered name, `file.py:NAME`, or the name of a criterion, which stands for `score` with this criterion.

    Raises:
        UnknownName: no method has this name; the error gives the nearest name.
    """
    require("method_named(name)", name=(name, str))
    full = METHODS.expanded({"name": name})["name"]
    cls = METHODS.named(full)
    return cls if full == name else functools.partial(_from_short, name, cls)


def _from_short(short: str, cls: type[Method], **settings: Any) -> Method:
    content = METHODS.expanded({"name": short, **settings})
    return cls(**{key: value for key, value in content.items() if key != "name"})


def needs_data(method: Method) -> bool:
    """Whether a method needs data: whether it or its criterion has a true attribute `needs_data`."""
    return any(getattr(each, "needs_data", False) for each in (method, getattr(method, "criterion", None)))


def needs_training(method: Method) -> bool:
    """Whether a method trains with the task's loss: whether a part of it has a true attribute `needs_training`."""
    return any(getattr(part, "needs_training", False) for _, part in parts_of(method))


def parts_of(part: Any, key: str = "method") -> Iterator[tuple[str, Any]]:
    """Yield a method and the settings in it, each with its key in a recipe.

    Before anything runs, a part with a method `check_task(model, task, batch)` is given the unpruned network, the task
    and the first batch of "calibration"; it raises a `DataError` if the task does not serve it.

    Args:
        part: method, or settings in it.
        key: its key.
    """
    if dc.is_dataclass(part) and not isinstance(part, type):
        yield key, part
        for field in dc.fields(part):
            yield from parts_of(getattr(part, field.name), f"{key}.{field.name}")


def problems_of(method: Method, budget: Budget) -> Mapping[str, str]:
    """Return what of a method's settings is not possible under a budget: a text by the name of the setting.

    Args:
        method: the method.
        budget: the budget.
    """
    find = getattr(method, "problems", None)
    found: Mapping[str, str] = find(budget) if callable(find) else {}
    return found


def require_possible(method: Method, budget: Budget) -> None:
    """Raise an error if some of a method's settings are not possible under a budget.

    Args:
        method: the method.
        budget: the budget.

    Raises:
        SettingsError: says which, and what to do.
    """
    for key, text in problems_of(method, budget).items():
        raise SettingsError(f"{name_of(method)}: {key}: {text}")


def name_of(method: Method) -> str:
    """Return the name under which a method is registered; the name of its class if it is not registered."""
    return METHODS.name_of(method) or type(method).__name__
