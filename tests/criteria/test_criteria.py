"""Criteria against their formulas, written out per channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import edakari
from edakari.core.graph import Graph
from edakari.core.layout import Axis, Concat, Fixed, Layout, Product, kept
from edakari.core.space import Group
from edakari.criteria import BatchNormScale, GeometricMedian, Magnitude, Random, Taylor, channels
from edakari.criteria.reduce import normalized
from edakari.errors import DataError, EdakariError, ModelError
from edakari.testing import ToyTask, check_criterion, toy_cnn

CRITERIA = [Random(), Magnitude(p=1), Magnitude(p=2), BatchNormScale(), GeometricMedian(), Taylor()]
SIZES = {"a": 3, "b": 2}

leaves = st.one_of(st.integers(1, 3).map(Fixed), st.sampled_from("ab").map(lambda name: Axis(name, SIZES[name])))
concats = st.lists(leaves, min_size=1, max_size=3).map(lambda parts: Concat(tuple(parts)))
products = st.permutations([Axis("a", 3), Axis("b", 2), Fixed(2)]).map(lambda parts: Product(tuple(parts)))
trees = st.lists(st.one_of(leaves, concats, products), min_size=1, max_size=3).map(lambda parts: Concat(tuple(parts)))


def hand_made(groups: tuple[Group, ...], layouts: dict[str, tuple[Layout, ...]]) -> Graph:
    names = tuple(name for name in layouts if "running" not in name)
    return Graph(groups, layouts, names, (), (), (), None, "meta", {}, "f")


def pair() -> tuple[nn.Sequential, Graph]:
    """Two linear layers with a group between them, and a norm on it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    nn.init.normal_(model[1].weight)
    width: Layout = Axis("g", 4)
    layouts = {
        "0.weight": (width, Fixed(5)),
        "0.bias": (width,),
        "1.weight": (width,),
        "1.bias": (width,),
        "1.running_mean": (width,),
        "2.weight": (Fixed(3), width),
        "2.bias": (Fixed(3),),
    }
    return model.eval(), hand_made((Group("g", "channel", 4),), layouts)


@pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
def test_conformance(criterion: Any) -> None:
    check_criterion(criterion)


@given(trees, st.sampled_from("ab"), st.data())
def test_coordinates_agree_with_kept_masks(layout: Layout, group: str, data: st.DataObject) -> None:
    where = channels(layout, group)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=SIZES[group], max_size=SIZES[group])), dtype=bool)
    np.testing.assert_array_equal(kept(layout, {group: mask}), np.where(where >= 0, mask[where], True))
    counts = np.bincount(where[where >= 0], minlength=SIZES[group])
    assert (counts == counts[0]).all()


@pytest.mark.parametrize("p", [1, 2])
def test_magnitude_is_the_mean_over_rows_and_columns(p: Any) -> None:
    model, graph = pair()
    rows, columns = model[0].weight.detach().double(), model[2].weight.detach().double()
    expected = ((rows.abs() ** p).mean(1) ** (1 / p) + (columns.abs() ** p).mean(0) ** (1 / p)) / 2
    found = Magnitude(p=p, normalize="none").score(model, graph)["g"]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    shares = Magnitude(p=p).score(model, graph)["g"]
    torch.testing.assert_close(shares, found / found.mean())


def test_magnitude_gathers_a_coordinate_from_all_of_its_places() -> None:
    weight = torch.arange(48.0).reshape(8, 6)
    model = nn.Linear(6, 8)
    model.weight.data = weight
    layout = Concat((Product((Axis("h", 3), Axis("d", 2))), Fixed(2)))
    groups = (Group("h", "head", 3), Group("d", "head_dim", 2))
    graph = hand_made(groups, {"weight": (layout, Fixed(6)), "bias": (layout,)})
    scores = Magnitude(p=1, normalize="none").score(model, graph)
    heads = weight[:6].reshape(3, 2, 6)
    torch.testing.assert_close(scores["h"], heads.mean((1, 2)).double())
    torch.testing.assert_close(scores["d"], heads.mean((0, 2)).double())


