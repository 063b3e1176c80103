"""A network moved to another task: new prediction layers, and everything else bit by bit as it was."""

from __future__ import annotations

import dataclasses as dc
import functools
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from edakari.core.plan import KeepChannels, Plan
from edakari.errors import EdakariWarning, ModelError, UnknownName, WrongArgument
from edakari.graph import trace
from edakari.models import build
from edakari.pipeline.masked import fixed_masks
from edakari.surgery import FeatureHead, apply, held_masks, load, mask_weights, save, save_as_pruned, transfer
from edakari.surgery.structure import structure_of
from edakari.testing import random_plan

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Head(nn.Module):
    """A backbone that ends in two maps, which are summed and resized, and an auxiliary one in training."""

    def __init__(self, classes: int = 4, aux: bool = True) -> None:
        super().__init__()
        self.num_classes = classes
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, 1, 1))
        self.low, self.high = nn.Conv2d(4, classes, 1, bias=False), nn.ConvTranspose2d(4, classes, 2, 2)
        self.aux = nn.Conv2d(4, classes, 1) if aux else None

    def forward(self, x: torch.Tensor) -> Any:
        found = self.body(x)
        both = functional.interpolate(self.low(found), scale_factor=2.0) + self.high(found)
        maps = both.flatten(2).view(len(x), self.num_classes, *x.shape[2:])
        return {"out": maps, "aux": self.aux(found)} if self.training and self.aux is not None else {"out": maps}


def changed(before: nn.Module, after: nn.Module) -> set[str]:
    """Names of the tensors that are not equal bit by bit."""
    one, other = before.state_dict(), after.state_dict()
    both = one.keys() & other.keys()
    return (one.keys() ^ other.keys()) | {name for name in both if not equal(one[name], other[name])}


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


@functools.cache
def gated(head: str, step: int = 2, **options: Any) -> nn.Module:
    """A ticket of a supernet, shared by tests, which must not change it: hidden channels of the paths are cut."""
    torch.manual_seed(step)
    model = build("edakari:supernet", preset="tiny", head=head, **options)
    graph = trace(model, X)
    names = [group for group in graph.groups if ".paths." in group.name and group.name.endswith(".0.0")]
    edits = tuple(KeepChannels(group.name, tuple(range(0, group.size, step))) for group in names)
    return apply(model, Plan(edits, graph.fingerprint, graph.inputs, "hand"), graph)


@pytest.mark.parametrize(
    ("name", "options", "layers"),
    [
        ("edakari:resnet20", {}, {"classifier"}),
        pytest.param("edakari:supernet", {"preset": "tiny"}, {"head.classifier"}, marks=pytest.mark.slow),
        ("torchvision:squeezenet1_1", {}, {"classifier.1"}),
    ],
)
def test_only_the_prediction_layer_changes_and_the_network_comes_back_from_a_folder(name, options, layers, tmp_path):
    torch.manual_seed(0)
    model = build(name, **options)
    graph = trace(model, X)
    plan = random_plan(graph)
    small = apply(model, plan, graph)
    before = {key: value.clone() for key, value in small.state_dict().items()}
    moved = transfer(small, 7)
    assert {key.rpartition(".")[0] for key in changed(small, moved)} == layers
    assert all(torch.equal(value, before[key]) for key, value in small.state_dict().items())
    assert moved(X).shape[1] == 7
    save(moved, plan, tmp_path / "moved")
    back = load(tmp_path / "moved")
    assert torch.equal(back(X), moved(X))
    assert getattr(back, "num_classes", 7) == 7
    graph = trace(moved, X)
    again = random_plan(graph, seed=1)
    smaller = apply(moved, again, graph)
    save(smaller, again, tmp_path / "again")
    assert torch.equal(load(tmp_path / "again")(X), smaller(X))


def test_new_weights_are_those_of_the_class_and_come_from_the_seed():
    model = build("edakari:resnet20").double()
    one, same, other = (transfer(model, 7, seed=seed) for seed in (3, 3, 4))
    assert not changed(one, same)
    assert changed(one, other) == {"classifier.weight", "classifier.bias"}
    torch.manual_seed(3)
    plain = nn.Linear(64, 7)
    assert torch.equal(one.classifier.weight, plain.weight.double())
    assert one.classifier.weight.dtype == torch.float64


def test_random_state_and_modes_stay():
    model = build("edakari:resnet20").train()
    state = torch.get_rng_state()
    assert transfer(model, 7).training
    assert torch.equal(state, torch.get_rng_state())


def test_all_heads_that_write_the_outputs_are_found_and_numbers_in_code_follow(tmp_path):
    torch.manual_seed(0)
    model = Head().eval()
    moved = transfer(model, 6, example=X)
    parts = {key.rpartition(".")[0] for key in changed(model, moved)}
    assert parts == {"low", "high", "aux"}
    assert moved(X)["out"].shape == (2, 6, 32, 32)
    assert moved.train()(X)["aux"].shape[1] == 6
    assert (model.num_classes, moved.num_classes) == (4, 6)
    plan = random_plan(trace(moved.eval(), X))
    small = apply(moved, plan)
    save(small, plan, tmp_path / "run", base=moved)
    assert torch.equal(load(tmp_path / "run", transfer(Head().eval(), 6, example=X))(X)["out"], small(X)["out"])


