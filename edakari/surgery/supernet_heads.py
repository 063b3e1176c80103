"""Another kind of head for a pruned supernet: its stem and stages stay, with structure, weights and masks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from edakari.core.graph import Graph
from edakari.core.plan import DropBranch, Edit, KeepChannels, KeepTokens, MaskWeights, Plan, joined
from edakari.errors import ModelError
from edakari.graph import trace
from edakari.models import ModelSpec, build, spec_of
from edakari.models.supernet import Supernet
from edakari.surgery.applying import apply
from edakari.surgery.new_layers import new_layer
from edakari.surgery.origin import steps_of

__all__ = ["with_supernet_head"]

BACKBONE = ("stem.", "stages.")
HEAD = ("head.",)
CLASSIFIER = "head.classifier"


def with_supernet_head(
    ticket: nn.Module, head: str, outputs: int, graft: nn.Module | None, example: Any, seed: int
) -> nn.Module:
    """Return the stem and stages of a pruned supernet with a head for another task.

    The result is the dense supernet with that head, pruned by the part of the ticket's plan that is about stem and
    stages. So it is saved, loaded and pruned again as any pruned network.

    Args:
        ticket: pruned or unpruned supernet, made by `edakari.build`, `apply` or `load`.
        head: task of the new head, see `edakari.models.supernet.supernet`.
        outputs: number of classes or joints.
        graft: pruned supernet with a head of that kind, whose head is taken, except for its classifier; None draws new
            weights for the complete head.
        example: input of the network.
        seed: seed of the new weights.

    Raises:
        ModelError: a network is no supernet, or has the wrong kind of head; or the plan does not fit the new network.
    """
    spec = _supernet_spec(ticket, "the ticket")
    kind = spec.options.get("head", "classification")
    if kind == head:
        raise ModelError(f"the ticket has a head for {head} already; omit head, so that its classifier is replaced")
    options = {key: value for key, value in spec.options.items() if key != "head_width"}
    if graft is not None:
        given = _supernet_spec(graft, "graft")
        if given.options.get("head", "classification") != head:
            raise ModelError(f"graft has a head for {given.options.get('head', 'classification')}, not for {head}")
        options |= {key: value for key, value in given.options.items() if key == "head_width"}
    options |= {"head": head, "num_classes": outputs, "backbone": spec.options.get("backbone", kind)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        base = build(ModelSpec(spec.name, options))
        like = next(ticket.parameters())
        base.to(device=like.device, dtype=like.dtype)
        small = _pruned(base, ticket, graft, example)
        _copy(small, ticket, BACKBONE, "the ticket")
        if graft is not None:
            _copy(small, graft, HEAD, "graft", but=f"{CLASSIFIER}.")
        old = small.get_submodule(CLASSIFIER)
        small.get_submodule("head")._modules["classifier"] = new_layer(old, outputs, CLASSIFIER)
    return small.train(ticket.training)


def _supernet_spec(model: nn.Module, what: str) -> ModelSpec:
    spec = spec_of(model)
    if not isinstance(model, Supernet) or spec is None:
        raise ModelError(
            f"head='segmentation' and the like are heads of edakari:supernet, but {what} is a {type(model).__name__}"
            f"{'' if spec is None else f' ({spec.name})'}; pass head=edakari.FeatureHead(...) with a head of your own"
        )
    return spec


def _pruned(base: nn.Module, ticket: nn.Module, graft: nn.Module | None, example: Any) -> nn.Module:
    graph = trace(base, example)
    edits = list(_edits(ticket, BACKBONE, graph, "the ticket"))
    if graft is not None:
        shared = {edit for edit in _edits(graft, BACKBONE, graph, "graft") if _touches_head(edit, graph)}
        if shared != {edit for edit in edits if _touches_head(edit, graph)}:
            raise ModelError("graft was pruned with other widths of its stages than the ticket; its head does not fit")
        edits += _edits(graft, HEAD, graph, "graft")
    whole = [plan for plan in (_whole(ticket), None if graft is None else _whole(graft)) if plan is not None]
    bits = {digest: found for plan in whole for digest, found in plan.bits.items()}
    used = {edit.digest: bits[edit.digest] for edit in edits if isinstance(edit, MaskWeights)}
    plan = Plan(tuple(edits), graph.fingerprint, graph.inputs, whole[0].method if whole else "", bits=used)
    return apply(base, plan, graph)


def _whole(model: nn.Module) -> Plan | None:
    """All plans that led to a network as one plan for the dense network; None if it was not pruned."""
    steps = steps_of(model)
    if not steps:
        return None
    whole = steps[0].plan
    for step in steps[1:]:
        whole = joined(whole, step.plan, steps[0].layouts)
    return whole


def _edits(model: nn.Module, prefixes: tuple[str, ...], graph: Graph, what: str) -> Iterator[Edit]:
    """Yield the edits of one part of a pruned network, checked against the graph of the new dense network."""
    whole = _whole(model)
    for edit in () if whole is None else whole.edits:
        name = _name(edit)
        if not name.startswith(prefixes) or name.startswith(f"{CLASSIFIER}."):
            continue
        if isinstance(edit, KeepChannels) and name not in graph:
            raise ModelError(
                f"{what} was pruned in {name!r}, which cannot be pruned alike under the new head: its width is tied to "
                "that head. Pass head=edakari.FeatureHead(('stages',), ...) with a head of your own"
            )
        yield edit


def _name(edit: Edit) -> str:
    match edit:
        case KeepChannels(group) | DropBranch(group):
            return group
        case KeepTokens(block):
            return block
        case MaskWeights(parameter):
            return parameter


def _touches_head(edit: Edit, graph: Graph) -> bool:
    return isinstance(edit, KeepChannels) and any(
        member.tensor.startswith(HEAD) for member in graph.members(edit.group)
    )


def _copy(small: nn.Module, source: nn.Module, prefixes: tuple[str, ...], what: str, but: str = "\0") -> None:
    """Copy a part of a network's state into another network, in place."""

    def part(model: nn.Module) -> dict[str, torch.Tensor]:
        return {
            name: value
            for name, value in model.state_dict().items()
            if name.startswith(prefixes) and not name.startswith(but)
        }

    target, given = part(small), part(source)
    wrong = next((name for name in {**target, **given} if _shape(target, name) != _shape(given, name)), None)
    if wrong is not None:
        raise ModelError(
            f"{what} is not the result of its plans: {wrong} is {_shape(given, wrong)} there, and by its plans "
            f"{_shape(target, wrong)}"
        )
    with torch.no_grad():
        for name, value in given.items():
            target[name].copy_(value)


def _shape(tensors: dict[str, torch.Tensor], name: str) -> list[int] | None:
    return list(tensors[name].shape) if name in tensors else None