def test_magnitude_reads_every_kernel_dimension() -> None:
    model = nn.Conv2d(3, 4, 3)
    layouts = {"weight": (Axis("out", 4), Axis("in", 3), Fixed(3), Fixed(3)), "bias": (Axis("out", 4),)}
    graph = hand_made((Group("out", "channel", 4), Group("in", "channel", 3)), layouts)
    scores = Magnitude(p=1, normalize="none").score(model, graph)
    weight = model.weight.detach().abs()
    torch.testing.assert_close(scores["out"].float(), weight.mean((1, 2, 3)))
    torch.testing.assert_close(scores["in"].float(), weight.mean((0, 2, 3)))


def test_groups_of_vectors_only_are_scored_by_them_and_groups_of_nothing_score_one() -> None:
    model = nn.LayerNorm(3)
    nn.init.normal_(model.weight)
    layouts = {"weight": (Axis("g", 3),), "bias": (Axis("g", 3),)}
    graph = hand_made((Group("g", "embedding", 3), Group("t", "token", 5)), layouts)
    scores = Magnitude(p=1, normalize="none").score(model, graph)
    torch.testing.assert_close(scores["g"].float(), (model.weight.abs() + model.bias.abs()).detach() / 2)
    assert scores["t"].tolist() == [1.0] * 5


def test_batch_norm_scale_is_the_absolute_scale() -> None:
    model, graph = pair()
    found = BatchNormScale(normalize="none").score(model, graph)["g"]
    torch.testing.assert_close(found.float(), model[1].weight.detach().abs())


def test_batch_norm_scale_falls_back_to_magnitude() -> None:
    model, graph = pair()
    bare = nn.Sequential(model[0], nn.Identity(), model[2])
    layouts = {name: dims for name, dims in graph.layouts.items() if not name.startswith("1.")}
    other = hand_made(graph.groups, layouts)
    torch.testing.assert_close(BatchNormScale().score(bare, other)["g"], Magnitude(p=2).score(model, graph)["g"])


def test_geometric_median_is_the_mean_distance_to_the_others() -> None:
    model, graph = pair()
    rows, columns = model[0].weight.detach().double(), model[2].weight.detach().double().T
    parts = [torch.stack([(m - row).norm(dim=1).sum() / 3 / m.shape[1] ** 0.5 for row in m]) for m in (rows, columns)]
    found = GeometricMedian(normalize="none").score(model, graph)["g"]
    torch.testing.assert_close(found, (parts[0] + parts[1]) / 2, rtol=1e-4, atol=1e-6)


def test_a_twin_is_what_the_geometric_median_removes_first() -> None:
    model, graph = pair()
    with torch.no_grad():
        model[0].weight[1] = model[0].weight[2] = model[0].weight.mean(0)
        model[2].weight[:, 1] = model[2].weight[:, 2] = model[2].weight.mean(1)
    assert set(GeometricMedian().score(model, graph)["g"].argsort()[:2].tolist()) == {1, 2}


@pytest.mark.parametrize("rank", [3, 40])
def test_a_sample_estimates_the_mean_distances_of_a_large_group(rank: int) -> None:
    torch.manual_seed(rank)
    size = 300
    model = nn.Sequential(nn.Linear(40, size), nn.Linear(size, 3))
    with torch.no_grad():
        mixed = torch.randn(size, rank) @ torch.randn(rank, 40) * torch.rand(size, 1).add(0.2)
        model[0].weight.copy_(mixed)
        model[0].weight[7] = model[0].weight[8]
    graph = edakari.trace(model, torch.zeros(2, 40))
    (name,) = (group.name for group in graph.groups)
    exact = GeometricMedian(normalize="none", sample=100).score(model, graph)[name]
    found = GeometricMedian(normalize="none", sample=64).score(model, graph)[name]
    torch.testing.assert_close(exact, found, rtol=0.05, atol=0.0)
    assert not torch.equal(exact, found)
    assert len({*exact.argsort()[:150].tolist()} & {*found.argsort()[:150].tolist()}) > 140


