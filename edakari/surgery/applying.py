"""`apply`: makes a new, smaller network from a network and a plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from edakari.core.collection import collecting_new_objects
from edakari.core.graph import Graph
from edakari.core.layout import Mask, extent
from edakari.core.modules import buffers_of, parameters_of
from edakari.core.networks import described, unwrapped
from edakari.core.plan import DropBranch, KeepChannels, KeepTokens, MaskWeights, Plan
from edakari.core.weight_masks import require_parameter
from edakari.errors import ModelError, PlanError, nearest
from edakari.graph import call, cut, example_for, fault_of, outputs_of, shadow_of, trace
from edakari.surgery.origin import noted
from edakari.surgery.tokens import attach

__all__ = ["apply", "branches_dropped", "check_mask", "checked", "cut_by", "masks_of"]


def apply(model: nn.Module, plan: Plan, graph: Graph | None = None) -> nn.Module:
    """Apply a plan to a network: return a new, smaller network.

    The cut is exact for the path through the network's code that was traced. Arguments with which the code takes
    another path, such as a flag of `forward`, may give other outputs than the masked network: `simulate` raises an
    error for them.

    Args:
        model: the dense network; it does not change. Wrappers of compilation or data parallelism are ignored.
        plan: a plan that was made for this network.
        graph: graph of the network in its current state, to avoid a new trace; None traces the network.

    Returns:
        A new module with the remaining weights, on the same device and in the same training mode. It shares no storage
        with `model`. It has run once on meta tensors, so its shapes are consistent.

    Raises:
        PlanError: the plan or the graph was made for another network, or the cut network fails; the message says where.
        ModelError: the network cannot be traced or copied.
    """
    network, graph = checked(plan, model, graph, "apply(model, plan)")
    with collecting_new_objects():
        return cut_by(plan, network, graph)


def cut_by(plan: Plan, network: nn.Module, graph: Graph) -> nn.Module:
    """Apply a plan to the network and graph that `checked` returned."""
    small = cut(network, graph, masks_of(plan, graph), branches_dropped(plan), plan.masks())
    fault = fault_of(shadow_of(small, graph.device), graph, plan.sizes())
    if fault is not None:
        raise PlanError(
            f"the cut network fails in module {fault.module or 'the network itself'!r}: {fault.found}. Its code uses "
            "a width that edakari does not know: declare it with @edakari.graph.attributes, or exclude its groups."
        )
    return noted(_with_selectors(small, plan) if plan.tokens() else small, plan, network, graph)


def _with_selectors(small: nn.Module, plan: Plan) -> nn.Module:
    """Add the plan's selectors to a cut network, and run it once on meta tensors."""
    attach(small, plan.tokens(), example_for(small, plan.inputs))
    try:
        call(shadow_of(small, "meta"), example_for(small, plan.inputs))
    except ModelError as error:
        raise PlanError(f"the network does not run with fewer tokens: {error.__cause__ or error}") from error
    return small


def checked(plan: Plan, model: nn.Module, graph: Graph | None, call: str) -> tuple[nn.Module, Graph]:
    """Check a plan, a network and a graph before the plan is applied.

    Args:
        plan: the plan that the user passed.
        model: the network that the user passed.
        graph: the graph that the user passed; None traces the network.
        call: the function and its arguments, for messages.

    Returns:
        The network without wrappers, and its graph.

    Raises:
        PlanError: the plan was made for another network or for other inputs, or edits missing groups or branches; or
            the graph belongs to another network.
        ModelError: `model` is not a network.
    """
    if isinstance(plan, nn.Module) and isinstance(model, Plan):
        raise PlanError(f"the arguments of {call} are swapped: the network comes first, then the plan")
    if not isinstance(plan, Plan):
        hint = " edakari.surgery.load_plan(folder) reads a plan." if isinstance(plan, str | Path) else ""
        raise PlanError(f"{call} takes a plan (an edakari.Plan), but got {described(plan)}.{hint}")
    network = unwrapped(model, call)
    if graph is None:
        graph = _traced(plan, network)
    else:
        _check_graph(graph, network, call)
    if graph.fingerprint != plan.fingerprint:
        raise PlanError(
            f"the plan was made for another network than this {type(network).__name__}: its fingerprint is "
            f"{plan.fingerprint[:12]}, the network's is {graph.fingerprint[:12]}. Build the network with the options "
            "that it had when the plan was made."
        )
    _check_edits(plan, graph)
    return network, graph


