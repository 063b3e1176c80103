"""What a pruning method is: one frozen dataclass of hyper-parameters with one method, `prune`."""

from __future__ import annotations

import dataclasses as dc
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from torch import nn

from edakari.core.arguments import require
from edakari.core.budget import Budget
from edakari.core.graph import Graph
from edakari.core.plan import Plan
from edakari.core.protocols import Allocator, Cost, Fit, Objective, Task
from edakari.core.registry import Registry
from edakari.core.space import Group, Scores
from edakari.errors import WrongArgument

__all__ = [
    "METHODS",
    "Allocate",
    "Job",
    "MeetBudget",
    "Method",
    "Outcome",
    "Solve",
    "allocate_once",
    "method_named",
    "name_of",
    "needs_data",
    "paper_of",
    "register",
    "registered",
]

Solve = Callable[[Sequence[Cost]], Plan]
"""From measured costs of the job's network to a plan; cheap enough to be asked several times."""


class MeetBudget(Protocol):
    """Solves an allocation again until the network that it leads to costs what was asked for, by measurement."""

    def __call__(self, solve: Solve, costs: Sequence[Cost], before: Plan | None = None) -> Plan:
        """The plan to take.

        Args:
            solve: gives the plan for some costs; is asked first with `costs`, then with corrected ones.
            costs: measured costs of the job's network.
            before: plan that leads from the job's network to the one that `solve` plans for; None is no cut yet.

        Raises:
            InfeasibleBudget: what corrected costs leave cannot be reached.
            MeasurementError: the network could not be measured, or its cost stays above the budget.
        """


def allocate_once(solve: Solve, costs: Sequence[Cost], before: Plan | None = None) -> Plan:
    """Take the costs for granted; what a job does that cannot measure."""
    return solve(costs)


class Allocate(Protocol):
    """From scores and a budget to a plan, as `edakari.allocate`."""

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
        """The plan."""


def _cannot_allocate(*arguments: Any) -> Plan:
    """What a job does that was made without a way to allocate."""
    raise WrongArgument("this job was made without a way to allocate; make it with allocating=edakari.allocate")


@dc.dataclass(frozen=True)
class Job:
    """What a method gets.

    Args:
        model: a private copy of the trained network.
        graph: its graph.
        groups: the groups that may be sized, with their legal sizes.
        task: data, loss and metrics.
        budget: what the pruned network may cost, in figures (no shares).
        fit: the way to train.
        costs: measured costs of the network that the budget may name, such as its latency; with them
            `bind(job.budget, job.graph, job.costs)` and `allocate(..., costs=job.costs)` know every term. Counted costs
            are not among them.
        loop: solves an allocation again while the measured network misses the budget; see `meet_budget`.
        allocating: spends a budget on groups by scores, as `edakari.allocate` does; see `allocate`.
        seed: of everything random.
        log: reports named figures of a stage, such as `log("step 1", {"macs": 2.1e9})`.
        folder: where the method may cache what is dear to compute; None is nowhere.
        artifacts: where the method may leave what explains its result; None is nowhere.
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
    log: Callable[[str, Mapping[str, float]], None] = lambda stage, figures: None
    folder: Path | None = None
    artifacts: Path | None = None

    def allocate(self, scores: Scores, allocator: Allocator | None = None) -> Plan:
        """The plan that keeps the best channels of the job's groups, as many as its budget allows.

        Where the budget names a measured cost, the plan's network is measured, and meets it.

        Args:
            scores: score of each channel, float [size], by group.
            allocator: who spends the budget on groups; None is the usual one.

        Raises:
            InfeasibleBudget: no legal sizes are within the budget.
            MeasurementError: the network could not be measured, or stays above the budget.
        """

        def solve(costs: Sequence[Cost]) -> Plan:
            return self.allocating(self.graph, scores, self.budget, allocator, self.groups, costs)

        return self.meet_budget(solve)

    def meet_budget(self, solve: Solve, before: Plan | None = None) -> Plan:
        """The last allocation of a method that does not allocate by scores: `solve(costs)` gives the plan for costs.

        It is solved again with corrected costs while the measured network misses the budget.

        Args:
            solve: gives the plan for measured costs of the job's network.
            before: plan that leads from the job's network to the one that `solve` plans for; None is no cut yet.

        Raises:
            InfeasibleBudget: what corrected costs leave cannot be reached.
            MeasurementError: the network could not be measured, or stays above the budget.
        """
        return self.loop(solve, self.costs, before)


@dc.dataclass(frozen=True)
class Outcome:
    """What a method gives back.

    Args:
        plan: for the network as it was in the job; `apply(fresh, plan)` has the keys and shapes of `model`.
        model: the pruned network, with the weights to go on from.
        finetune: objective of the fine-tuning; None is the task's own.
        teachers: gives so many networks that the method went through, the best one first, to teach the pruned one by
            what they gave; None where it went through none.
    """

    plan: Plan
    model: nn.Module
    finetune: Objective | None = None
    teachers: Callable[[int], Sequence[nn.Module]] | None = None


@runtime_checkable
class Method(Protocol):
    """A pruning method; its fields are hyper-parameters with the paper's defaults."""

    paper: ClassVar[str]
    emits: ClassVar[frozenset[type[Any]]]

    def prune(self, job: Job) -> Outcome:
        """From a trained network and a budget to a smaller network within it.

        Raises:
            InfeasibleBudget: nothing within the budget can be reached.
        """


def paper_of(method: Method) -> str:
    """The paper of a method, or of the criterion that it is given."""
    own: str | None = getattr(getattr(method, "criterion", None), "paper", None)
    return own or method.paper


M = TypeVar("M", bound=type[Method])
METHODS: Registry[type[Method]] = Registry("method", "edakari.methods", members=("prune", "paper", "emits"))
"""Methods by the name that a recipe gives them; those of edakari are there once `edakari.methods` is imported."""


def register(name: str) -> Callable[[M], M]:
    """Class decorator that makes a method known under a name.

    Raises:
        EdakariError: the name is taken.
    """
    require("register(name)", name=(name, str))

    return METHODS.register(name)


def registered() -> Mapping[str, type[Method]]:
    """Every known method by name."""
    return dict(METHODS)


def method_named(name: str) -> Callable[..., Method]:
    """What makes the method of a name from its settings; the name of a criterion is short for `score` with it.

    Raises:
        UnknownName: there is none; says the nearest.
    """
    require("method_named(name)", name=(name, str))
    full = METHODS.expanded({"name": name})["name"]
    cls = METHODS.named(full)
    return cls if full == name else functools.partial(_from_short, name, cls)


def _from_short(short: str, cls: type[Method], **settings: Any) -> Method:
    content = METHODS.expanded({"name": short, **settings})
    return cls(**{key: value for key, value in content.items() if key != "name"})


def needs_data(method: Method) -> bool:
    """Whether a method asks for data; it or its criterion says so by `needs_data`, and does not ask otherwise."""
    return any(getattr(each, "needs_data", False) for each in (method, getattr(method, "criterion", None)))


def name_of(method: Method) -> str:
    """The name that a method is registered by; that of its class where it is not."""
    return METHODS.name_of(method) or type(method).__name__
