"""Costs by numbers of tokens: the multiply-accumulates of DeiT to the digit, and schedules from a table."""

from __future__ import annotations

import time

import numpy as np
import pytest
import timm
import torch

import edakari
from edakari.core.budget import Limits
from edakari.core.plan import KeepTokens, Plan
from edakari.cost import macs
from edakari.errors import InfeasibleBudget
from edakari.methods.tokens.counts import mildest
from edakari.surgery.tokens import TokenSite, TokenSites, attach, token_sites
from edakari.surgery.tokens.costs import TokenCost, block_macs, interpolated, tokens_at
from edakari.surgery.tokens.design import geometric, linear
from edakari.surgery.tokens.gate import GATE
from edakari.surgery.tokens.graphs import token_macs

BLOCKS = tuple(f"blocks.{index}" for index in range(12))
AT = [BLOCKS[index] for index in (3, 6, 9)]
COUNTS = (137, 96, 67)
DEIT_S = {"none": 2_819_833_344, "one": 2_837_161_728, "each": 2_854_185_984}


@pytest.mark.parametrize(
    ("name", "packages", "wanted", "dense"),
    [
        *(("deit_small_patch16_224", packages, wanted, 4_540_695_552) for packages, wanted in DEIT_S.items()),
        ("deit_tiny_patch16_224", "none", 746_364_672, 1_224_589_824),
    ],
)
def test_deit_to_the_digit(name: str, packages: str, wanted: int, dense: int) -> None:
    with torch.device("meta"):
        model = edakari.build(f"timm:{name}")
    graph = edakari.trace(model, torch.zeros(1, 3, 224, 224, device="meta"))
    example = torch.zeros(1, 3, 224, 224, device="meta")
    cost = token_macs(model, example, token_sites(model, example), packages)
    assert float(cost.table[:, 196].sum()) == dense
    sizes = {tokens_at(block): count for block, count in zip(AT, COUNTS, strict=True)}
    assert cost.total(sizes) - cost.rest == wanted
    assert cost.total({}) == macs(graph).total({})
    settings = (("package", {"none": "none", "one": "merge", "each": "append"}[packages]),)
    edits = tuple(KeepTokens(block, count, "spvit", settings) for block, count in zip(AT, COUNTS, strict=True))
    small = edakari.apply(model, Plan(edits, graph.fingerprint, graph.inputs))
    blocks, selectors, rest = block_macs(edakari.trace(small, torch.zeros(1, 3, 224, 224, device="meta")), BLOCKS, GATE)
    assert (blocks.sum(), rest) == (wanted, cost.rest)
    assert 0 < selectors < 0.01 * dense


def formula(lat: np.ndarray) -> TokenCost:
    return TokenCost("latency", "ms", BLOCKS, 20, "none", np.tile(lat, (12, 1)), 0.0)


def schedule(strength: float) -> tuple[int, ...]:
    return tuple(round(20 * (1 - strength) ** (index + 1)) for index in range(3))


def test_schedule_from_a_table() -> None:
    # Lat(rho) = 2 + 8 rho ms; shares of 20 000 tokens, so that rounding does not show
    patches = 20_000
    cost = TokenCost(
        "latency", "ms", BLOCKS, patches, "none", np.tile(2 + 8 * np.arange(patches + 1) / patches, (12, 1)), 0.0
    )

    def shares(strength: float) -> tuple[int, ...]:
        return geometric(strength, patches, 3)

    counts = mildest(Limits(((cost, 90.0),)), shares, AT, steps=20)
    assert counts == geometric(0.25, patches, 3)
    sizes = {tokens_at(block): count for block, count in zip(AT, counts, strict=True)}
    assert cost.total({}) == pytest.approx(120.0)
    assert cost.total(sizes) == pytest.approx(89.625, abs=2e-3)
    milder = {tokens_at(block): count for block, count in zip(AT, geometric(0.2, patches, 3), strict=True)}
    assert cost.total(milder) == pytest.approx(94.848, abs=2e-3)


def test_a_table_that_does_not_rise_is_looked_up_as_it_is() -> None:
    lat = 2 + 8 * np.arange(21) / 20
    lat[14:17] += 6.0  # a step that is dearer than more tokens
    cost = formula(lat)
    counts = mildest(Limits(((cost, 100.0),)), schedule, AT)
    sizes = {tokens_at(block): count for block, count in zip(AT, counts, strict=True)}
    assert cost.total(sizes) <= 100.0


def test_what_cannot_be_reached_says_the_least() -> None:
    cost = formula(2 + 8 * np.arange(21) / 20)
    with pytest.raises(InfeasibleBudget, match="fewest tokens at these blocks reach latency") as raised:
        mildest(Limits(((cost, 20.0),)), schedule, AT)
    assert raised.value.least["latency"] == pytest.approx(3 * (10 + 4.4 + 2.8 + 2.4))


def test_a_token_cost_keeps_its_promises() -> None:
    cost = formula(2 + 8 * np.arange(21) / 20)
    group = edakari.core.space.Group(tokens_at(AT[0]), "token", 20)
    curve = cost.curve(group, {tokens_at(AT[1]): 7})
    assert curve[12] == cost.total({tokens_at(AT[0]): 12, tokens_at(AT[1]): 7})
    assert bool((np.diff(curve) >= 0).all())
    assert cost.corrected({}, 60.0).total({}) == pytest.approx(60.0)


def test_interpolation_goes_on_beyond_the_last_point() -> None:
    found = interpolated({2: np.array([4.0]), 4: np.array([8.0]), 5: np.array([9.0])}, 6)
    assert found[0].tolist() == [0.0, 2.0, 4.0, 6.0, 8.0, 9.0, 10.0]


def test_schedules() -> None:
    assert geometric(0.3, 196, 3) == (137, 96, 67)
    assert linear(13 / 98, 196, 11) == tuple(196 - 13 * index for index in range(1, 12))
    assert linear(0.99, 16, 2) == (8, 4)

    def quarters(depth: int) -> tuple[int, ...]:
        return TokenSites(tuple(TokenSite(f"blocks.{index}", 0, 1, (4, 4)) for index in range(depth))).quarters()

    assert [quarters(depth) for depth in (12, 16, 20, 2)] == [(3, 6, 9), (4, 8, 12), (5, 10, 15), (1,)]


@pytest.mark.slow
def test_a_network_of_fewer_tokens_is_faster_the_more_it_loses() -> None:
    """Spec, test 11: the time of one image falls with the fraction that each selector keeps."""
    x, seconds = torch.randn(1, 3, 224, 224), []
    for strength in (0.0, 0.3, 0.6):
        model = timm.create_model("deit_tiny_patch16_224").eval()
        counts = geometric(strength, 196, 3)
        edits = [KeepTokens(block, count, "spvit") for block, count in zip(AT, counts, strict=True) if count < 196]
        attach(model, edits, x)
        times = []
        for _ in range(7):
            started = time.process_time()  # not the time of others on this machine
            with torch.no_grad():
                model(x)
            times.append(time.process_time() - started)
        seconds.append(min(times))
    assert seconds[0] > 1.1 * seconds[1] > 1.21 * seconds[2], seconds
