"""Saliency masks: the closed form and its gradient, the map from free numbers, samples, and the explainer's forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edakari.models.explainer import Explainer
from edakari.models.saliency import Frame, FreeHead, RadialHead, random_masks, relaxed_sample

CIFAR, IMAGENET = Frame(32, 32), Frame(224, 224)


def radial(frame: Frame, row: float, column: float, width: float) -> torch.Tensor:
    return frame.radial(torch.tensor([[row, column]]), torch.tensor([width]))[0, 0]


def test_mask_has_the_closed_form() -> None:
    mask = radial(CIFAR, 16, 16, 5)
    assert float(mask[16, 16]) == 1.0
    assert float(mask[16, 21]) == pytest.approx(0.60653, abs=1e-5)
    half = radial(CIFAR, 16 - 0.887, 16, 5)  # 5.887 pixels above row 21
    assert float(half[21, 16]) == pytest.approx(0.5, abs=1e-4)
    assert bool(((mask >= 0) & (mask <= 1)).all())
    assert bool((mask[16, 16:].diff() < 0).all())
    assert bool((mask.diag()[16:].diff() < 0).all())
    assert torch.equal(mask[16, 17:], mask[16, 1:16].flip(0))


@given(st.lists(st.tuples(st.floats(2, 30), st.floats(2, 30), st.floats(1, 30)), min_size=1, max_size=4))
def test_a_batch_of_masks_is_a_loop_over_pixels(indices: list[tuple[float, float, float]]) -> None:
    frame = Frame(32, 24)
    masks = frame.radial(torch.tensor([index[:2] for index in indices]), torch.tensor([index[2] for index in indices]))
    for mask, (row, column, width) in zip(masks, indices, strict=True):
        for u, w in ((0, 0), (5, 23), (31, 7)):
            wanted = math.exp(-((u - row) ** 2 + (w - column) ** 2) / (2 * width**2))
            assert float(mask[0, u, w]) == pytest.approx(wanted, abs=1e-4)


def test_area_grows_with_the_width() -> None:
    """The exact gradient; one through a density divided by its detached maximum has the other sign."""
    width = torch.tensor([10.0], requires_grad=True)
    centre = torch.tensor([[16.0, 16.0]])
    CIFAR.radial(centre, width).mean().backward()
    assert width.grad is not None
    assert float(width.grad) == pytest.approx(0.0585, abs=1e-4)
    higher, lower = (float(CIFAR.radial(centre, torch.tensor([10 + step])).mean()) for step in (0.05, -0.05))
    assert float(width.grad) == pytest.approx((higher - lower) / 0.1, rel=1e-3)
    released = torch.tensor([10.0], requires_grad=True)
    density = CIFAR.radial(centre, released) / (2 * math.pi * released**2)
    (density / density.detach().max()).mean().backward()
    assert released.grad is not None
    assert float(released.grad) == pytest.approx(-0.0388, abs=1e-4)


@pytest.mark.parametrize(("frame", "low", "high"), [(CIFAR, 2, 30), (IMAGENET, 4, 220)])
def test_centres_stay_inside(frame: Frame, low: float, high: float) -> None:
    head = RadialHead(2, (4, 4), frame)
    centre, width = head.centre_and_width(torch.tensor([[0.0, 0.0, 10.0], [1e4, -1e4, 10.0], [-1e4, 1e4, -100.0]]))
    assert centre.tolist() == [[frame.height / 2] * 2, [high, low], [low, high]]
    assert float(width[0]) == pytest.approx(10.0000458, abs=1e-4)
    assert float(width[2]) > 0


def test_centre_at_20_by_hand() -> None:
    centre, _ = RadialHead(1, (2, 2), CIFAR).centre_and_width(torch.tensor([[20.0, 0.0, 5.0]]))
    assert float(centre[0, 0]) == pytest.approx(28.479, abs=1e-3)


@pytest.mark.parametrize(("frame", "wanted", "random"), [(CIFAR, 10, (5, 11)), (IMAGENET, 100, (80, 100))])
def test_first_masks_are_those_of_the_authors(frame: Frame, wanted: float, random: tuple[float, float]) -> None:
    head = RadialHead(3, (4, 4), frame)
    _, width = head.centre_and_width(head(torch.zeros(2, 3, 4, 4)))
    assert width.tolist() == pytest.approx([wanted] * 2, rel=1e-5)
    assert float(head.linear.bias[2].detach()) == pytest.approx(wanted, abs=1e-3)
    assert [frame.side * each for each in frame.random_widths] == pytest.approx(random)


@pytest.mark.parametrize("side", [32, 224, 287, 288, 512, 1024])
def test_heads_are_finite_and_can_learn_at_any_size(side: int) -> None:
    torch.manual_seed(0)
    head, features = RadialHead(3, (4, 4), Frame(side, side)), torch.rand(2, 3, 4, 4)
    raw = head(features)
    assert bool(raw.isfinite().all())
    assert bool(head.normalised(raw).isfinite().all())
    plain = RadialHead(3, (4, 4), Frame(side, side))
    _, width = plain.centre_and_width(plain(torch.zeros(2, 3, 4, 4)))
    assert width.tolist() == pytest.approx([(10 / 32 if side == 32 else 100 / 224) * side] * 2, rel=1e-5)
    head.mask(raw).mean().backward()
    gradient = head.linear.weight.grad
    assert gradient is not None
    assert bool(gradient.isfinite().all())
    assert bool((gradient.abs().sum(1) > 0).all())


def test_a_step_of_training_moves_a_mask_by_little_on_large_maps() -> None:
    """As it is trained, by AdamW at 0.001; the centre once flew into a corner, where the gradient is gone."""
    torch.manual_seed(0)
    head, features = RadialHead(16, (32, 32), CIFAR), torch.rand(8, 16, 32, 32)
    optimizer = torch.optim.AdamW(head.parameters(), 1e-3)
    before, _ = head.centre_and_width(head(features))
    for _ in range(3):
        optimizer.zero_grad()
        head.centre_and_width(head(features))[0].sum().backward()
        optimizer.step()
    after, _ = head.centre_and_width(head(features))
    assert 0.01 < float((after - before).detach().abs().max()) < 1.0


def test_a_free_mask_has_the_centre_and_width_of_the_radial_one_that_it_is() -> None:
    mask = radial(CIFAR, 14, 18, 3)
    centre, width = FreeHead(1, CIFAR).centre_and_width(torch.stack([mask, 1 - mask])[None])
    assert centre[0].tolist() == pytest.approx([14, 18], abs=1e-3)
    assert float(width) == pytest.approx(3, abs=1e-2)


def test_random_masks_are_of_their_family() -> None:
    torch.manual_seed(0)
    masks = random_masks(64, CIFAR, (0.16, 0.34), "rbf", torch.zeros(1))
    assert masks.shape == (64, 1, 32, 32)
    assert float(masks.amax((2, 3)).min()) > 0.97
    widths = (masks.sum((1, 2, 3)) / (2 * math.pi)).sqrt()
    assert 2 < float(widths.min()) < float(widths.max()) < 0.36 * 32
    assert bool((random_masks(2, CIFAR, (0.1, 0.2), "realx", torch.zeros(1)) == 0.5).all())


def test_samples_follow_their_probabilities_and_pass_gradients() -> None:
    torch.manual_seed(0)
    p = torch.full((20000,), 0.3, requires_grad=True)
    sample = relaxed_sample(p, 0.1)
    assert float((sample > 0.5).float().mean()) == pytest.approx(0.3, abs=0.015)
    assert float(((sample < 0.1) | (sample > 0.9)).float().mean()) > 0.75
    sample.sum().backward()
    assert p.grad is not None
    assert float(p.grad.mean()) > 0
    assert bool(relaxed_sample(torch.tensor([0.0, 1.0]), 1.0).isfinite().all())


def test_hard_samples_are_rounded_and_have_the_gradient_of_relaxed_ones() -> None:
    gradients, samples = [], []
    for hard in (False, True):
        torch.manual_seed(0)
        p = torch.linspace(0.1, 0.9, 50, requires_grad=True)
        samples.append(relaxed_sample(p, 1.0, hard))
        (samples[-1] * torch.arange(50)).sum().backward()
        gradients.append(p.grad)
    assert samples[1].tolist() == samples[0].round().tolist()
    assert 0 < float(samples[1].detach().mean()) < 1
    assert gradients[0] is not None
    assert torch.equal(gradients[0], gradients[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["rbf", "realx"])
@pytest.mark.parametrize("sizes", [[(4, 9, 7), (6, 5, 4), (8, 3, 2)], [(5, 40, 40)], [(3, 8, 8), (3, 8, 8)]])
def test_explainers_read_maps_of_any_sizes(family: str, sizes: list[tuple[int, int, int]]) -> None:
    frame = Frame(27, 21)
    explainer = Explainer(sizes, 3, frame, family).eval()  # type: ignore[arg-type]
    raw = explainer([torch.randn(2, *size) for size in sizes], torch.tensor([0, 2]))
    assert raw.shape == ((2, 3) if family == "rbf" else (2, 2, 27, 21))
    mask = explainer.mask(raw)
    assert mask.shape == (2, 1, 27, 21)
    assert bool(((mask >= 0) & (mask <= 1)).all())
    for matching in ("normalised", "raw", "shown"):
        shape = raw.shape if family == "rbf" or matching == "raw" else mask.shape
        assert explainer.compared(raw, matching).shape == shape  # type: ignore[arg-type]


def test_three_ways_to_compare_explanations_by_hand() -> None:
    explainer = Explainer([(4, 8, 8)], 3, CIFAR)
    raw = torch.tensor([[7.0, -14.0, 8.0]])
    assert explainer.compared(raw, "raw").tolist() == [[7.0, -14.0, 8.0]]
    assert explainer.compared(raw, "normalised")[0].tolist() == pytest.approx([0.5, -1.0, 0.5])
    row, column = 16 + 14 * math.tanh(0.5), 16 - 14 * math.tanh(1.0)
    shown = [row / 14, column / 14, math.log1p(math.exp(8.0)) / 16]
    assert explainer.compared(raw, "shown")[0].tolist() == pytest.approx(shown)


def test_explanations_depend_on_the_label() -> None:
    torch.manual_seed(0)
    explainer = Explainer([(4, 8, 8), (6, 4, 4)], 3, Frame(16, 16)).eval()
    maps = [torch.randn(1, 4, 8, 8), torch.randn(1, 6, 4, 4)]
    first, second = (explainer(maps, torch.tensor([label])) for label in (0, 1))
    assert not torch.equal(first, second)
