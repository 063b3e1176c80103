"""Whole detectors are pruned exactly: boxes in evaluation mode, losses and their gradients in training mode."""

from __future__ import annotations

import copy
import dataclasses as dc
import functools
import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms

import edakari.surgery.differences as differences_module
from edakari.core.graph import Graph
from edakari.core.layout import kept
from edakari.core.plan import Plan
from edakari.errors import PlanError
from edakari.graph import trace
from edakari.surgery import apply, simulate
from edakari.surgery.applying import masks_of
from edakari.surgery.differences import differences
from edakari.testing import difference, enlivened, exactness, random_plan
from tests.small_detectors import DETECTORS, detector, images, targets

TOLERANCE = 1e-9


def boxes_of(model: nn.Module, seed: int = 1) -> Any:
    with torch.no_grad():
        return model.eval()(images(seed=seed))


def losses_of(model: nn.Module, seed: int = 1) -> dict[str, torch.Tensor]:
    """Losses in training mode; detectors draw samples of their boxes, by the same seed for all."""
    torch.manual_seed(seed)
    losses: dict[str, torch.Tensor] = model.train()(images(seed=seed), targets(seed=seed))
    return losses


@functools.cache
def pruned(name: str, seed: int = 0) -> tuple[nn.Module, Graph, Plan]:
    model = detector(name)
    graph = trace(model, (images(),))
    return model, graph, random_plan(graph, (0.3, 0.6), seed)


PREDICTIONS = re.compile(
    r".*(cls_logits|bbox_pred|bbox_reg|bbox_ctrness|cls_score|mask_fcn_logits|kps_score_lowres|"
    r"(classification|regression)_head\.module_list\.\d+(\.1)?)"
)
"""Paths of layers whose outputs are classes, boxes, masks or keypoints."""


def check_what_stays(small: nn.Module, model: nn.Module) -> None:
    """Predictions keep their widths, and anchors their boxes; every joined map of a pyramid is thinner."""
    layers = (path for path, module in model.named_modules() if not any(True for _ in module.children()))
    found = list(filter(PREDICTIONS.fullmatch, layers))
    assert len(found) >= 2
    for path in found:
        assert small.get_parameter(f"{path}.bias").shape == model.get_parameter(f"{path}.bias").shape
    for name, parameter in model.named_parameters():
        if ".fpn." in name and parameter.dim() > 1:
            assert small.get_parameter(name).shape[0] < parameter.shape[0]
    (path,) = [path for path, _ in model.named_modules() if path.endswith("anchor_generator")]
    images = ImageList(torch.zeros(1, 3, 64, 64), [(64, 64)])
    levels = len(model.get_submodule(path).num_anchors_per_location())
    maps = [torch.zeros(1, 1, 8, 8)] * levels
    assert difference(small.get_submodule(path)(images, maps), model.get_submodule(path)(images, maps)) == 0.0


@pytest.mark.parametrize("name", DETECTORS)
def test_boxes_and_losses_of_a_pruned_detector_are_those_of_the_masked_one(name: str) -> None:
    """The detector is traced with images alone. An empty plan gives the detector itself."""
    model, graph, plan = pruned(name)
    networks = (apply(model, plan, graph), simulate(model, plan, graph))
    check_what_stays(networks[0], model)
    unpruned = (apply(model, Plan((), graph.fingerprint, graph.inputs), graph), model)
    for (left, right), tolerance in ((networks, TOLERANCE), (unpruned, 0.0)):
        found = boxes_of(left)
        assert all(len(each["boxes"]) for each in found)
        assert difference(found, boxes_of(right)) <= tolerance
        with torch.no_grad():
            assert difference(losses_of(left), losses_of(right)) <= tolerance


