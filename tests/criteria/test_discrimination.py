"""The receptive field criterion: the fidelity tests of its specification, labels of all forms, bad input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from edakari.core.protocols import Batch
from edakari.criteria import FeatureDiscrimination, ResponseSettings
from edakari.criteria.discrimination import broken_ties, class_shares, discriminate, entropy
from edakari.criteria.labels import at_positions
from edakari.criteria.ranking import Strongest
from edakari.criteria.responses import FilterResponses, collect_responses
from edakari.errors import DataError, ModelError
from edakari.graph import trace
from edakari.testing import ToyTask, check_criterion, toy_cnn


def entropy_of(labels: Sequence[int], classes: int) -> float:
    shares = torch.bincount(torch.tensor(labels), minlength=classes).double() / len(labels)
    return float(entropy(shares[None])[0])


def test_entropy() -> None:
    assert entropy_of([3] * 8, 8) == 0.0
    assert math.copysign(1.0, entropy_of([3] * 8, 8)) == 1.0
    assert entropy_of([0, 0, 1, 1, 2, 2, 3, 3], 8) == pytest.approx(2.0)
    assert entropy_of([0, 0, 0, 0, 1, 1, 2, 2], 8) == pytest.approx(1.5)
    assert entropy_of([0], 1) == 0.0


class TwoFilters(nn.Module):
    """relu(x) and relu(1 - x), and logits that nobody looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(1, 2, 1), nn.ReLU()
        self.head = nn.Linear(2, 3)
        self.conv.weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
        self.conv.bias.data = torch.tensor([0.0, 1.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, 3]."""
        logits: torch.Tensor = self.head(self.act(self.conv(x)).mean((2, 3)))
        return logits


SIX = torch.tensor([[1, 1, 1, 1], [2, 2, 2, 2], [0, 0, 0, 0], [0, 0, 0, 1], [0.5, 0.5, 0.5, 0.5], [0, 0.5, 0, 0]]).view(
    6, 1, 2, 2
)
SIX_LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def heard_of(model: nn.Module, batches: Sequence[Batch], **how: Any) -> tuple[FilterResponses, Any]:
    model.eval()
    graph = trace(model, batches[0][0][:1])
    responses = collect_responses(model, graph, batches, None, ResponseSettings(**how))
    return responses, FeatureDiscrimination().discriminate(responses)


def test_hand_example() -> None:
    _, found = heard_of(TwoFilters(), [(SIX[:4], SIX_LABELS[:4]), (SIX[4:], SIX_LABELS[4:])], top=6)
    ((layer_output, group), each), *_ = found.items()
    assert (layer_output.weight, group) == ("conv.weight", "conv")
    back = each.strongest.responses.gather(1, each.strongest.ids.argsort(1))
    torch.testing.assert_close(back[0], torch.tensor([2.0, 4.0, 0.0, 1.0, 1.0, 0.5]))
    torch.testing.assert_close(back[1], torch.tensor([0.0, 0.0, 2.0, 3**0.5, 1.0, 1.8028]), rtol=1e-4, atol=1e-4)
    _, found = heard_of(TwoFilters(), [(SIX, SIX_LABELS)], top=2)
    (each,) = found.values()
    assert each.rfc_entropy.tolist() == [0.0, 1.0]
    assert each.importance[0] > each.importance[1]
    _, found = heard_of(TwoFilters(), [(SIX, SIX_LABELS)], top=3)
    (each,) = found.values()
    # images 3 and 4 tie for the third place, and the first of them takes it
    assert sorted(each.strongest.ids[0].tolist()) == [0, 1, 3]
    assert float(each.rfc_entropy[0]) == pytest.approx(0.9183, abs=1e-4)


def ranked(ids: Sequence[int], responses: Sequence[float] | None = None, dead: bool = False) -> Strongest:
    values = torch.tensor([list(responses or range(len(ids), 0, -1))], dtype=torch.float32)
    return Strongest(values, torch.tensor([list(ids)]), None, torch.ones(1, dtype=torch.float64), torch.tensor([dead]))


def test_extremes() -> None:
    labels = torch.arange(40) % 4
    responses = FilterResponses({}, labels, 40, 4, 8)
    one = discriminate(ranked(range(0, 32, 4)), responses)
    flat = discriminate(ranked(range(8)), responses)
    assert (float(one.rfc_entropy), float(one.importance)) == (0.0, 1.0)
    assert float(flat.rfc_entropy) == pytest.approx(2.0)
    assert float(flat.importance) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("classes", "top", "bits"), [(10, 500, 3.31), (1000, 640, 8.75)])
def test_chance_does_not_reach_the_maximum(classes: int, top: int, bits: float) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (50, top), generator=generator)
    shares = torch.stack([torch.bincount(row, minlength=classes) / top for row in labels])
    assert float(entropy(shares).mean()) == pytest.approx(bits, abs=0.03)


def sorted_data() -> list[Batch]:
    """All images of a class, then all of the next."""
    images, labels = torch.rand(40, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(40) // 10
    return list(zip(images.split(16), labels.split(16), strict=True))


class SomeDead(nn.Module):
    """Filters: alive, always zero behind the activation, and constant behind a normalisation of scale zero."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.ReLU()
        self.head = nn.Linear(3, 4)
        self.norm.weight.data = torch.tensor([1.0, 0.0, 0.0])
        self.norm.bias.data = torch.tensor([0.1, -1.0, 0.7])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, 4]."""
        logits: torch.Tensor = self.head(self.act(self.norm(self.conv(x))).mean((2, 3)))
        return logits


@pytest.mark.parametrize("reduce", ["l2", "max"])
def test_dead_filters_rank_last_whatever_the_order_of_the_data(reduce: str) -> None:
    responses, found = heard_of(SomeDead(), sorted_data(), top=8, reduce=reduce)
    (each,) = found.values()
    # a naive ranking takes the first images, which are all of one class
    naive = entropy(class_shares(ranked(each.strongest.ids[1].tolist()), responses.labels, 4))
    assert float(naive) == 0.0
    assert each.rfc_entropy[1:].tolist() == [2.0, 2.0]
    assert each.importance[1:].tolist() == [0.0, 0.0]


def test_images_without_response_are_shared_out() -> None:
    labels = torch.arange(40) // 10
    shares = class_shares(ranked([0, 1, 2, 3], [3.0, 2.0, 0.0, 0.0]), labels, 4)
    assert shares[0].tolist() == [0.625, 0.125, 0.125, 0.125]


def test_planted_filters() -> None:
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(4, 5, 5, generator=generator).sign()
    others = torch.randn(4, 5, 5, generator=generator).sign()
    labels = torch.randint(0, 4, (2000,), generator=generator)
    images = torch.randn(2000, 1, 16, 16, generator=generator) * 0.5
    indices = torch.randint(0, 12, (2000, 2), generator=generator)
    for image, label, (row, column) in zip(images, labels, indices, strict=True):
        image[0, row : row + 5, column : column + 5] += patterns[label]
    conv = nn.Conv2d(1, 9, 5, bias=False)
    conv.weight.data = torch.cat([patterns, others, torch.zeros(1, 5, 5)]).unsqueeze(1) / 25
    model = nn.Sequential(
        conv, nn.BatchNorm2d(9, eps=1e-5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 4)
    )
    # what noise alone reaches lies below zero
    model[1].running_mean.fill_(0.35)
    _, found = heard_of(model, list(zip(images.split(256), labels.split(256), strict=True)), top=100)
    (each,) = found.values()
    bits = each.rfc_entropy.tolist()
    assert max(bits[:4]) < 0.05
    assert max(bits[:4]) < min(bits[4:])
    assert bits[8] == max(bits) == 2.0


class TwoBlocks(nn.Module):
    """A stream that two layers write into."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, 4]."""
        stream = self.stem(x)
        logits: torch.Tensor = self.head((stream + self.block(stream)).relu().mean((2, 3)))
        return logits


