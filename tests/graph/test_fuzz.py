"""Random networks: whatever a network is made of, it is cut exactly.

`EDAKARI_NETWORKS=3000 python -m pytest tests/graph/test_fuzz.py -m slow` runs as many as one likes. What fails is
printed as a program; a test in `test_regressions.py` keeps it.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings

from edakari.errors import EdakariError
from edakari.graph.axis_tracer import Call
from edakari.graph.rules import RULES
from tests.graph.fuzz.checks import check
from tests.graph.fuzz.kinds import KINDS
from tests.graph.fuzz.networks import Program, grow, networks, program, shrunk, step

FEW, MANY = 60, int(os.environ.get("EDAKARI_NETWORKS", "10000"))
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=FEW, derandomize=True, database=None, suppress_health_check=SLOW)
@given(networks(most=8))
def test_random_networks_are_cut_exactly(network: Program):
    check(network)


@pytest.mark.slow
@settings(max_examples=MANY, derandomize=False, suppress_health_check=SLOW)
@given(networks(most=12))
def test_many_random_networks_are_cut_exactly(network: Program):
    check(network)


def test_random_networks_hold_every_kind_of_step():
    found = Counter(each.kind for seed in range(400) for each in grow(random.Random(seed).choice).steps)
    assert set(found) == set(KINDS)


def test_nearly_every_random_network_has_something_to_cut():
    cuttable = [bool(check(grow(random.Random(seed).choice, most=6)).groups) for seed in range(20)]
    assert sum(cuttable) >= 18


def test_a_program_prints_as_python_that_makes_it_again():
    for seed in range(5):
        network = grow(random.Random(seed).choice)
        assert eval(repr(network), {"program": program, "step": step}) == network


GATED = program(
    step("conv", 0, width=4, kernel=3, stride=1, groups=1, bias=True, normed=False),
    step("activation", 1, name="relu"),
    step("conv", 2, width=6, kernel=1, stride=1, groups=1, bias=True, normed=False),
    step("concat", 1, 3),
    step("softmax", 4, dim=1, log=False),
    step("conv", 5, width=4, kernel=1, stride=1, groups=1, bias=True, normed=False),
    pixels=4,
)


def fails(network: Program) -> bool:
    try:
        check(network)
    except (AssertionError, EdakariError):
        return True
    return False


def test_a_wrong_rule_is_found(monkeypatch):
    assert not fails(GATED)
    right = RULES["aten.cat"]
    monkeypatch.setitem(
        RULES, "aten.cat", lambda flow, call: right(flow, Call(call.name, (call.args[0][::-1], 1), {}, call.out))
    )
    assert fails(GATED)
    assert [each.kind for each in shrunk(GATED, fails).steps] == ["conv", "conv", "concat"]