def test_layers_may_be_named_alone_or_with_their_own_numbers():
    model = build("edakari:resnet20")
    assert changed(model, transfer(model, 7, layer="classifier")) == {"classifier.weight", "classifier.bias"}
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 12, 1), nn.PixelShuffle(2))
    with pytest.raises(ModelError, match="12 outputs, from which the network makes"):
        transfer(model, 8, example=X)
    assert transfer(model, 2, layer={"1": 8}, example=X)(X).shape == (2, 2, 64, 64)


def test_a_classifier_that_never_runs_on_the_example_is_told():
    net = Spare()
    with pytest.warns(EdakariWarning, match="spare"):
        transfer(net, 6, example=X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transfer(net, 6, layer=("main", "spare"), example=X)


class Spare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.main, self.spare = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor, labels: Any = None) -> Any:
        return self.main(x) if labels is None else (self.main(x), self.spare(x))


def test_a_configuration_with_names_of_classes_follows():
    model = build("edakari:resnet20")
    model.config = SimpleNamespace(num_labels=10, id2label={})
    task = SimpleNamespace(example=lambda: X[:1], num_outputs=3, classes=("a", "b", "c"))
    moved = transfer(model, task)
    assert (moved.config.num_labels, moved.config.id2label) == (3, {0: "a", 1: "b", 2: "c"})
    assert model.config.num_labels == 10


@pytest.mark.parametrize(
    ("given", "options", "error", "text"),
    [
        (10, {}, ModelError, "fit the task already: classifier \\(10\\)"),
        (0, {}, ModelError, "at least one output"),
        (3.5, {}, WrongArgument, "a task or a number of outputs"),
        (7, {"layer": "clasifier"}, UnknownName, "did you mean 'classifier'"),
        (7, {"layer": "stages"}, ModelError, "only linear layers and convolutions"),
        (7, {"graft": "runs/none"}, ModelError, "needs head="),
        (7, {"head": "segmentation"}, ModelError, "heads of edakari:supernet, but the ticket is a ResNetCIFAR"),
        (7, {"head": FeatureHead(("stage9",), nn.Conv2d)}, UnknownName, "feature"),
        (7, {"head": FeatureHead(("stages",), lambda widths, outputs: None)}, ModelError, "returned a NoneType"),  # type: ignore[arg-type, return-value]
        (7, {"layer": "classifier", "head": "pose"}, ModelError, "exclude each other"),
    ],
)
def test_what_cannot_be_moved_is_told(given, options, error, text):
    with pytest.raises(error, match=text):
        transfer(build("edakari:resnet20"), given, **options)


def test_what_fits_is_drawn_again_if_asked():
    model = build("edakari:resnet20")
    assert changed(model, transfer(model, 10, reinitialise=True)) == {"classifier.weight", "classifier.bias"}


def test_other_input_channels_are_told():
    grey = SimpleNamespace(example=lambda: X[:1, :1], num_outputs=3, classes=())
    with pytest.raises(ModelError, match="takes images of 3 channels, but those of the task have 1"):
        transfer(build("edakari:resnet20"), grey)


def test_outputs_of_different_numbers_are_listed():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.boxes, self.labels = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 9, 1)

        def forward(self, x: torch.Tensor) -> Any:
            return self.boxes(x), self.labels(x)

    with pytest.raises(ModelError, match=r"'boxes': 4, 'labels': 9"):
        transfer(Two(), 7, example=X)
    assert transfer(Two(), 7, layer={"labels": 7}, example=X)(X)[1].shape[1] == 7


def test_a_classifier_becomes_a_dense_network_with_the_tickets_stem_and_stages(tmp_path):
    ticket = gated("classification", num_classes=5)
    moved = transfer(ticket, 4, head="segmentation")
    assert {key.partition(".")[0] for key in changed(ticket, moved)} == {"head"}
    assert moved(X).shape == (2, 4, 8, 8)
    before, after = (structure_of(each).modules for each in (ticket, moved))
    assert all(after[path] == kind for path, kind in before.items() if path.startswith(("stem", "stages")))
    save(moved, moved.edakari_steps[-1].plan, tmp_path / "moved")  # type: ignore[index, union-attr]
    assert torch.equal(load(tmp_path / "moved")(X), moved(X))


