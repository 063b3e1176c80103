import json
import math

import numpy as np
import pytest

from edakari.errors import RunFolderError, SettingsError, UnknownName
from edakari.report import collect
from edakari.report.gate import Condition, figures_of, holding
from edakari.report.intervals import difference, wilson
from edakari.report.verdict import verdict
from tests.report.test_report import BUDGETED, make_run, timing


@pytest.mark.parametrize("count", [1, 20, 5000])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.93, 1.0])
def test_the_ends_of_wilsons_interval_are_the_fractions_that_the_score_test_just_accepts(fraction, count):
    low, high = wilson(fraction, count)
    assert 0 <= low <= fraction + 1e-12
    assert fraction - 1e-12 <= high <= 1
    for end in (low, high):
        expected = 1.959964 * math.sqrt(end * (1 - end) / count)
        assert abs(fraction - end) == pytest.approx(expected, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("cells", [(0.85, 0.06, 0.02, 0.07), (0.5, 0.1, 0.1, 0.3), (0.9, 0.02, 0.01, 0.07)])
def test_the_interval_of_a_paired_difference_holds_the_true_one_about_95_times_in_100(cells):
    count, rng = 500, np.random.default_rng(0)
    found = [difference(lost, gained, count) for _, lost, gained, _ in rng.multinomial(count, cells, size=4000)]
    true = cells[2] - cells[1]
    assert 0.935 < np.mean([low <= true <= high for low, high in found]) < 0.975


def run_with(tmp_path, *, budget="macs<=50%", limits=None, **changes):
    folder = make_run(tmp_path / "run")
    trace = json.loads((folder / "stages" / "trace.json").read_text())
    (folder / "stages" / "trace.json").write_text(json.dumps({**trace, "budget": budget}))
    (folder / "stages" / "latency.json").write_text(json.dumps({"limits": limits or {"macs": 12.35e6}}))
    return {**collect(folder), **changes}


@pytest.mark.parametrize(
    ("budget", "limits", "met", "texts"),
    [
        ("macs<=50%", {"macs": 12.35e6}, True, ["MACs 49.8 % of dense, asked for at most 50.0 % of dense"]),
        ("macs<=12.35M", {"macs": 12.35e6}, True, ["MACs 12.3 M, asked for at most 12.3 M"]),
        ("params<=300k", {"params": 300e3}, False, ["Budget missed: Parameters 301 k, asked for at most 300 k"]),
        (
            "macs<=50%, params<=40%",
            {"macs": 12.35e6, "params": 244.8e3},
            False,
            ["missed: Parameters 49.2 % of dense, asked for at most 40.0 % of dense; MACs 49.8 %"],
        ),
    ],
)
def test_the_first_line_says_in_the_unit_of_the_budget_whether_it_is_met(tmp_path, budget, limits, met, texts):
    found = verdict(run_with(tmp_path, budget=budget, limits=limits))
    assert found.met == met
    for text in texts:
        assert text in found.title


@pytest.mark.parametrize(("error", "met"), [(-0.04, True), (0.015, True), (0.03, False)])
@pytest.mark.parametrize(("budget", "text"), [("latency<=0.5ms", "0.5 ms"), ("latency<=50%", "50.0 % of dense")])
def test_a_latency_is_met_within_the_tolerance_of_the_closed_loop(tmp_path, budget, text, error, met):
    timed = {**BUDGETED, "dense": timing(1.0), "measured": timing(0.5 * (1 + error)), "relative_error": error}
    report = run_with(tmp_path, budget=budget, limits={"latency": 0.5}, latencies={"latency": timed})
    found = verdict(report)
    assert found.met == met
    assert f"asked for at most {text}" in found.title
    assert (found.speed.runtime, found.speed.ratio) == ("onnxruntime", pytest.approx(2 / (1 + error)))
    named = {"latency@cpu": timed, "latency@pi": {**timed, "runtime": "pi", "relative_error": 0.5}}
    both = verdict({**report, "budget": "latency@cpu<=0.5ms, latency@pi<=0.5ms", "latencies": named})
    assert not both.met
    assert "latency@pi in pi" in both.title


@pytest.mark.parametrize(("kept", "met"), [(10, True), (11, False)])
def test_a_sparsity_counts_masked_weights(tmp_path, kept, met):
    masked = {"kept": kept, "weights": 105, "params": 1, "macs": 1, "uniform_macs": 1}
    report = run_with(tmp_path, budget="sparsity>=91%", sparsity=0.91, masked=masked)
    assert verdict(report).met == met  # int(0.91 * 105) = 95 of 105


def test_the_metric_has_its_number_of_images_and_an_interval_where_one_applies(tmp_path):
    report = run_with(tmp_path)
    judged = verdict({**report, "answers": None}).judged
    assert judged.text == "Top-1 accuracy 93.10 % → 92.44 % (−0.66 points)"
    assert judged.interval == wilson(0.9244, 2000)
    assert "2,000 validation images" in judged.note
    outcomes = {"both": 1800, "only_dense": 60, "only_pruned": 47, "neither": 93}
    paired = verdict({**report, "answers": {"images": 2000, "outcomes": outcomes}}).judged
    assert paired.change == difference(60, 47, 2000)
    assert "on the same 2,000 validation images" in paired.note
    networks = [{**each, "metrics": {"map": 0.5}} for each in report["networks"]]
    other = verdict({**report, "metric": "map", "networks": networks}).judged
    assert other.interval is None
    assert "no interval" in other.note


def test_conditions_hold_on_their_side_of_every_figure(tmp_path):
    report = run_with(tmp_path)
    figures = figures_of(report)
    assert {"top1", "top1_drop", "loss", "macs", "size", "latency", "latency.torch", "speedup"} <= figures.keys()
    assert figures["top1_drop"].value == pytest.approx(0.66)
    for name, figure in figures.items():
        suffix = next(suffix for suffix in reversed(figure.scales))
        value = figure.value / figure.scales[suffix]
        above, below = value + 0.1 * abs(value), value - 0.1 * abs(value)
        for relation, limit, holds in (
            (">", below, True),
            (">", above, False),
            ("<=", above, True),
            ("<", below, False),
        ):
            condition = f"{name}{relation}{limit:.9f}{suffix}"
            assert bool(holding(report, condition)) == holds, condition
    assert holding(report, "macs>49.7%, macs>49.9%") == ["macs is 49.7976 % of dense, and macs>49.7% holds"]


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("top1_drop", SettingsError, "cannot read"),
        ("top1_drop==1", SettingsError, "cannot read"),
        ("top1<90", SettingsError, "found no suffix"),
        ("macs>12ms", SettingsError, "found 'ms'"),
        ("latency>12", SettingsError, "us, ms, s, %"),
        ("top1_dorp>1", UnknownName, "top1_drop"),
        ("__import__>1", UnknownName, "unknown"),
    ],
)
def test_a_wrong_condition_says_what_is_right(tmp_path, text, error, match):
    with pytest.raises(error, match=match):
        holding(run_with(tmp_path), text)


def test_an_unfinished_run_has_nothing_to_judge(tmp_path):
    report = collect(make_run(tmp_path / "run", finished=False))
    with pytest.raises(RunFolderError, match="not finished"):
        holding(report, "top1_drop>1")
    assert str(Condition.parse(" macs >= 5e6 ")) == "macs>=5e+06"
