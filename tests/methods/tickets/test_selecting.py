"""Selection of masked weights by score: exact counts under ties, scopes, and what cannot be reached."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from edakari.errors import InfeasibleBudget, ModelError
from edakari.methods.tickets.selecting import select


def magnitudes(*shapes: tuple[int, ...], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"w{i}": torch.randn(shape, generator=generator).abs() for i, shape in enumerate(shapes)}


def tied(seed: int = 0) -> dict[str, torch.Tensor]:
    """Scores of which half are equal."""
    found = magnitudes((6, 4, 3, 3), (5, 6), (7, 5), seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    return {
        name: each.masked_fill(torch.rand(each.shape, generator=generator) < 0.5, 0.3) for name, each in found.items()
    }


def masked(masks: dict[str, torch.Tensor]) -> int:
    return sum(int((~mask).sum()) for mask in masks.values())


def test_the_papers_example() -> None:
    weights = torch.tensor([0.5, -0.1, 0.3, 0.05, -0.7, 0.2, -0.4, 0.6, -0.02, 0.15])
    found = select({"w": weights.abs()}, 0.3)["w"]
    assert found.int().tolist() == [1, 0, 1, 0, 1, 1, 1, 1, 0, 1]


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.3, 0.5, 0.77, 0.95, 0.999])
@pytest.mark.parametrize("scope", ["global", "per_layer"])
def test_exactly_so_many_weights_are_masked_under_ties(fraction: float, scope: str) -> None:
    for seed in range(3):
        scores = tied(seed)
        total = sum(each.numel() for each in scores.values())
        assert masked(select(scores, fraction, scope)) == int(fraction * total)  # type: ignore[arg-type]


def test_a_stable_sort_chooses_the_same() -> None:
    for seed in range(5):
        scores = tied(seed)
        row = torch.cat([each.flatten() for each in scores.values()])
        for fraction in (0.2, 0.5, 0.8):
            kept = torch.ones(len(row), dtype=torch.bool)
            kept[row.sort(stable=True).indices[: int(fraction * len(row))]] = False
            found = torch.cat([each.flatten() for each in select(scores, fraction).values()])
            assert torch.equal(found, kept)


def test_more_masks_contain_the_fewer() -> None:
    scores = tied()
    for scope in ("global", "per_layer"):
        fewer, more = (select(scores, fraction, scope) for fraction in (0.4, 0.6))
        assert all(not bool((more[name] & ~fewer[name]).any()) for name in scores)


def test_per_layer_masks_the_same_fraction_of_each_layer() -> None:
    scores = tied()
    for mask in select(scores, 0.55, "per_layer").values():
        lost, wanted = int((~mask).sum()), Fraction("0.55") * mask.numel()
        assert int(wanted) <= lost <= int(wanted) + 1


def test_per_layer_leaves_the_last_weight_of_a_small_layer() -> None:
    scores = {"large": torch.rand(1000), "other": torch.rand(1000), "small": torch.rand(3), "tiny": torch.rand(1)}
    found = select(scores, 0.95, "per_layer")
    assert masked(found) == int(0.95 * 2004)
    assert bool(found["tiny"].any())
    assert bool(found["small"].any())


def test_excluded_layers_count_but_stay() -> None:
    scores = magnitudes((10, 10), (5, 10))
    for scope in ("global", "per_layer"):
        found = select(scores, 0.6, scope, excluded=["w1"])
        assert bool(found["w1"].all())
        assert masked(found) == 90


def test_a_fraction_that_excluded_layers_do_not_allow_is_an_error() -> None:
    with pytest.raises(
        InfeasibleBudget, match=r"masks 105 of 150 weights, but 50 of them .*w1.* at most 0\.6666"
    ) as info:
        select(magnitudes((10, 10), (5, 10)), 0.7, excluded=["w1"])
    assert info.value.least == {"sparsity": pytest.approx(2 / 3)}


def test_scores_that_are_not_numbers_are_named() -> None:
    scores = magnitudes((4, 4), (3, 3))
    scores["w1"][0, 0] = torch.nan
    with pytest.raises(ModelError, match="'w1'"):
        select(scores, 0.5)


def test_a_network_without_weights_to_mask_is_an_error() -> None:
    with pytest.raises(ModelError, match="no weight to mask"):
        select({}, 0.5)
