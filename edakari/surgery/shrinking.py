"""`shrink`: a network becomes smaller in the middle of its training, and stays the same object."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from edakari.core.arguments import require, require_methods
from edakari.core.copying import copied_as_is
from edakari.core.following import Follower
from edakari.core.graph import Graph
from edakari.core.networks import unwrapped
from edakari.core.plan import Plan
from edakari.core.wrappers import inner
from edakari.errors import ModelError, PlanError
from edakari.graph import fault_of, shadow_of, stored_tensors
from edakari.surgery.applying import checked, cut_by
from edakari.surgery.averages import Cut
from edakari.surgery.carrying import following
from edakari.surgery.counterparts import Counterpart, counterparts
from edakari.surgery.grafting import graft

__all__ = ["shrink"]

CALL = "shrink(model, plan)"


def shrink(
    model: nn.Module,
    plan: Plan,
    optimizer: Optimizer | None = None,
    *averages: Any,
    graph: Graph | None = None,
    followers: Sequence[Follower] = (),
) -> tuple[Counterpart, ...]:
    """Turn a network in place into `apply(model, plan)`, in the middle of its training.

    Call it between two steps. The network, its modules and their hooks stay the same objects, and so do parameters of
    which nothing is removed; others are new objects, so ask for `model.parameters()` again wherever you hold them.
    Modes, `requires_grad` and devices stay. Gradients are cleared. The optimizer and the averages follow as with
    `edakari.carry`. After an error nothing has changed.

    Args:
        model: the network, changed in place. Wrappers of `torch.compile` may stay around it; `DistributedDataParallel`
            has to be put around its module again.
        plan: a plan that was made for this network; it may not prune tokens.
        optimizer: the optimizer that trains the network, or a wrapper that holds it; None if there is none.
        averages: objects that average the weights, such as `torch.optim.swa_utils.AveragedModel`.
        graph: graph of the network in its current state, to avoid a new trace; None traces it.
        followers: other objects that hold tensors of the parameters' shapes, such as masks; `follow` of each is called
            last, with all parameters and buffers before and after the cut.

    Returns:
        All parameters and buffers before and after the cut.

    Raises:
        PlanError: the plan or the graph was made for another network, or the plan prunes tokens; or the network holds
            numbers or tensors where they cannot be replaced in place.
        StateError: the optimizer does not train the network, or a state or an average cannot be cut.
        ModelError: the network cannot be traced or copied, or is in `DistributedDataParallel`.
        WrongArgument: an argument has a wrong type.
    """
    if optimizer is not None:
        require(CALL, optimizer=(optimizer, Optimizer))
    for follower in followers:
        require_methods(CALL, "followers", follower, ("follow",))
    root = _root(model)
    network, graph = checked(plan, root, graph, CALL)
    if plan.tokens():
        raise PlanError(
            f"{CALL}: the plan prunes tokens, which adds modules to the network. Use edakari.apply and edakari.carry."
        )
    small, known = cut_by(plan, network, graph), graph
    pairs = counterparts(network, small, plan, graph)
    stays = _staying(network, small, pairs, graph)
    values = [(pair.before, pair.after) for pair in pairs if pair.after is not None and id(pair.after) in stays]
    pairs = tuple(dc.replace(p, after=p.before) if id(p.after) in stays else p for p in pairs)
    make = following(optimizer, averages, Cut(network, None, pairs, lambda average: cut_by(plan, average, known)))
    _rehearse(network, small, stays, plan, graph)
    graft(root, small, stays)
    _set_values(values)
    make()
    for parameter in root.parameters():
        parameter.grad = None
    for follower in followers:
        follower.follow(pairs)
    return pairs


def _root(model: nn.Module) -> nn.Module:
    """The network inside of its wrappers.

    Raises:
        ModelError: the network or a part of it is in `DistributedDataParallel`, or is none.
    """
    unwrapped(model, CALL)
    wrapper = next((part for part in model.modules() if isinstance(part, DistributedDataParallel)), None)
    if wrapper is not None:
        raise ModelError(
            f"{CALL}: {type(wrapper.module).__name__} is in DistributedDataParallel, which keeps the sizes of its "
            "gradients. On every process, pass its `module`, then put a new DistributedDataParallel around it."
        )
    root = model
    while (found := inner(root)) is not None:
        root = found
    return root


def _staying(
    network: nn.Module, small: nn.Module, pairs: Sequence[Counterpart], graph: Graph
) -> dict[int, torch.Tensor]:
    """For tensors of the cut network, by id, those before the cut of which nothing was removed."""
    stays = {id(p.after): p.before for p in pairs if not p.changed and not p.before.is_inference()}
    cut, known = {id(pair.after) for pair in pairs}, stored_tensors(small)
    for name, tensor in stored_tensors(network).items():
        found = known.get(name)
        if found is not None and id(found) not in cut and found.shape == tensor.shape:
            stays[id(found)] = tensor
    return stays


def _rehearse(network: nn.Module, small: nn.Module, stays: dict[int, torch.Tensor], plan: Plan, graph: Graph) -> None:
    """Cut a copy in place, which shares all tensors, and run it on meta tensors.

    Raises:
        PlanError: the network holds numbers or tensors where they are not replaced.
    """
    trial = copied_as_is(network)
    graft(trial, copied_as_is(small), stays)
    fault = fault_of(shadow_of(trial, graph.device), graph, plan.sizes())
    if fault is not None:
        raise PlanError(
            f"{CALL}: cut in place, the network fails in module {fault.module or 'the network itself'!r}: "
            f"{fault.found}. Its code keeps a number or a tensor outside of the attributes of its modules. Use "
            "edakari.apply and edakari.carry, which make a new network."
        )


def _set_values(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Set tensors that stay to their values after the cut, which masks and constants may have changed."""
    with torch.inference_mode(False), torch.no_grad():  # the first one turns gradients on
        for tensor, value in pairs:
            if not torch.equal(tensor, value):
                tensor.copy_(value)