def test_a_head_is_grafted_except_for_its_classifier_and_norms_keep_their_settings():
    ticket = gated("classification", num_classes=5)
    donor = gated("pose", step=3, num_classes=17, head_width=12)
    moved = transfer(ticket, 3, head="pose", graft=donor)
    assert {key.partition(".")[0] for key in changed(ticket, moved)} == {"head"}
    assert changed(donor.head, moved.head) == {"classifier.weight", "classifier.bias"}  # type: ignore[arg-type]
    assert moved(X).shape == (2, 3, 8, 8)
    norms = [(name, part.eps) for name, part in moved.named_modules() if isinstance(part, nn.BatchNorm2d)]
    assert {eps for name, eps in norms if name.startswith("head")} == {1e-5}
    assert {eps for name, eps in norms if not name.startswith("head")} == {1e-3}


def halved(model: nn.Module, names: list[str]) -> dict[str, torch.Tensor]:
    """Masks that keep the half of each parameter with larger magnitudes."""
    return {name: model.get_parameter(name).abs() > model.get_parameter(name).abs().median() for name in names}


def test_masks_of_weights_move_along_and_stay_in_training(tmp_path):
    torch.manual_seed(0)
    model = build("edakari:resnet20")
    graph = trace(model, X)
    masking = mask_weights(graph, halved(model, [name for name, value in model.named_parameters() if value.dim() > 1]))
    cuts = (KeepChannels(group.name, tuple(range(0, group.size, 2))) for group in graph.groups)
    sparse = apply(model, Plan((*cuts, *masking.edits), graph.fingerprint, graph.inputs, bits=masking.bits), graph)
    moved = transfer(sparse, 4)
    before, held = held_masks(sparse), held_masks(moved)
    assert set(before) - set(held) == {"classifier.weight"}
    assert all(torch.equal(held[name], before[name]) for name in held)
    (hook,), optimizer = fixed_masks(moved), torch.optim.SGD(moved.train().parameters(), 0.01, momentum=0.9)
    for _ in range(20):
        moved(X).square().mean().backward()
        optimizer.step()
        hook.after_step(None)  # type: ignore[arg-type]
        optimizer.zero_grad()
    assert all(not bool(moved.get_parameter(name)[~mask].any()) for name, mask in held.items())
    save_as_pruned(moved.eval(), tmp_path / "moved")
    back = load(tmp_path / "moved")
    assert torch.equal(back(X), moved(X))
    assert held_masks(back) == held


def test_masks_of_stem_and_stages_stay_under_another_head():
    torch.manual_seed(0)
    model = build("edakari:supernet", preset="tiny", num_classes=5)
    graph = trace(model, X)
    parts = ("stem", "stages.1.1", "head.widen.0.paths.0")
    names = [name for name, value in model.named_parameters() if value.dim() == 4 and name.startswith(parts)]
    sparse = apply(model, mask_weights(graph, halved(model, names)), graph)
    before, held = held_masks(sparse), held_masks(transfer(sparse, 4, head="segmentation"))
    assert set(held) == {name for name in before if not name.startswith("head")}
    assert all(torch.equal(held[name], before[name]) for name in held)


def test_heads_that_do_not_fit_a_supernet_are_told():
    ticket = gated("segmentation", num_classes=5)
    with pytest.raises(ModelError, match="a head for segmentation already"):
        transfer(ticket, 4, head="segmentation")
    classifier = gated("classification", num_classes=5)
    with pytest.raises(ModelError, match="graft has a head for segmentation, not for pose"):
        transfer(classifier, 4, head="pose", graft=ticket)


def test_a_head_of_your_own_takes_features_and_the_old_classifier_goes():
    torch.manual_seed(0)
    model = build("edakari:resnet20")
    plan = random_plan(trace(model, X))
    small = apply(model, plan)

    class Decoder(nn.Module):
        def __init__(self, widths: tuple[int, ...], outputs: int) -> None:
            super().__init__()
            self.sides = nn.ModuleList(nn.Conv2d(width, outputs, 1) for width in widths)

        def forward(self, *features: torch.Tensor) -> torch.Tensor:
            sides = [side(feature) for side, feature in zip(self.sides, features, strict=True)]
            return sum(functional.interpolate(side, sides[0].shape[2:]) for side in sides)  # type: ignore[return-value]

    moved = transfer(small, 5, head=FeatureHead(("stages.0", "stages.2"), Decoder))
    assert moved(X).shape[1] == 5
    assert changed(small, moved.backbone) == {"classifier.weight", "classifier.bias"}  # type: ignore[arg-type]
    functional.cross_entropy(moved.train()(X), torch.zeros(moved(X).shape[0], *moved(X).shape[2:]).long()).backward()
    assert all(parameter.grad is not None for parameter in moved.parameters())
    moved.eval()
    later = random_plan(trace(moved, X))
    assert apply(moved, later)(X).shape == moved(X).shape


def test_training_steps_leave_the_structure():
    ticket = gated("segmentation", num_classes=5)
    moved = transfer(ticket, 4)
    shapes = structure_of(moved)
    optimizer = torch.optim.SGD(moved.train().parameters(), 0.01)
    for _ in range(3):
        functional.cross_entropy(moved(X), torch.zeros(2, 8, 8).long()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert dc.asdict(structure_of(moved)) == dc.asdict(shapes)