def test_a_group_scores_the_mean_of_its_members() -> None:
    torch.manual_seed(0)
    model, task = TwoBlocks().eval(), ToyTask()
    graph = trace(model, task.example())
    criterion = FeatureDiscrimination(responses=ResponseSettings(top=8), normalize="none")
    responses = collect_responses(model, graph, task.batches("calibration"), task, criterion.responses)
    found = {layer_output.weight: each for (layer_output, _), each in criterion.discriminate(responses).items()}
    assert set(found) == {"stem.weight", "block.weight"}
    mean = (found["stem.weight"].importance + found["block.weight"].importance) / 2
    (score,) = criterion.scores(model, graph, responses).values()
    torch.testing.assert_close(score, mean, rtol=0, atol=1e-8)
    low = torch.minimum(found["stem.weight"].importance, found["block.weight"].importance)
    high = torch.maximum(found["stem.weight"].importance, found["block.weight"].importance)
    assert bool(((low - 1e-8 <= score) & (score <= high + 1e-8)).all())


def test_scores_go_along_with_channels_that_change_places() -> None:
    task, model = ToyTask(), toy_cnn()
    graph = trace(model, task.example())
    criterion = FeatureDiscrimination(responses=ResponseSettings(top=8), normalize="none")
    before = criterion.score(model, graph, task.batches("calibration"), task)["first.0"]
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    first = model.get_submodule("first")
    state = {name: value[order] if value.ndim else value for name, value in first.state_dict().items()}
    first.load_state_dict(state)
    second = model.get_parameter("second.0.weight")
    second.data = second.data[:, order]
    after = criterion.score(model, graph, task.batches("calibration"), task)["first.0"]
    torch.testing.assert_close(after, before[order], rtol=0, atol=1e-8)