def test_equal_channels_have_no_distance_even_if_they_are_many() -> None:
    model = nn.Sequential(nn.Linear(3, 300), nn.Linear(300, 2))
    with torch.no_grad():
        for layer in model:
            layer.weight.fill_(0.5)
    graph = edakari.trace(model, torch.zeros(1, 3))
    (scores,) = GeometricMedian(normalize="none").score(model, graph).values()
    assert scores.abs().max() < 1e-3


def test_taylor_is_the_mean_squared_sum_of_gradient_times_weight() -> None:
    task = ToyTask(images=8, batch=4)

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, _ = pair()
            self.pool = nn.AdaptiveAvgPool1d(5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.body(self.pool(images.flatten(1)))
            return torch.cat([out, out[:, :1]], 1)

    model = Flat().eval()
    _, graph = pair()
    layouts = {f"body.{name}": dims for name, dims in graph.layouts.items()}
    graph = hand_made(graph.groups, layouts)
    expected = torch.zeros(4)
    for batch in task.batches("calibration"):
        model.zero_grad()
        task.loss(model(batch[0]), batch)["cross_entropy"].backward()
        first, last = model.body[0].weight, model.body[2].weight
        assert first.grad is not None
        assert last.grad is not None
        expected += ((first * first.grad).sum(1) ** 2 + (last * last.grad).sum(0) ** 2).detach() / 2 / 2
    found = Taylor(normalize="none").score(model, graph, task.batches("calibration"), task)["g"]
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-9)


def test_taylor_needs_a_task_and_data() -> None:
    model, graph = pair()
    with pytest.raises(EdakariError, match="needs a task"):
        Taylor().score(model, graph, [], None)
    with pytest.raises(DataError, match="no batch"):
        Taylor().score(model, graph, [], ToyTask())


def test_taylor_reads_no_more_batches_than_it_may() -> None:
    from edakari.graph import trace

    task, model = ToyTask(), toy_cnn()
    read = []

    def batches() -> Any:
        for batch in task.batches("calibration"):
            read.append(batch)
            yield batch

    Taylor(max_batches=2).score(model, trace(model, task.example()), batches(), task)
    assert len(read) == 2


def test_other_shapes_and_broken_weights_are_refused() -> None:
    model, graph = pair()
    with pytest.raises(ModelError, match=r"'0.weight' has 6 positions"):
        Magnitude().score(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)), graph)
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"'g'.*not finite"):
        Magnitude().score(model, graph)


def test_random_depends_on_its_seed_only() -> None:
    model, graph = pair()
    first = Random(seed=3).score(model, graph)["g"]
    assert torch.equal(first, Random(seed=3).score(model, graph)["g"])
    assert not torch.equal(first, Random(seed=4).score(model, graph)["g"])


def test_tied_weights_count_once() -> None:
    model, graph = pair()
    tied = nn.Sequential(*model, nn.Identity())
    tied[3].weight = model[0].weight
    layouts = {**graph.layouts, "3.weight": graph.layouts["0.weight"]}
    found = Magnitude().score(tied, hand_made(graph.groups, layouts))
    torch.testing.assert_close(found["g"], Magnitude().score(model, graph)["g"])


@pytest.mark.parametrize("normalize", ["mean", "max", "sum"])
def test_normalised_scores_have_one_mean_maximum_or_sum(normalize: Any) -> None:
    graph = edakari.trace(toy_cnn(), ToyTask().example())
    plain = Magnitude(normalize="none").score(toy_cnn(), graph)
    found = Magnitude(normalize=normalize).score(toy_cnn(), graph)
    for name, score in found.items():
        assert float(getattr(score, normalize)()) == pytest.approx(1.0)
        torch.testing.assert_close(score / score.max(), plain[name] / plain[name].max())
    silent = {"g": torch.zeros(3, dtype=torch.float64)}
    assert normalized(silent, normalize)["g"].tolist() == [0.0, 0.0, 0.0]
