"""`mask_weights`: a plan that sets single weights to zero."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch

from edakari.core.arguments import require
from edakari.core.graph import Graph
from edakari.core.plan import MaskWeights, Plan
from edakari.core.weight_masks import WeightMasks, require_parameter
from edakari.errors import EdakariWarning
from edakari.surgery.applying import check_mask

__all__ = ["mask_weights"]


def mask_weights(graph: Graph, masks: Mapping[str, torch.Tensor], *, method: str = "") -> Plan:
    """Make a plan that sets single weights of a network to zero.

        plan = edakari.mask_weights(graph, {"conv1.weight": model.conv1.weight.abs() > 0.01})
        sparse = edakari.apply(model, plan)

    The plan joins with cuts of channels by `Plan.then`, and `plan.masks()` returns the masks. Zeros make the network
    smaller only where something stores or multiplies them as zeros; `edakari.cost.sparse` counts what is left.

    Args:
        graph: graph of the network.
        masks: for each parameter, a bool tensor of its shape; True keeps the weight. A parameter with several names has
            the first one.
        method: name of the method that chose the weights.

    Raises:
        PlanError: the network has no such parameter, or a mask is not a bool tensor of its shape.
        WrongArgument: the graph is none.
    """
    require("mask_weights(graph, masks)", graph=(graph, Graph))
    packed = (masks if isinstance(masks, WeightMasks) else WeightMasks(masks)).pack()
    edits = []
    for name, mask in packed.items():
        require_parameter(name, graph.parameters)
        edit = MaskWeights(name, mask.digest, mask.shape, mask.count)
        check_mask(edit, graph)
        if not mask.count:
            warnings.warn(
                f"the mask of {name!r} keeps none of its weights; what its layer computes is then its bias at most. If "
                "that is not meant, leave it out: the setting `excluded` of methods that mask weights",
                EdakariWarning,
                stacklevel=2,
            )
        edits.append(edit)
    bits = {mask.digest: mask.bits for mask in packed.values()}
    return Plan(tuple(edits), graph.fingerprint, graph.inputs, method, bits=bits)
