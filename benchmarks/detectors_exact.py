"""Whole detectors, segmenters and pose networks: are they pruned exactly, in evaluation and in training mode?

    python benchmarks/detectors_exact.py --output benchmarks/results/detectors_exact.json
    python benchmarks/detectors_exact.py torchvision:fcos_resnet50_fpn --plans 4

Every network has random weights in float64 and is traced with images alone. Random plans keep 30 to 60 % of every
group; every other plan also drops branches. Outputs in `model.eval()` (lists of boxes, scores, labels, masks and
keypoints, or maps) and losses in `model.train()`, for images and targets, are compared with those of the masked dense
network, and an empty plan with the network itself. Torch's seed is the same for all, because detectors draw samples of
boxes in training; dropout is off, because it draws a number for every channel. Errors are relative to the largest value
of each tensor; where boxes differ in number, the error is infinite. Where scores of boxes are equal up to rounding, the
masked network ranks and suppresses them as the pruned one does. Gradients are compared with those of a dense
network whose weights ignore removed channels; they are not where a norm runs over pruned channels, because that network
is another one then. Other networks that the output holds already stay in it. The exit status is 1 if a network is
wrong or fails.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from core import environment
from networks.losses import CASES, Case
from records import write_record
from torch import nn

from edakari.core.layout import kept
from edakari.core.plan import Plan
from edakari.cost import COSTS, dense
from edakari.graph import trace
from edakari.surgery import apply, simulate
from edakari.surgery.applying import masks_of
from edakari.surgery.decisions import decisions_recorded, decisions_repeated
from edakari.surgery.differences import worst_difference
from edakari.surgery.randomness import without_dropout
from edakari.surgery.simulation import buffers_restored
from edakari.testing import enlivened, random_plan

TOLERANCE, SEED = 1e-9, 0
KEEP, DROP = (0.3, 0.6), 0.3


def evaluated(case: Case, model: nn.Module) -> Any:
    """What a network gives for images in evaluation mode."""
    torch.manual_seed(SEED)
    with torch.no_grad():
        return case.infer(model.eval())


def losses(case: Case, model: nn.Module) -> Mapping[str, torch.Tensor]:
    """The losses of a network in training mode."""
    torch.manual_seed(SEED)
    with without_dropout():
        return case.losses(model.train())


def values(found: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in found.items()}


def trained(case: Case, model: nn.Module) -> dict[str, torch.Tensor]:
    """The values of the losses; statistics of norms are restored."""
    with buffers_restored(model), torch.no_grad():
        return values(losses(case, model))


def masked_by_weights(model: nn.Module, graph: Any, plan: Plan) -> nn.Module:
    """A dense network whose weights ignore the removed channels."""
    twin, masks = copy.deepcopy(model), masks_of(plan, graph)
    for path, module in twin.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and f"{path}.weight" in graph.layouts:
            inputs = 0 if isinstance(module, nn.ConvTranspose2d) else 1
            keep = torch.from_numpy(kept(graph.layouts[f"{path}.weight"][inputs], masks))
            module.weight.data.mul_(keep.view([-1 if dim == inputs else 1 for dim in range(module.weight.dim())]))
    return twin


def gradient_error(case: Case, small: nn.Module, model: nn.Module, graph: Any, plan: Plan) -> float | None:
    """Largest difference of a gradient, relative to the largest gradient; None where the oracle does not hold."""
    masked = masked_by_weights(model, graph, plan)
    by_small, by_masked = losses(case, small), losses(case, masked)
    if not worst_difference(values(by_small), values(by_masked)) < TOLERANCE:
        return None
    for found in (by_small, by_masked):
        sum(value.sum() for value in found.values()).backward()  # type: ignore[union-attr]
    gradients, masks, worst, largest = dict(masked.named_parameters()), masks_of(plan, graph), 0.0, 0.0
    for name, parameter in small.named_parameters():
        wanted, found = gradients[name].grad, parameter.grad
        if wanted is None or found is None:
            assert wanted is found, f"{name} has a gradient in one network alone"
            continue
        for dim, layout in enumerate(graph.layouts[name]):
            wanted = wanted.index_select(dim, torch.from_numpy(kept(layout, masks).nonzero()[0]))
        worst, largest = max(worst, float((found - wanted).abs().max())), max(largest, float(wanted.abs().max()))
    return worst / largest


def lively(case: Case) -> nn.Module:
    """The network in float64, with random weights that keep the variance of what they read.

    Without that, maps of a deep network are constant, and all its boxes have the same score: then rounding decides
    which of them are kept.
    """
    torch.manual_seed(SEED)
    model = enlivened(case.build())
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                noise = torch.rand(module.weight.shape, generator=generator) - 0.5
                module.weight.copy_(noise * (24 / module.weight[0].numel()) ** 0.5)
                if module.bias is not None:
                    module.bias.copy_(torch.rand(module.bias.shape, generator=generator) - 0.5)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        momentum = [module.momentum for module in norms]
        for module in norms:
            module.momentum = 1.0
        losses(case, model)  # statistics of norms are then those of these images
        for module, before in zip(norms, momentum, strict=True):
            module.momentum = before
    return model


def examined(case: Case, plans: int) -> dict[str, Any]:
    """How exact the pruned networks are."""
    model = lively(case)
    start = time.process_time()
    graph = trace(model, case.example)
    whole = dense(graph)
    found: dict[str, Any] = {
        "trace_s": time.process_time() - start,
        "groups": len(graph.groups),
        "branches": len(graph.branches),
        "parameters": whole["params"],
        "prunable": 1 - COSTS["params"](graph).total({group.name: 0 for group in graph.groups}) / whole["params"],
    }
    same = apply(model, Plan((), graph.fingerprint, graph.inputs), graph)
    own = evaluated(case, model)
    found["empty_eval"] = worst_difference(evaluated(case, same), own)
    found["empty_train"] = worst_difference(trained(case, same), trained(case, model))
    if isinstance(own, list):
        found["detections"] = [len(each["scores"]) for each in own]
    evaluation, training, gradients, shares = [], [], list[float | None](), []
    for seed in range(plans):
        plan = random_plan(graph, KEEP, seed, drop=DROP if seed % 2 else 0.0)
        shares.append(COSTS["macs"](graph).total(plan.sizes()) / whole["macs"])
        small, masked = apply(model, plan, graph), simulate(model, plan, graph)
        with decisions_recorded() as decisions:
            ours, terms = evaluated(case, small), trained(case, small)
        with decisions_repeated(decisions):
            evaluation.append(worst_difference(ours, evaluated(case, masked)))
            training.append(worst_difference(terms, trained(case, masked)))
        if seed == 0:
            found["losses"] = {name: float(value.sum()) for name, value in terms.items()}
            gradients.append(gradient_error(case, small, model, graph, plan))
    found |= {"eval": max(evaluation), "train": max(training), "gradients": gradients[0], "macs": shares}
    errors = [found[name] for name in ("empty_eval", "empty_train", "eval", "train")] + [gradients[0] or 0.0]
    return found | {"error": max(errors), "exact": max(errors) <= TOLERANCE}


def line(name: str, found: Mapping[str, Any]) -> str:
    """One network's results in a line."""
    if "failed" in found:
        return f"{name:55} failed  {found['failed'][:200]}"
    gradients = "–" if found["gradients"] is None else f"{found['gradients']:.0e}"
    return (
        f"{name:55} {'exact' if found['exact'] else 'WRONG'}  eval {found['eval']:.0e}  train {found['train']:.0e}  "
        f"empty {found['empty_eval']:.0e} {found['empty_train']:.0e}  gradients {gradients}  "
        f"{found['groups']} groups, {found['prunable']:.1%} of the parameters  "
        f"detections {found.get('detections', '–')}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks, library:name; all if none is given")
    parser.add_argument("--plans", type=int, default=1)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # some losses make tensors of their own
    known = arguments.output is not None and arguments.output.exists()
    results = json.loads(arguments.output.read_text()) if known else {"networks": {}}
    results |= {"environment": environment(["python", *sys.argv]), "plans": arguments.plans}
    for name in arguments.names or CASES:
        try:
            found = examined(CASES[name](), arguments.plans)
        except Exception as error:
            traceback.print_exc(limit=-3)
            found = {"failed": f"{type(error).__name__}: {error}"[:400]}
        results["networks"][name] = found
        print(line(name, found), flush=True)
        if arguments.output:
            write_record(arguments.output, results, indent=1)
    bad = [name for name in arguments.names or CASES if not results["networks"][name].get("exact")]
    if bad:
        sys.exit(f"wrong or failed: {', '.join(bad)}")


if __name__ == "__main__":
    main()
