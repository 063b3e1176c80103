import html
import html.parser
import json
import re
from pathlib import Path

import pytest
import yaml

from edakari.errors import RunFolderError
from edakari.report import collect, render, write_report
from edakari.report.answer_charts import answer_charts
from edakari.report.charts import scatter, tradeoffs
from edakari.report.formatting import cost, rows, size
from edakari.report.picture import draw
from edakari.report.search_charts import trail
from edakari.report.summary import of_results

METRICS = {"dense": 0.931, "check": 0.412, "finetune": 0.9244}


BUDGETED = {
    "runtime": "onnxruntime",
    "batch": 1,
    "settings": {"threads": 1},
    "limit_ms": 0.5,
    "relative_error": -0.04,
}


CLASSES = ("T-shirt", "Trouser", "<b>Dress</b>", "Ankle boot with a long name")
ANSWERS = {
    "images": 2000,
    "figure": "accuracy",
    "classes": [
        {"name": name, "count": 500, "dense": 0.95, "pruned": 0.9 + 0.02 * i} for i, name in enumerate(CLASSES)
    ],
    "class_count": 4,
    "outcomes": {"both": 1790, "only_dense": 67, "only_pruned": 54, "neither": 89},
    "confusions": [
        {"label": label, "answer": answer, "dense": i + j, "pruned": 2 * i}
        for i, label in enumerate(CLASSES)
        for j, answer in enumerate(CLASSES)
    ],
    "dense_precision": [1.0 - i / 200 for i in range(101)],
    "pruned_precision": [1.0 - i / 150 for i in range(101)],
    "seconds": 1.0,
}


def timing(median: float) -> dict[str, float]:
    return {"median_ms": median, "minimum_ms": median * 0.9, "spread": median * 0.05, "repeats": 50}