def masked_by_weights(model: nn.Module, graph: Graph, plan: Plan) -> nn.Module:
    """The dense network whose weights ignore the removed channels: its gradients are those of the masked network."""
    twin, masks = copy.deepcopy(model), masks_of(plan, graph)
    for path, module in twin.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            inputs = 0 if isinstance(module, nn.ConvTranspose2d) else 1
            keep = torch.from_numpy(kept(graph.layouts[f"{path}.weight"][inputs], masks))
            shape = [-1 if dim == inputs else 1 for dim in range(module.weight.dim())]
            module.weight.data.mul_(keep.view(shape))
    return twin


def survivors(gradient: torch.Tensor, name: str, graph: Graph, plan: Plan) -> torch.Tensor:
    for dim, layout in enumerate(graph.layouts[name]):
        gradient = gradient.index_select(dim, torch.from_numpy(kept(layout, masks_of(plan, graph)).nonzero()[0]))
    return gradient


@pytest.mark.parametrize("name", ["mask r-cnn", "keypoint r-cnn", "retinanet", "ssdlite"])
def test_gradients_of_the_losses_are_those_of_the_masked_detector(name: str) -> None:
    model, graph, plan = pruned(name)
    small, masked = apply(model, plan, graph), masked_by_weights(model, graph, plan)
    for network in (small, masked):
        sum(losses_of(network).values()).backward()
    found = dict(small.named_parameters())
    wanted = {key: survivors(p.grad, key, graph, plan) for key, p in masked.named_parameters() if p.grad is not None}
    assert {key for key, p in found.items() if p.grad is not None} == set(wanted)
    assert sum(bool(gradient.any()) for gradient in wanted.values()) > 0.8 * len(found)
    for key, gradient in wanted.items():
        # the loss of keypoints does not depend on their bias
        torch.testing.assert_close(found[key].grad, gradient, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["keypoint r-cnn", "ssd"])
def test_targets_in_the_example_are_traced_and_compared(name: str) -> None:
    model, graph, plan = pruned(name)
    example = (images(), targets())
    traced = trace(model, example)
    assert traced.with_training
    assert not graph.with_training
    assert traced.fingerprint == graph.fingerprint
    both = random_plan(traced, (0.3, 0.6))
    again = Plan.from_json(both.to_json())
    assert difference(boxes_of(apply(model, again)), boxes_of(apply(model, plan, graph))) < TOLERANCE
    found = differences(model, again, [example], traced)
    assert found.training is not None
    assert found.worst < TOLERANCE


