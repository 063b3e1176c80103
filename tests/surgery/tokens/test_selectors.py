"""Selectors: verdicts of heads by hand, who sees what, and decisions that are drawn."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from edakari.surgery.tokens import sampled
from edakari.surgery.tokens.biases import key_bias
from edakari.surgery.tokens.selectors import (
    Candidates,
    MultiHeadSelector,
    Site,
    begin_at,
    bipartite,
    build_selector,
    merge_tokens,
    merged,
)

SITE = Site(width=12, heads=3, patches=8, index=2)


def seen(x: torch.Tensor, alive: torch.Tensor | None = None) -> Candidates:
    alive = torch.ones_like(x[..., 0]) if alive is None else alive
    index = torch.arange(x.shape[1]).expand(x.shape[0], -1)
    return Candidates(x, alive, x.shape[1], index, 1, None)


def lively(selector: MultiHeadSelector) -> MultiHeadSelector:
    for number, parameter in enumerate(selector.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)).double()
    return selector.double()


def odds_of(probabilities: list[float]) -> torch.Tensor:
    return torch.logit(torch.tensor(probabilities).double())[None, None]


def test_verdicts_of_heads_by_hand() -> None:
    odds, importance = odds_of([0.9, 0.2]), torch.tensor([[[0.75, 0.25]]]).double()
    score, weight = merged(odds, importance, "geo")
    assert float(weight) == pytest.approx(0.725)
    assert float(score) == pytest.approx(-0.48138 + 1.78272, abs=1e-5)
    assert float(torch.sigmoid(score)) == pytest.approx(0.78606, abs=1e-5)
    score, weight = merged(odds, importance, "arith")
    assert float(torch.sigmoid(score)) == pytest.approx(0.725)
    again, _ = merged(odds, 3.7 * importance, "geo")
    torch.testing.assert_close(again, merged(odds, importance, "geo")[0])


def test_the_two_ways_to_merge_can_disagree() -> None:
    odds, importance = odds_of([0.9, 0.9, 0.001]), torch.ones(1, 1, 3).double()
    assert float(torch.sigmoid(merged(odds, importance, "arith")[0])) == pytest.approx(0.6003, abs=1e-4)
    assert float(torch.sigmoid(merged(odds, importance, "geo")[0])) == pytest.approx(0.3021, abs=1e-4)


def test_one_head_speaks_for_itself() -> None:
    score, weight = merged(odds_of([0.8]), torch.full((1, 1, 1), 0.3).double())
    assert float(weight) == pytest.approx(0.8)
    assert float(torch.sigmoid(score)) == pytest.approx(0.8)


@pytest.mark.parametrize("options", [{}, {"share_head_mlp": False}, {"features": "paper"}, {"head_branch": False}])
def test_pruned_tokens_are_not_seen_and_order_does_not_matter(options: dict) -> None:
    selector = lively(MultiHeadSelector(SITE, **options))
    x = torch.randn(2, 8, 12, generator=torch.Generator().manual_seed(0)).double()
    alive = torch.ones(2, 8).double()
    alive[:, 2] = 0
    other = x.clone()
    other[:, 2] += 5.0
    before, after = selector(seen(x, alive)).score, selector(seen(other, alive)).score
    rest = [0, 1, 3, 4, 5, 6, 7]
    assert torch.equal(before[:, rest], after[:, rest])
    visible = selector(seen(other)).score
    assert not torch.allclose(visible[:, rest], before[:, rest])
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(selector(seen(x[:, order], alive[:, order])).score, before[:, order])


def test_no_living_token_gives_numbers() -> None:
    verdict = lively(MultiHeadSelector(SITE))(seen(torch.randn(1, 8, 12).double(), torch.zeros(1, 8).double()))
    assert bool(verdict.score.isfinite().all())


def test_importance_looks_at_means_of_each_heads_channels() -> None:
    selector = lively(MultiHeadSelector(SITE))
    x = torch.randn(1, 8, 12).double()
    means = torch.stack([x[..., first : first + 4].mean(-1) for first in (0, 4, 8)], -1)
    pooled = functional.adaptive_avg_pool1d(x[0], 3)[None]
    torch.testing.assert_close(means, pooled)
    assert selector.squeeze is not None
    assert selector.excite is not None
    wanted = torch.sigmoid(selector.excite(functional.gelu(selector.squeeze(means))))
    torch.testing.assert_close(selector.judged(x, torch.ones(1, 8).double())[1], wanted)


def test_parameters_of_a_deit_selector() -> None:
    for width, heads in ((192, 3), (384, 6), (768, 12)):
        selector = build_selector("spvit", Site(width, heads, 196, 3), {})
        assert 6_000 < sum(parameter.numel() for parameter in selector.parameters()) < 8_500


def test_drawn_decisions() -> None:
    torch.manual_seed(0)
    score = torch.full((200_000,), 1.0, requires_grad=True)
    drawn = sampled(score)
    assert set(drawn.detach().unique().tolist()) == {0.0, 1.0}
    assert float(drawn.detach().mean()) == pytest.approx(0.7311, abs=0.004)
    drawn.sum().backward()
    assert bool((score.grad > 0).all())


def test_additive_bias_has_the_gradient_of_the_masked_softmax() -> None:
    torch.manual_seed(0)
    logits, eps = torch.randn(2, 3, 7, 7).double(), 1e-6
    value = torch.randn(2, 3, 7, 4).double()
    mask = (torch.rand(2, 7) > 0.4).double()
    grads = []
    for additive in (True, False):
        alive = mask.clone().requires_grad_(True)
        if additive:
            weights = (logits + key_bias(alive, eps)).softmax(-1)
        else:
            e = (logits - logits.amax(-1, keepdim=True)).exp() * (alive[:, None, None] + eps)
            weights = e / e.sum(-1, keepdim=True)
        out = (weights @ value)[:, :, 0].pow(2).sum()
        grads.append(torch.autograd.grad(out, alive)[0])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=0)


def test_merging_by_hand() -> None:
    x = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]]])
    source, into = bipartite(x, torch.ones(1, 4), 1)
    assert (source.item(), into.item()) == (0, 1)
    merged_tokens, size = merge_tokens(x, torch.tensor([[1.0, 3.0, 1.0, 1.0]]), source, into)
    torch.testing.assert_close(merged_tokens[0, 1], torch.tensor([1.0, 0.075]))
    assert size[0, 1] == 4.0


@pytest.mark.parametrize("name", ["spvit", "dynamicvit"])
def test_untrained_scores_rank_by_unlikeness(name: str) -> None:
    x = torch.randn(64, 8, 12, generator=torch.Generator().manual_seed(0)).double()
    unit = functional.normalize(x, dim=-1)
    unlike = -(unit * functional.normalize(unit.mean(1, keepdim=True), dim=-1)).sum(-1)
    found = build_selector(name, SITE, {"start": "unlike"}).double()(seen(x)).score
    drawn = build_selector(name, SITE, {"start": "random"}).double()(seen(x)).score
    as_unlike, as_drawn = (rank_correlation(score, unlike) for score in (found, drawn))
    assert as_unlike > 0.99
    assert abs(as_drawn) < 0.5


def rank_correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    ranks = torch.stack([a.argsort(1).argsort(1), b.argsort(1).argsort(1)]).double() - (a.shape[1] - 1) / 2
    return float((ranks[0] * ranks[1]).sum() / ranks[0].square().sum())


@pytest.mark.parametrize(
    ("name", "options"), [("spvit", {}), ("spvit", {"share_head_mlp": False, "start": "random"}), ("dynamicvit", {})]
)
def test_scores_begin_at_a_fraction(name: str, options: dict) -> None:
    selector = build_selector(name, SITE, options).double()
    x = torch.randn(2, 8, 12, generator=torch.Generator().manual_seed(0)).double()
    before = selector(seen(x)).score
    begin_at(selector, 0.2)
    torch.testing.assert_close(selector(seen(x)).score, before + torch.logit(torch.tensor(0.2)).double())
    weights = {key: value.clone() for key, value in selector.state_dict().items()}
    begin_at(selector, 1.0)
    assert all(torch.equal(value, weights[key]) for key, value in selector.state_dict().items())


def test_scores_that_are_not_trained_stay() -> None:
    selector = build_selector("random", SITE, {})
    begin_at(selector, 0.2)
    assert not list(selector.parameters())
