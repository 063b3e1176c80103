"""`carry`: a training continues with the pruned network, where optimizer and averages of weights stand."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer

from edakari.core.arguments import require
from edakari.core.graph import Graph
from edakari.core.networks import unwrapped
from edakari.core.plan import Plan
from edakari.errors import EdakariWarning, StateError
from edakari.surgery.applying import checked, cut_by
from edakari.surgery.averages import Cut, content_of
from edakari.surgery.counterparts import Counterpart, added, counterparts
from edakari.surgery.optimizer_state import changes_of, parts_of

__all__ = ["carry", "following"]

CALL = "carry(optimizer, old, new, plan)"
T = TypeVar("T", bound=Optimizer)


def carry(optimizer: T, old: nn.Module, new: nn.Module, plan: Plan, *averages: Any, graph: Graph | None = None) -> T:
    """Continue a training after a cut: let an optimizer, and averages of the weights, follow the pruned network.

    Call it between two steps, right after `new = apply(old, plan)`. It changes the optimizer in place, so that learning
    rate schedulers, `torch.amp.GradScaler` and hooks that refer to it remain valid. Groups keep their options and their
    order, even if all parameters of a group are gone. States of a parameter's shape (momentum, moments, squares) are
    cut like the parameter; scalars, such as a step count, stay. Training then continues exactly as it would with the
    removed channels masked in weights, gradients and states, unless a step depends on how large a tensor is (Muon).
    Masks of single weights leave states as they are, and set averages of the masked weights to zero.

    A state of another shape, such as a factored moment of Adafactor, is kept if its parameter is not cut. If it is,
    there is an error and nothing changes: such a state joins removed entries with others. Gradients are not carried.
    Parameters of other networks, such as those of a loss, stay in the optimizer as they are.

    Args:
        optimizer: the optimizer that trains `old`, or a wrapper that holds it, such as Lookahead or accelerate's.
        old: the network before the cut; wrappers of compilation or data parallelism are ignored here and in `new`.
        new: the network after the cut.
        plan: the plan of the cut.
        averages: objects that average the weights of `old`, such as `torch.optim.swa_utils.AveragedModel` and timm's
            `ModelEmaV3`; each is changed in place and then holds an average of the weights of `new`.
        graph: graph of `old` in its current state, to avoid a new trace; None traces it.

    Returns:
        The same optimizer.

    Raises:
        PlanError: the plan was made for another network than `old`, or `new` is not the plan's result.
        StateError: the optimizer does not train `old`, or a state or an average cannot be cut; says which, and what to
            do.
        ModelError: a network cannot be traced, or its weights are distributed over processes.
        WrongArgument: an argument has a wrong type.
    """
    require(CALL, optimizer=(optimizer, Optimizer))
    network, graph = checked(plan, old, graph, CALL)
    small = unwrapped(new, CALL)
    pairs = counterparts(network, small, plan, graph)
    known = graph
    following(optimizer, averages, Cut(network, new, pairs, lambda average: cut_by(plan, average, known)))()
    fresh = list(added(small, pairs))
    if fresh:
        warnings.warn(
            f"the pruned network has {len(fresh)} parameters that the network before the cut did not have, such as "
            f"{fresh[0]!r}; the optimizer does not train them until you add them by optimizer.add_param_group",
            EdakariWarning,
            stacklevel=2,
        )
    return optimizer


def following(optimizer: Optimizer | None, averages: Sequence[Any], cut: Cut) -> Callable[[], None]:
    """Find how an optimizer and averages follow a cut; nothing changes before the returned function is called.

    Args:
        optimizer: the optimizer; None if there is none.
        averages: objects that average the weights.
        cut: the cut.

    Raises:
        StateError: the optimizer does not train the network, or a state or an average cannot be cut.
    """
    parameters = {id(pair.before): pair for pair in cut.pairs if isinstance(pair.before, nn.Parameter)}
    if optimizer is not None:
        _check_held(optimizer, cut.old, parameters)
    changes = None if optimizer is None else changes_of(optimizer, parameters)
    contents = [(average, content_of(average, cut)) for average in averages]

    def make() -> None:
        if changes is not None:
            changes.make()
        for average, content in contents:
            for name, value in content.items():
                setattr(average, name, value)

    return make


def _check_held(optimizer: Optimizer, network: nn.Module, pairs: Mapping[int, Counterpart]) -> None:
    """Raise an error if the optimizer does not train the network before the cut."""
    held = {id(each) for part in parts_of(optimizer) for group in part.param_groups for each in group["params"]}
    made = (pair for pair in pairs.values() if pair.after is not pair.before)
    early = next((pair.name for pair in made if id(pair.after) in held), None)
    if early is not None:
        raise StateError(
            f"the optimizer trains {early!r} of the pruned network already. Call carry once after each cut, with the "
            "optimizer of the network before the cut."
        )
    if not held & pairs.keys():
        raise StateError(
            f"the {type(optimizer).__name__} trains no parameter of this {type(network).__name__}. Pass the network "
            "whose parameters the optimizer was made with, not a copy of it."
        )