class Imitating(nn.Module):
    """In training, one branch imitates the other; evaluation reads each by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
        self.left, self.right = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor, target: Any = None) -> Any:
        first, second = torch.relu(self.first(x)), torch.relu(self.second(x))
        out = self.left(first) + self.right(second)
        return (
            {"imitation": (first - second).square().mean(), "loss": F.mse_loss(out, target["y"])}
            if self.training
            else out
        )


def test_widths_that_meet_in_training_alone_are_one_group() -> None:
    torch.manual_seed(0)
    model = enlivened(Imitating())
    x, y = torch.rand(2, 3, 8, 8, dtype=torch.float64), torch.rand(2, 2, 6, 6, dtype=torch.float64)
    assert [group.name for group in trace(model, x).groups] == ["first", "second"]
    graph = trace(model, (x, {"y": y}))
    assert [group.name for group in graph.groups] == ["first"]
    assert exactness(model, (x, {"y": y}), random_plan(graph), graph) < TOLERANCE


class Dropping(Imitating):
    """Dropout whose function is called, noise of each channel, and noise of each image."""

    def __init__(self, noise: bool) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, x: torch.Tensor, target: Any = None) -> Any:
        first = F.dropout(torch.relu(self.first(x)), 0.5, self.training)
        first = F.scaled_dot_product_attention(first, first, first, dropout_p=0.5 if self.training else 0.0)
        if self.training:
            first = first + (torch.rand_like(first) if self.noise else torch.rand(len(x), 1, 1, 1))
        out = self.left(first) + self.right(torch.relu(self.second(x)))
        return {"loss": F.mse_loss(out, target["y"])} if self.training else out


@pytest.mark.parametrize("noise", [True, False])
def test_dropout_and_noise_are_no_faults(noise: bool) -> None:
    torch.manual_seed(0)
    model = enlivened(Dropping(noise))
    x, y = torch.rand(2, 3, 8, 8, dtype=torch.float64), torch.rand(2, 2, 6, 6, dtype=torch.float64)
    graph = trace(model, (x, {"y": y}))
    found = differences(model, random_plan(graph), [(x, {"y": y})], graph)
    assert found.training is not None
    assert found.worst < TOLERANCE


@pytest.mark.parametrize("empty", [True, False])
def test_a_network_that_is_wrong_in_training_alone_is_seen(empty: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = enlivened(Imitating())
    x, y = torch.rand(2, 3, 8, 8, dtype=torch.float64), torch.rand(2, 2, 6, 6, dtype=torch.float64)
    graph = trace(model, (x, {"y": y}))
    plan = random_plan(graph)

    def spoiled(model: nn.Module, plan: Plan, graph: Graph) -> nn.Module:
        made = apply(model, plan, graph)
        if bool(plan.edits) != empty:
            made.register_forward_hook(
                lambda module, args, out: {key: 2 * value for key, value in out.items()} if module.training else out
            )
        return made

    monkeypatch.setattr(differences_module, "apply", spoiled)
    found = differences(model, plan, [(x, {"y": y})], graph)
    assert max(found.empty, found.cut) < TOLERANCE
    assert found.training == pytest.approx(1.0)
    assert found.worst == found.training


def test_a_network_that_fails_in_training_alone_is_one_error() -> None:
    model = enlivened(Imitating())
    x, y = torch.rand(2, 3, 8, 8, dtype=torch.float64), torch.rand(2, 2, 6, 6, dtype=torch.float64)
    graph = dc.replace(trace(model, (x,)), with_training=True)  # as if it had been traced
    with pytest.raises(PlanError, match="in training mode, the cut network fails"):
        differences(model, random_plan(graph, (0.3, 0.9), 1), [(x, {"y": y})], graph)


class Ranking(nn.Module):
    """The best of many equal positions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.slope = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 2, 1), 0.0

    def forward(self, x: torch.Tensor) -> Any:
        scores, places = self.second(torch.relu(self.first(x))).flatten(2), torch.rand(2, 36, dtype=x.dtype)
        scores = scores + self.slope * torch.arange(36)
        best, order = scores.topk(3, dim=-1)
        top, where = scores.max(2)
        ranked, ranks = scores.sort(descending=True)
        kept = batched_nms(torch.rand(36, 4).cumsum(1).to(x), scores[0, 0], torch.zeros(36), 0.5)
        return best, order, top, where, ranked, ranks, scores[0].argmax(1), kept, places.gather(1, order[:, 0])


@pytest.mark.parametrize(("slope", "seen"), [(1e-15, False), (1e-3, True)])
def test_equal_values_are_ranked_alike_and_others_are_not(slope: float, seen: bool, monkeypatch: Any) -> None:
    """Rounding decides which of equal values comes first; a wrong network makes decisions of its own."""
    torch.manual_seed(0)
    model, x = enlivened(Ranking()), torch.full((2, 3, 8, 8), 0.5, dtype=torch.float64)
    graph = trace(model, x)
    plan = random_plan(graph)

    def sloped(model: nn.Module, plan: Plan, graph: Graph) -> nn.Module:
        made = apply(model, plan, graph)
        made.slope = slope if plan.edits else 0.0
        return made

    monkeypatch.setattr(differences_module, "apply", sloped)
    assert (differences(model, plan, [x], graph).cut > TOLERANCE) == seen
    with torch.no_grad():
        assert difference(sloped(model, plan, graph)(x), simulate(model, plan, graph)(x)) > TOLERANCE