def _traced(plan: Plan, network: nn.Module) -> Graph:
    try:
        return trace(network, example_for(network, plan.inputs, None), outputs=outputs_of(plan.inputs))
    except ModelError as error:
        cause = error.__cause__ or error
        raise PlanError(
            f"the plan was made for inputs like {plan.inputs}, on which this {type(network).__name__} does not run: "
            f"{type(cause).__name__}: {cause} Build the network with the options that it had when the plan was made; "
            "for another size of images make the plan again."
        ) from error


def _check_graph(graph: Graph, network: nn.Module, call: str) -> None:
    """Raise an error for a graph that cannot belong to the network."""
    if not isinstance(graph, Graph):
        raise PlanError(f"{call} takes a graph from edakari.trace, but got {described(graph)}")
    found = {name: tuple(tensor.shape) for name, tensor in (parameters_of(network) | buffers_of(network)).items()}
    # plain attributes may have been added or removed since then
    known = {name: tuple(extent(dim, {}) for dim in dims) for name, dims in graph.layouts.items() if name in found}
    missing = [name for name in graph.parameters if name not in found]
    for name in sorted({*found, *missing}):
        if found.get(name) != known.get(name):
            raise PlanError(
                f"the graph does not belong to this {type(network).__name__}: {name!r} has the shape "
                f"{found.get(name)} in the network and {known.get(name)} in the graph. "
                "Omit the graph, or trace the network again."
            )


def _check_edits(plan: Plan, graph: Graph) -> None:
    for edit in plan.edits:
        if isinstance(edit, DropBranch):
            _check_branch(edit, graph)
            continue
        if isinstance(edit, KeepTokens):
            continue  # attach checks it against the network's blocks
        if isinstance(edit, MaskWeights):
            check_mask(edit, graph)
            continue
        if edit.group not in graph:
            raise PlanError(f"the plan cuts group {edit.group!r}, which the network does not have")
        if len(edit.indices) < graph[edit.group].least:
            raise PlanError(
                f"the plan keeps {len(edit.indices)} channels of group {edit.group!r}; with fewer than "
                f"{graph[edit.group].least}, the network's code fails or takes another branch"
            )
        if edit.indices[-1] >= graph[edit.group].size:
            raise PlanError(
                f"the plan keeps channel {edit.indices[-1]} of group {edit.group!r}, which has {graph[edit.group].size}"
            )


def check_mask(edit: MaskWeights, graph: Graph) -> None:
    """Check that a mask is of a parameter of a graph.

    Raises:
        PlanError: there is no such parameter, or it has another shape.
    """
    require_parameter(edit.parameter, graph.parameters)
    shape = tuple(int(extent(dim, {})) for dim in graph.layouts[edit.parameter])
    if edit.shape != shape:
        raise PlanError(
            f"the mask of {edit.parameter!r} has the shape {[*edit.shape]}, and the parameter {[*shape]}; a mask "
            "covers all weights of the dense network's parameter"
        )


def _check_branch(edit: DropBranch, graph: Graph) -> None:
    known = [branch.name for branch in graph.droppable]
    if edit.branch not in known:
        close = nearest(edit.branch, known)
        hint = f"; did you mean {close!r}?" if close else f"; it has {len(known)} that can be dropped"
        raise PlanError(f"the plan drops branch {edit.branch!r}, which the network does not have{hint}")


def branches_dropped(plan: Plan) -> tuple[str, ...]:
    """Return the branches and paths that a plan drops."""
    return tuple(edit.branch for edit in plan.edits if isinstance(edit, DropBranch))


def masks_of(plan: Plan, graph: Graph) -> dict[str, Mask]:
    """Return, for each cut group, the mask of the channels that a plan keeps."""
    masks: dict[str, Mask] = {}
    for edit in plan.edits:
        if isinstance(edit, KeepChannels):
            mask = np.zeros(graph[edit.group].size, dtype=np.bool_)
            mask[list(edit.indices)] = True
            masks[edit.group] = mask
    return masks