def test_the_suite() -> None:
    check_criterion(FeatureDiscrimination(responses=ResponseSettings(top=0.25)))
    check_criterion(
        FeatureDiscrimination(
            responses=ResponseSettings(top=8, reduce="max"),
            histogram="responses",
            measure="peak",
            balanced=True,
        )
    )


def test_any_batch_size_gives_the_same_scores() -> None:
    model = toy_cnn()
    graph = trace(model, ToyTask().example())
    criterion = FeatureDiscrimination(responses=ResponseSettings(top=12))
    scores = [criterion.score(model, graph, ToyTask(batch=size).batches("calibration"), ToyTask()) for size in (16, 8)]
    for name, score in scores[0].items():
        torch.testing.assert_close(scores[1][name], score, rtol=0, atol=1e-7)


def test_ties_are_broken_by_margin_then_by_size_then_by_place() -> None:
    score = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.9], dtype=torch.float64)
    broken = broken_ties(score, torch.tensor([1.0, 2, 1, 1, 0]).numpy(), torch.tensor([1.0, 1, 3, 1, 0]).numpy())
    assert broken.argsort(descending=True).tolist() == [4, 1, 2, 0, 3]
    torch.testing.assert_close(broken, score, rtol=0, atol=1e-9)


def test_several_labels_share_an_image() -> None:
    labels = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    assert class_shares(ranked([0, 1]), labels, 3)[0].tolist() == [0.25, 0.25, 0.5]
    images = torch.rand(6, 1, 2, 2)
    several = torch.tensor([[1, 1, 0], [0, 0, 1], [1, 0, 0]] * 2)
    responses, _ = heard_of(TwoFilters(), [(images, several)], top=2)
    assert responses.labels[:2].tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]


class Segmenting(nn.Module):
    """A class for every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 3, 1)
        self.conv.weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
        self.conv.bias.data = torch.tensor([0.0, 1.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, 3, H, W]."""
        logits: torch.Tensor = self.head(self.act(self.conv(x)))
        return logits


def test_labels_at_pixels_are_taken_where_the_response_is_largest() -> None:
    images = torch.full((4, 1, 4, 4), 0.5)
    labels = torch.full((4, 4, 4), 2)
    for index in range(4):
        images[index, 0, index, 1] = 5.0  # what filter 0 looks for
        labels[index, index, 1] = 1
        images[index, 0, index, 2] = 0.0  # what filter 1 looks for
        labels[index, index, 2] = index % 2 * 2
    responses, found = heard_of(Segmenting(), [(images, labels)], top=4, reduce="max")
    (each,) = found.values()
    assert each.strongest.labels.tolist() == [[1, 1, 1, 1], [0, 2, 0, 2]]
    # it is 5 in all images, and so it is dead by the rule; one that differs is not
    assert responses.labels.tolist() == [-1] * 4
    with pytest.raises(DataError, match="'max'"):
        heard_of(Segmenting(), [(images, labels)], top=4)


def test_positions_of_a_coarse_map_on_a_fine_one() -> None:
    labels = torch.arange(16).view(1, 4, 4)
    found = at_positions(labels, torch.tensor([[0, 1, 2, 3]]), (2, 2))
    assert found.tolist() == [[5, 7, 13, 15]]


def test_predictions_take_the_place_of_labels_where_they_are_asked_for() -> None:
    model = TwoFilters().eval()
    images = torch.randn(40, 1, 2, 2, generator=torch.Generator().manual_seed(3)) * 3
    with pytest.raises(DataError, match="ask for them"):
        heard_of(model, [(images,)], top=4)
    model.head.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    responses, _ = heard_of(model, [(images,)], top=4, labels="predicted")
    with torch.no_grad():
        assert torch.equal(responses.labels, model(images).argmax(1))


@pytest.mark.parametrize(
    ("batches", "how", "says"),
    [
        ([(SIX, SIX_LABELS)], {"top": 7}, "strongest 7 .* there are 6 images"),
        ([(SIX, SIX_LABELS * 0)], {"top": 2}, "same label"),
        ([(SIX, SIX_LABELS + 1)], {"top": 2}, "labels from 1 to 3, but the network gives 3"),
        ([(SIX, torch.zeros(6, 5))], {"top": 2}, "5 classes for each image, but the network gives 3"),
    ],
)
def test_bad_input_says_what_is_wrong(batches: list[Batch], how: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        heard_of(TwoFilters(), batches, **how)


def test_no_images() -> None:
    model = TwoFilters().eval()
    with pytest.raises(DataError, match="no scoring images"):
        collect_responses(model, trace(model, SIX[:1]), [], None, ResponseSettings())


def test_weights_that_are_not_finite() -> None:
    model = TwoFilters()
    model.conv.weight.data[0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        heard_of(model, [(SIX, SIX_LABELS)], top=2)
