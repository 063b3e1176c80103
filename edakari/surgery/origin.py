"""History of a pruned network: the plans that were applied, recorded on the network itself."""

from __future__ import annotations

import dataclasses as dc
import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from torch import nn

from edakari.core.graph import Graph
from edakari.core.history import MEMORY
from edakari.core.layout import Layout, kept
from edakari.core.packed_masks import PackedMask
from edakari.core.plan import DropBranch, Edit, KeepChannels, MaskWeights, Plan, channel_masks, joined
from edakari.core.weight_masks import WeightMasks
from edakari.errors import PlanError
from edakari.surgery.masked_values import packed_after
from edakari.surgery.structure import Structure, replaced, structure_of

__all__ = ["Step", "held_masks", "masks_on", "noted", "step_by", "steps_of"]


@dc.dataclass(frozen=True)
class Step:
    """One application of a plan.

    Args:
        plan: the plan that was applied.
        before: structure of the network before.
        after: structure of the network afterwards.
        layouts: layouts of the network before, so that plans with masks of weights can be joined.
        masks: masks of the weights of the network afterwards, by this plan and all before.
    """

    plan: Plan
    before: Structure
    after: Structure
    layouts: Mapping[str, tuple[Layout, ...]] = dc.field(default_factory=dict)
    masks: Mapping[str, PackedMask] = dc.field(default_factory=dict)

    def __deepcopy__(self, memo: object) -> Step:
        return self


def steps_of(model: nn.Module) -> tuple[Step, ...]:
    """Return the steps that led to a network, in order; copies of a network keep this record."""
    found = vars(model).get(MEMORY, ())
    return found if isinstance(found, tuple) else ()


def noted(small: nn.Module, plan: Plan, model: nn.Module, graph: Graph) -> nn.Module:
    """Record on a pruned network that a plan was applied to `model`, whose graph is given."""
    masks = packed_after(small, plan, model, graph.layouts, held_masks(model).pack())
    step = Step(plan, structure_of(model), structure_of(small), graph.layouts, masks)
    setattr(small, MEMORY, (*steps_of(model), step))
    return small


def held_masks(model: nn.Module) -> WeightMasks:
    """Return the masks of a network's weights, by all plans that led to it; empty if none masked weights.

    Plans with masks that `apply` or `load` carried out are recorded on the network. Weights of parameters that were
    replaced since then are not masked.

    Args:
        model: a network that `apply` or `load` returned, without wrappers, perhaps trained since then.
    """
    steps = steps_of(model)
    return masks_on(model, steps[-1]) if steps else WeightMasks({})


def masks_on(model: nn.Module, last: Step) -> WeightMasks:
    """Return the masks of a network's weights after a step, without those of parameters that were replaced since."""
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return WeightMasks.unpack({name: mask for name, mask in last.masks.items() if shapes.get(name) == mask.shape})


def step_by(plan: Plan, steps: Sequence[Step]) -> tuple[tuple[Step, ...], Step]:
    """Return the steps before this plan, and the last step as one application of this plan.

    Args:
        plan: the plan of the last step, or of the last steps joined by `Plan.then`.
        steps: the steps that led to a network.

    Raises:
        PlanError: the plan is neither.
    """
    for first in range(len(steps) - 1, -1, -1):
        last = steps[first:]
        if plan.fingerprint == last[0].plan.fingerprint and _equal(plan, last, steps[first - 1].masks if first else {}):
            return tuple(steps[:first]), dc.replace(last[-1], plan=plan, before=last[0].before, layouts=last[0].layouts)
    made = ", ".join(f"one of {len(step.plan.edits)} edits" for step in steps)
    raise PlanError(
        f"the network was not pruned by this plan of {len(plan.edits)} edits, but by {made}; pass the last plan "
        "that was given to apply"
    )


def _equal(plan: Plan, steps: Sequence[Step], masks: Mapping[str, PackedMask]) -> bool:
    """Whether a plan for the network before some steps leads to the network after them.

    Args:
        plan: the plan.
        steps: the steps.
        masks: masks of weights before them.
    """
    if any(replaced(before.after, after.before) for before, after in itertools.pairwise(steps)):
        return False
    try:
        return _joined(steps) == set(plan.edits) or _same_effect(plan, steps, masks)
    except PlanError:
        return False


def _joined(steps: Sequence[Step]) -> set[Edit]:
    """Join the edits of several steps."""
    whole, *later = [step.plan for step in steps]
    for plan in later:
        whole = joined(whole, plan, steps[0].layouts)
    return set(whole.edits)


def _same_effect(plan: Plan, steps: Sequence[Step], masks: Mapping[str, PackedMask]) -> bool:
    """Whether a plan keeps of each parameter what the steps kept.

    Its edits may be others: a group whose branch is dropped later need not be cut before, and groups and branches can
    have other names in a network without some of its branches.
    """
    made = [edit for step in steps for edit in step.plan.edits]
    if {*_others(plan.edits)} != {*_others(made)} or _drops(plan.edits) != _drops(made):
        return False
    own = plan.packed_masks()
    for name, shape in steps[-1].after.tensors.items():
        if not all(name in step.layouts for step in steps):
            continue
        whole = _positions(plan, steps[0].layouts[name])
        found = _positions(steps[0].plan, steps[0].layouts[name])
        for step in steps[1:]:
            chosen = _positions(step.plan, step.layouts[name])
            found = [before[each] for before, each in zip(found, chosen, strict=True)]
        if [each.tolist() for each in whole] != [each.tolist() for each in found]:
            return False
        stay = np.ones(shape, dtype=np.bool_)
        for mask in (given[name].array() for given in (own, masks) if name in given):
            stay &= mask[np.ix_(*whole)]
        last = steps[-1].masks.get(name)
        if not np.array_equal(stay, np.ones(shape, dtype=np.bool_) if last is None else last.array()):
            return False
    return True


def _others(edits: Iterable[Edit]) -> list[Edit]:
    return [edit for edit in edits if not isinstance(edit, KeepChannels | DropBranch | MaskWeights)]


def _drops(edits: Iterable[Edit]) -> int:
    return sum(isinstance(edit, DropBranch) for edit in edits)


def _positions(plan: Plan, dims: Sequence[Layout]) -> list[npt.NDArray[np.intp]]:
    """Positions along each dimension of a parameter that a plan keeps."""
    return [np.flatnonzero(kept(dim, channel_masks(plan, dims))) for dim in dims]