def make_run(folder: Path, groups: int = 12, finished: bool = True) -> Path:
    dense = {"macs": 24.7e6, "params": 612e3, "activations": 1.1e6}
    half = {"macs": 12.3e6, "params": 301e3, "activations": 0.8e6}
    names = [f"blocks.{index}.<widen>" for index in range(groups)]
    stages = {
        "trace": {
            "weights": "0" * 64,
            "costs": dense,
            "bytes": 2_480_000,
            "groups": [
                {"group": {"name": name, "kind": "channel", "size": 64, "step": 1, "least": 1}, "chosen": True}
                for name in names
            ],
            "unprunable": [{"where": "classifier.weight[0]", "size": 10, "reason": "output of the network"}],
            "uncounted": {"aten.mean": 2},
            "budget": "macs<=50%",
            "limits": {"macs": 12.35e6},
            "input": [1, 1, 28, 28],
            "seconds": 0.2,
        },
        "latency": {"limits": {"macs": 12.35e6}},
        "dense": {"metric": "top1", "metrics": {"top1": METRICS["dense"], "loss": 0.2}, "images": 2000, "seconds": 2.0},
        "prune": {
            "method": "magnitude",
            "paper": "Li et al., 2017",
            "plan": "0" * 64,
            "sizes": {name: 64 - (index * 5) % 60 for index, name in enumerate(names)},
            "predicted": half,
            "own_finetune": False,
            "log": [],
            "seconds": 0.3,
        },
        "check": {
            "difference": 2e-15,
            "costs": half,
            "bytes": 1_230_000,
            "metrics": {"top1": METRICS["check"], "loss": 1.8},
            "seconds": 1.0,
        },
    }
    if finished:
        stages |= {
            "finetune": {
                "metrics": {"top1": METRICS["finetune"], "loss": 0.23},
                "epochs": [
                    {"epoch": index + 1.0, "lr": 0.01, "loss": 0.5 / (index + 1), "val_top1": 0.90 + index * 0.0122}
                    for index in range(3)
                ],
                "seconds": 65.0,
            },
            "measure": {
                "batch": 1,
                "threads": 1,
                "runtimes": {
                    "torch": {"device": "cpu", "dense": timing(2.4), "pruned": timing(1.7)},
                    "onnxruntime": {"device": "cpu", "dense": timing(0.9), "pruned": timing(0.5)},
                },
                "seconds": 4.0,
            },
            "export": {
                "files": [
                    {
                        "path": "export/pruned.onnx",
                        "network": "pruned",
                        "format": "onnx",
                        "absolute": 1e-6,
                        "relative": 2e-7,
                        "bytes": 1234567,
                    }
                ],
                "seconds": 3.0,
            },
        }
        stages["answers"] = ANSWERS
    scores = [
        {"name": name, "weaker_half": 0.5 - 0.4 * index / groups, "removed": 0.3 * index / groups}
        for index, name in enumerate(names)
    ]
    (folder / "kept").mkdir(parents=True)
    (folder / "kept" / "scores.json").write_text(json.dumps(scores))
    (folder / "stages").mkdir()
    for name, result in stages.items():
        (folder / "stages" / f"{name}.json").write_text(json.dumps(result))
    recipe = {
        "model": {"name": "edakari:fashion_cnn"},
        "method": {"name": "magnitude", "iterations": 1},
        "budget": "macs<=50%",
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    environment = {"date": "2026-01-01", "cores": 2, "accelerators": [], "commit": None, "packages": {"torch": "2.15"}}
    (folder / "environment.json").write_text(json.dumps(environment))
    return folder


class Resources(html.parser.HTMLParser):
    """Gathers what a browser would load, and checks that tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.loaded += [value for name, value in attrs if name in ("src", "href", "data", "srcset", "action")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_loads_nothing_and_is_well_formed(tmp_path):
    page = render(collect(make_run(tmp_path / "run")))
    parser = Resources()
    parser.feed(page)
    assert parser.loaded == []
    assert parser.open == []
    assert not re.search(r"https?://|@import|url\(|<script", page)
    assert len(page) < 200_000


def test_the_page_says_what_was_reached(tmp_path):
    page = render(collect(make_run(tmp_path / "run")))
    for text in (
        "macs&lt;=50%",
        "49.8 %",
        "92.44 %",
        "−0.66 points",
        "1.80 ×",
        "12.3 M",
        "classifier.weight[0]",
        "aten.mean",
    ):
        assert text in page, text


@pytest.mark.parametrize("count", [0, 2, 6])
def test_what_was_dropped_whole_is_said_in_report_page_and_summary(tmp_path, count):
    folder = make_run(tmp_path / "run")
    path = folder / "stages" / "prune.json"
    stage = json.loads(path.read_text())
    names = [f"blocks.{index}.paths.<2>:path" for index in range(count)]
    path.write_text(json.dumps({**stage, "sizes": {**stage["sizes"], **dict.fromkeys(names, 0)}}))
    report = collect(folder)
    assert report["dropped"] == names
    page, summary = render(report), of_results(report).text()
    assert page.count("paths.&lt;2&gt;:path") == count
    assert ("Dropped with all" in page) == ("dropped branches and paths" in summary) == (count > 0)
    assert summary.count("paths.<2>") == min(count, 4)
    assert ("and 2 more" in summary) == (count == 6)


def test_names_are_escaped(tmp_path):
    page = render(collect(make_run(tmp_path / "run")))
    assert "blocks.1.&lt;widen&gt;" in page
    assert "<widen>" not in page


def test_the_answers_of_both_networks_are_compared(tmp_path):
    report = collect(make_run(tmp_path / "run"))
    page = render(report)
    assert "both networks classify 1,790 correctly, only the unpruned one 67" in page
    assert [title for title, _ in answer_charts(report["answers"])] == [
        "Accuracy by class, %",
        "Images more or fewer, labels in rows and answers in columns",
        "Precision by recall at IoU 0.5",
    ]
    assert "<b>Dress</b>" not in page
    assert page.count('class="cell') == 16
    many = {**ANSWERS, "class_count": 30, "confusions": ANSWERS["confusions"][:3], "dense_precision": []}
    assert len(answer_charts(many)) == 1
    assert "3 confusions that changed most" in render({**report, "answers": many})
    assert "Answers, before and after" not in render({**report, "answers": None})


@pytest.mark.parametrize("groups", [1, 90])
def test_an_unfinished_run_has_a_report_too(tmp_path, groups):
    folder = make_run(tmp_path / "run", groups=groups, finished=False)
    report = collect(folder)
    assert [network["name"] for network in report["networks"]] == ["dense", "pruned"]
    assert "not finished" in render(report)


@pytest.mark.parametrize("epochs", [0, 1, 60])
def test_any_number_of_epochs_can_be_drawn(tmp_path, epochs):
    folder = make_run(tmp_path / "run")
    path = folder / "stages" / "finetune.json"
    finetune = json.loads(path.read_text())
    finetune["epochs"] = [{"epoch": i + 1.0, "lr": 0.01, "loss": 0.5, "val_top1": 0.9} for i in range(epochs)]
    path.write_text(json.dumps(finetune))
    assert ("training loss" in render(collect(folder))) == (epochs > 0)


def test_report_json_holds_the_figures(tmp_path):
    folder = make_run(tmp_path / "run")
    page = write_report(folder)
    report = json.loads((folder / "report.json").read_text())
    assert page == folder / "report.html"
    assert page.is_file()
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
    assert [network["metrics"]["top1"] for network in report["networks"]] == list(METRICS.values())
    assert report["networks"][2]["latency"]["torch"]["median_ms"] == 1.7
    assert report["groups"][1] == {
        "name": "blocks.1.<widen>",
        "kind": "channel",
        "size": 64,
        "step": 1,
        "least": 1,
        "chosen": True,
        "kept": 59,
    }
    assert not list(folder.glob(".*"))


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match=r"recipe\.yaml"):
        collect(tmp_path)
    folder = make_run(tmp_path / "run")
    (folder / "stages" / "check.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"check\.json"):
        collect(folder)


@pytest.mark.parametrize(
    ("value", "text"),
    [(999, "999"), (999_600, "1 M"), (12_345_678, "12.3 M"), (4.1e9, "4.1 G"), (123_456, "123 k"), (1000, "1 k")],
)
def test_counts_have_three_figures(value, text):
    assert cost(value) == text


def test_sizes():
    assert size(999_500) == "1 MB"
    assert size(12_345) == "12.3 kB"


def test_the_way_of_a_search_is_drawn_and_remarks_stand_in_its_table(tmp_path):
    folder = make_run(tmp_path / "run")
    path = folder / "stages" / "prune.json"
    pruned = json.loads(path.read_text())
    names = [each["group"]["name"] for each in json.loads((folder / "stages" / "trace.json").read_text())["groups"]]
    earlier = [{"stage": f"step 1: {names[0]}", "width": 9, "reward": -9.0, "macs": 5.0}]
    steps = [
        {
            "stage": f"step {number}: {names[number % 3]}",
            "width": 8,
            "reward": -0.1 * number,
            "macs": 1e9 - 1e7 * number,
        }
        for number in range(1, 6)
    ]
    path.write_text(json.dumps({**pruned, "log": [{"stage": "a remark"}, *earlier, *steps]}))
    report = collect(folder)
    charts = trail(report)
    assert len(charts) == 2
    assert [chart.count("<circle") for chart in charts] == [5, 5]
    assert html.escape(f"step 3: {names[0]} to 8, reward -0.3") in charts[0]
    page = render(report)
    assert "<h2>Search</h2>" in page
    assert "a remark" in page
    assert "<th>reward</th>" in page
    assert trail({**report, "log": [{"stage": "epoch 1", "macs": 3.0}]}) == []


def test_the_runtime_of_the_budget_comes_first_and_once(tmp_path):
    report = dict(collect(make_run(tmp_path)))
    budgeted = {**BUDGETED, "dense": timing(1.0), "measured": timing(0.48)}
    chart = tradeoffs({**report, "latencies": {"latency": budgeted}})[-1]
    assert chart.title == "latency in onnxruntime, ms"
    assert (chart.limit, [point.x for point in chart.points]) == (0.5, [1.0, 0.48, 0.48])
    names = [row["name"] for row in rows({**report, "latencies": {"latency": budgeted}})]
    assert [name for name in names if "Latency" in name] == ["Latency, onnxruntime (budget)", "Latency, torch"]
    other = rows({**report, "latencies": {"latency": {**budgeted, "batch": 8}}})
    assert sum("onnxruntime" in row["name"] for row in other) == 2


def test_a_network_far_below_the_others_does_not_stretch_the_axis(tmp_path):
    report = collect(make_run(tmp_path))
    (chart, _) = tradeoffs(report)
    assert [point.name for point in chart.sunk] == ["pruned"]
    ticks = [float(text) for text in re.findall(r'text-anchor="end">([\d.]+)<', scatter(chart, "top1"))]
    assert min(ticks) > 90
    near = [{**network, "metrics": {"top1": 0.93}} for network in report["networks"]]
    assert not tradeoffs({**report, "networks": near})[0].sunk


def sweep(folder, runs):
    rows = [{"settings": {"method": "taylor"}, "runs": runs}]
    (folder / "results.json").write_text(json.dumps({"version": 1, "rows": rows}))


def test_runs_of_the_same_sweep_are_pale_dots_and_a_damaged_file_is_none(tmp_path):
    folder = make_run(tmp_path / "sweep" / "runs" / "a")
    figures = {"metrics": {"top1": 0.9}, "costs": {"macs": 8e6}, "dense_costs": {"macs": 24.7e6}, "seed": 0}
    sweep(tmp_path / "sweep", [{**figures, "folder": "runs/a"}, {**figures, "folder": "runs/b"}])
    report = collect(folder)
    counted, timed = tradeoffs(report)
    assert [point.x for point in counted.others] == [pytest.approx(8 / 24.7 * 100)]
    assert not timed.others  # their latency was not measured
    assert 'class="dot other"' in scatter(counted, "top1")
    for damaged in ("{", "[]", '{"rows": [{"settings": 3, "runs": []}]}'):
        (tmp_path / "sweep" / "results.json").write_text(damaged)
        assert collect(folder)["sweep"] == []


def test_tokens_have_bars_of_their_own(tmp_path):
    folder = make_run(tmp_path)
    path = folder / "stages" / "prune.json"
    pruned = json.loads(path.read_text())
    tokens = [{"block": "blocks.3", "kept": 49, "of": 196}]
    path.write_text(json.dumps({**pruned, "sizes": {"blocks.3:tokens": 49}, "tokens": tokens}))
    report = collect(folder)
    page = render(report)
    assert "Kept tokens" in page
    assert "width:25.0%" in page
    assert "Width kept per group" not in page
    assert "Kept tokens" not in render({**report, "tokens": []})
    assert (
        draw(report, tmp_path / "with.png").read_bytes()
        != draw({**report, "tokens": []}, tmp_path / "o.png").read_bytes()
    )
