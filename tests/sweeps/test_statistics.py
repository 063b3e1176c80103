"""Intervals of few runs, against tables and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edakari.sweeps.statistics import paired, spread_of, t_quantile

TABLE = {1: 12.70620, 2: 4.30265, 3: 3.18245, 4: 2.77645, 7: 2.36462, 10: 2.22814, 30: 2.04227, 120: 1.97993}


@pytest.mark.parametrize("degrees", TABLE)
def test_quantiles_of_students_t(degrees: int) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(TABLE[degrees], abs=1e-5)


def test_an_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(2000):
        noise = rng.normal(size=3)  # of the seed, which both settings share
        ours = dict(enumerate(1.0 + noise + rng.normal(scale=0.1, size=3)))
        found = paired(ours, dict(enumerate(noise)))
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered.append(found.low <= 1.0 <= found.high)
    assert abs(np.mean(covered) - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_only_common_seeds_are_compared() -> None:
    found = paired({0: 1.0, 1: 2.0, 5: 99.0}, {0: 0.5, 1: 1.0, 7: -99.0})
    assert found is not None
    assert (found.mean, found.count) == (0.75, 2)
    assert paired({0: 1.0}, {1: 1.0}) is None
    alone = paired({0: 1.0}, {0: 3.0})
    assert alone is not None
    assert (alone.mean, alone.low, alone.within_noise) == (-2.0, None, None)


def test_spread_is_that_of_a_sample() -> None:
    values = [0.1, 0.4, 0.35]
    found = spread_of(values)
    assert (found.mean, found.std) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    assert spread_of([1.0]).std is None
