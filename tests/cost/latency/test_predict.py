"""From a table to the latency of a network, and what solvers make of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from edakari.core.budget import Budget
from edakari.core.layout import Axis
from edakari.core.space import Group, legal_sizes, limited
from edakari.cost import bind
from edakari.errors import BudgetError, InfeasibleBudget, MeasurementError
from edakari.graph import trace
from edakari.latency import (
    Layer,
    chosen_sizes,
    correction,
    extended,
    fill,
    fit_latency,
    key_of,
    latency_cost,
    left_out,
    network_key,
    open_table,
    plan_measurement,
    random_sizes,
    wanted,
)  # fmt: skip
from edakari.latency.grid import knots_of
from edakari.latency.layer_times import LayerTimes, Part
from edakari.latency.predict import LatencyCost
from edakari.latency.surface import Surface
from edakari.latency.timing import RunSettings
from edakari.solve import Knapsack, Threshold, Uniform
from edakari.testing import check_cost, toy_cnn, toy_vit

SETTINGS = RunSettings()
CONV = Layer("convolution")


def filled(model, runtime, folder, step=8):
    graph = trace(model, torch.zeros(1, 3, 16, 16))
    groups = limited(graph.groups, round_to=step)
    table = open_table(key_of(runtime, SETTINGS), folder)
    missing = plan_measurement(wanted(graph, groups), table, runtime, SETTINGS).missing
    return graph, groups, fill(table, missing, runtime, SETTINGS)


def cost_of(surface, most):
    """The latency of one layer, whose groups have the largest widths and the names a, b."""
    widths = tuple(Axis(name, size) for name, size in zip("ab", most, strict=False))
    return LatencyCost(LayerTimes([Part(CONV, widths, surface, 1)]))


def at(surface, widths):
    return [surface.at(width) for width in widths]


def staircase(widths, block):
    return np.prod([-(-np.asarray(width) // block) * block for width in widths], axis=0).astype(float)


@pytest.mark.parametrize("block", [1, 4, 8, 16])
def test_steps_are_met_exactly_between_knots(block):
    knots = [knots_of(CONV, axis, range(8, 513, 8)) for axis in ("in", "out")]
    surface = Surface(knots, staircase(np.meshgrid(*knots, indexing="ij"), block), (True, True))
    cost = cost_of(surface, (512, 512))
    for pair in itertools.product(range(8, 513, 40), range(8, 513, 56)):
        expected = pytest.approx(staircase(pair, block), rel=1e-12)
        assert surface.at(*pair) == expected
        assert cost.total(dict(zip("ab", pair, strict=True))) == expected


def test_a_width_that_was_not_timed_counts_as_the_next_that_was():
    surface = Surface([(8, 16, 24, 32, 40, 48, 100)], np.array([2.0, 3.0, 6.0, 4.0, 7.0, 5.0, 9.0]), (True,))
    assert at(surface, [8, 16, 24, 9, 17, 41, 49, 99, 100]) == [2.0, 3.0, 6.0, 3.0, 4.0, 5.0, 9.0, 9.0, 9.0]


def test_the_cost_of_a_width_is_that_of_the_quickest_wider_one():
    def time(width):
        return width * (1.7 if width % 16 else 1.0)

    knots = knots_of(CONV, "in", range(1, 251))
    surface = Surface([knots], np.array([time(width) for width in knots]), (True,))
    every = np.arange(0, 251)
    exact, least = np.array(at(surface, every)), cost_of(surface, [250]).curve(Group("a", "channel", 250), {})
    assert exact[56] > exact[64]
    assert np.allclose(least, np.minimum.accumulate(exact[::-1])[::-1])


def test_noise_within_a_lane_is_smoothed_and_steps_stay():
    knots = (16, 32, 48, 64)
    surface = Surface([knots], np.array([1.0, 2.0, 1.9, 4.0]), (True,))
    assert at(surface, [16, 32, 48, 64]) == [1.0, 2.0, 2.0, 4.0]


@pytest.mark.parametrize("build", [toy_cnn, toy_vit])
@pytest.mark.parametrize("step", [1, 8])
def test_it_is_a_cost(build, step, fake, tmp_path):
    graph, groups, table = filled(build(), fake, tmp_path, step)
    cost = latency_cost(graph, table, groups)
    check_cost(cost, groups)
    assert (cost.name, cost.unit) == ("latency", "ms")


@pytest.mark.parametrize("build", [toy_cnn, toy_vit])
def test_the_formula_is_found(build, fake, tmp_path):
    graph, groups, table = filled(build(), fake, tmp_path)
    cost = latency_cost(graph, table, groups)
    for sizes in ({}, *random_sizes(groups, 20)):
        assert cost.predict(sizes) == pytest.approx(fake.latency(graph, sizes), rel=0.02)
    assert cost.total({}) == pytest.approx(fake.latency(graph, {}), rel=1e-6)


def test_a_calibration_finds_constant_scale_and_error(noisy, tmp_path):
    graph, groups, table = filled(toy_cnn(), noisy, tmp_path)
    cost = latency_cost(graph, table, groups)
    sizes = random_sizes(groups, 20)
    rng = np.random.default_rng(1)
    truth = np.array([cost.predict(each) - cost.constant for each in sizes])
    measured = (0.7 + 1.3 * truth) * (1 + rng.normal(0, 0.002, 20))
    fit = fit_latency(cost, sizes, measured)
    assert fit.constant_ms == pytest.approx(0.7, abs=0.05)
    assert fit.scale == pytest.approx(1.3, rel=0.1)
    assert fit.median_error < 0.005
    assert fit.rank_correlation > 0.9
    predicted = left_out(cost, sizes, measured)
    errors = np.abs(predicted / measured - 1)
    assert (fit.median_error, fit.worst_error) == pytest.approx((np.median(errors), errors.max()))
    table = extended(table, {}, {network_key(graph): fit})
    again = latency_cost(graph, open_table(table.key, tmp_path), groups)
    assert again.predict(sizes[3]) == pytest.approx(measured[3], rel=0.02)


def test_a_calibration_finds_the_time_of_reading_weights(fake, tmp_path):
    graph, groups, table = filled(toy_cnn(), fake, tmp_path)
    cost = latency_cost(graph, table, groups)
    sizes = [{}, *random_sizes(groups, 10), *chosen_sizes(groups, cost, 10)]
    layers = np.array([cost.predict(each) - cost.constant for each in sizes])
    weights = np.array([cost.weights(each) for each in sizes])
    assert weights[0] == pytest.approx(sum(value.numel() for value in toy_cnn().parameters() if value.ndim > 1) / 1e6)
    per_million = 0.5 * layers[0] / weights[0]
    truth = 0.1 * layers[0] + layers + per_million * weights
    fit = fit_latency(cost, sizes, truth)
    assert fit.weights_ms > 0.3 * per_million  # wider layers take longer, too: the belief divides what either explains
    assert fit.median_error < 0.02
    fitted = latency_cost(graph, extended(table, {}, {network_key(graph): fit}), groups)
    check_cost(fitted, groups)
    for each, time in zip(sizes, truth, strict=True):
        assert fitted.predict(each) == pytest.approx(time, rel=0.05)
        known = fit.constant_ms + fit.scale * (cost.predict(each) - cost.constant) + fit.weights_ms * cost.weights(each)
        assert fitted.predict(each) == pytest.approx(known, rel=0.01)
    faster = fit_latency(cost, sizes, layers[0] + layers - 0.3 * layers[0] / weights[0] * weights)
    assert faster.weights_ms == 0


def test_chosen_sizes_are_legal_and_spend_their_part_of_the_latency(fake, tmp_path):
    graph, groups, table = filled(toy_cnn(), fake, tmp_path)
    cost = latency_cost(graph, table, groups)
    found = chosen_sizes(groups, cost, 8)
    assert found == chosen_sizes(groups, cost, 8)
    assert found != chosen_sizes(groups, cost, 8, seed=1)
    assert all(size in legal_sizes(graph_group) for sizes in found for graph_group in groups
               for size in [sizes.get(graph_group.name, graph_group.size)])  # fmt: skip
    least, most = cost.total({group.name: min(legal_sizes(group)) for group in groups}), cost.total({})
    assert cost.total(found[-1]) > (least + most) / 2
    for part, sizes in enumerate(found, 1):
        assert cost.total(sizes) <= (least + (most - least) * part / 9) * (1 + 1e-9)


def test_a_bad_prediction_is_told_as_one(fake, tmp_path):
    graph, groups, table = filled(toy_cnn(), fake, tmp_path)
    cost = latency_cost(graph, table, groups)
    sizes = random_sizes(groups, 20)
    fit = fit_latency(cost, sizes, np.random.default_rng(0).uniform(1, 9, 20))
    assert fit.median_error > 0.2
    assert abs(fit.rank_correlation) < 0.9


def test_too_few_networks_calibrate_nothing(fake, tmp_path):
    graph, groups, table = filled(toy_cnn(), fake, tmp_path)
    with pytest.raises(MeasurementError, match="at least 4"):
        fit_latency(latency_cost(graph, table, groups), [{}, {}], [1.0, 2.0])


def test_random_sizes_are_legal_and_span_small_to_large(fake, tmp_path):
    _, groups, _ = filled(toy_cnn(), fake, tmp_path)
    found = random_sizes(groups, 10)
    assert found == random_sizes(groups, 10)
    assert found != random_sizes(groups, 10, seed=1)
    assert all(sizes[group.name] in legal_sizes(group) for sizes in found for group in groups)
    shares = [sum(sizes.values()) / sum(group.size for group in groups) for sizes in found]
    assert min(shares) < 0.5
    assert max(shares) > 0.8


def test_missing_points_are_told(fake, tmp_path):
    graph = trace(toy_cnn(), torch.zeros(1, 3, 16, 16))
    with pytest.raises(MeasurementError, match=r"lacks \d+ points of the layer convolution"):
        latency_cost(graph, open_table(key_of(fake, SETTINGS), tmp_path))


@pytest.mark.parametrize("allocator", [Uniform(), Threshold(), Knapsack()])
@pytest.mark.parametrize("budget", ["latency<=70%", "latency<=0.5ms", "latency<=80%, macs<=60%"])
def test_allocators_spend_a_latency(allocator, budget, fake, tmp_path):
    graph, groups, table = filled(toy_cnn(), fake, tmp_path, step=4)
    cost = latency_cost(graph, table, groups)
    limits = bind(Budget.parse(budget), graph, [cost])
    rng = np.random.default_rng(0)
    values = {g.name: np.concatenate([[0], np.cumsum(np.sort(rng.random(g.size))[::-1])]) for g in groups}
    sizes = allocator.allocate(groups, values, limits)
    assert limits.excess(sizes) <= 0
    assert limits.excess(sizes) > -0.1
    assert fake.latency(graph, sizes) < fake.latency(graph, {})


class FromTheStart:
    """A latency that is computed from all layers for every question."""

    def __init__(self, cost: LatencyCost) -> None:
        self.cost, self.name, self.unit = cost, cost.name, cost.unit
        self.total = cost.total

    def curve(self, group, sizes):
        return np.array([self.total({**sizes, group.name: size}) for size in range(group.size + 1)])


@pytest.mark.parametrize("allocator", [Threshold(), Knapsack()])
@pytest.mark.parametrize("budget", ["latency<=70%", "latency<=80%, params<=60%"])
def test_allocators_find_the_sizes_that_a_latency_from_the_start_gives(allocator, budget, fake, tmp_path):
    graph, groups, table = filled(toy_vit(), fake, tmp_path, step=4)
    cost = latency_cost(graph, table, groups)
    rng = np.random.default_rng(0)
    values = {g.name: np.concatenate([[0], np.cumsum(np.sort(rng.random(g.size))[::-1])]) for g in groups}
    quick, slow = (bind(Budget.parse(budget), graph, [each]) for each in (cost, FromTheStart(cost)))
    assert allocator.allocate(groups, values, quick) == allocator.allocate(groups, values, slow)


def test_a_latency_that_cannot_be_reached(fake, tmp_path):
    graph, groups, table = filled(toy_cnn(), fake, tmp_path)
    cost = latency_cost(graph, table, groups)
    values = {group.name: np.arange(group.size + 1.0) for group in groups}
    with pytest.raises(InfeasibleBudget) as caught:
        Knapsack().allocate(groups, values, bind(Budget.parse("latency<=1us"), graph, [cost]))
    assert caught.value.least["latency"] > 0.3


def test_a_latency_without_a_table_is_told():
    graph = trace(toy_cnn(), torch.zeros(1, 3, 16, 16))
    for budget in ("latency<=12ms", "macs<=50%, latency<=60%"):
        with pytest.raises(BudgetError, match=r"edakari\.measure_latency"):
            bind(Budget.parse(budget), graph)


def test_a_measurement_corrects_the_cost_and_the_target(fake, tmp_path):
    graph, groups, table = filled(toy_cnn(), fake, tmp_path)
    cost = latency_cost(graph, table, groups)
    sizes = random_sizes(groups, 4)[0]
    measured = cost.total(sizes) * 1.25
    assert cost.corrected(sizes, measured).total(sizes) == pytest.approx(measured)
    assert correction(cost.total(sizes), measured) == pytest.approx(0.8)


def test_totals_never_fall_along_any_way_up(fake, tmp_path):
    graph, groups, table = filled(toy_cnn(), fake, tmp_path, step=1)
    cost = latency_cost(graph, table, groups)
    rng = np.random.default_rng(0)
    for _ in range(30):
        sizes = {group.name: int(rng.integers(1, group.size + 1)) for group in groups}
        larger = {group.name: int(rng.integers(sizes[group.name], group.size + 1)) for group in groups}
        assert cost.total(larger) >= cost.total(sizes) - 1e-12
