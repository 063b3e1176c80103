"""What a command says while it works, by a clock of the test's own."""

from __future__ import annotations

import dataclasses as dc
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import edakari
import edakari.methods
from edakari.cli.main import app
from edakari.cli.output import Output
from edakari.cli.stages import telling
from edakari.cli.watching import Watcher
from edakari.core.method import registered
from edakari.core.watching import Steps, listening
from edakari.criteria import CRITERIA
from edakari.results import STAGES

HOUR = 3600


@dc.dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dc.dataclass
class Heard(Output):
    """Records when something was said."""

    clock: Clock = dc.field(default_factory=Clock)
    times: list[float] = dc.field(default_factory=list)

    def say(self, text: Any, level: Any, event: Any = None, indent: int = 0) -> None:
        if level != "detail":
            self.times.append(self.clock.now)


def watched() -> tuple[Watcher, Clock, Heard]:
    clock = Clock()
    heard = Heard(clock=clock)
    return Watcher(heard, "prune", clock), clock, heard


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("reports", [False, True])
def test_no_stage_is_silent(stage: str, reports: bool) -> None:
    watcher, clock, heard = watched()
    tell, steps = telling(watcher), Steps(stage, HOUR, clock)
    tell(stage, "start", {})
    lines = [watcher.line(79).plain]
    with listening(watcher.heard):
        for second in range(1, HOUR):
            clock.now = float(second)
            if reports and second % 7 == 0:
                steps.at(second)
            watcher.beat()
            if second % 10 == 0:
                lines.append(watcher.line(79).plain)
    # in a terminal the line changes within ten seconds, elsewhere a line follows within a minute
    assert all(before != after for before, after in itertools.pairwise(lines))
    gaps = [after - before for before, after in zip([0.0, *heard.times], [*heard.times, HOUR], strict=True)]
    assert max(gaps) <= 61


@pytest.mark.parametrize("width", [24, 40, 60, 79, 120])
def test_the_line_at_the_bottom_carries_whole_figures(width: int) -> None:
    watcher, clock, _ = watched()
    clock.now = 4000.0
    event = {"title": "finetune", "step": 50, "steps": 200, "epoch": 3, "epochs": 12, "loss": 0.123456, "lr": 1e-4}
    watcher.stage = "finetune"
    watcher.heard("step", {**event, "val_top1": 0.91234, "val_loss": 0.3, "seconds_left": 95.0})
    line = watcher.line(width).plain
    assert len(line) <= width
    assert line.startswith("finetune")
    whole = "finetune  epoch 3/12  loss 0.1235  top1 91.23 %  lr 0.0001  1 h 06 min, 1 min 35 s left"
    assert (
        re.sub(r"  ━+", "", line) == whole
        if width == 120
        else all(p in whole for p in line.split("  ") if "━" not in p)
    )
    assert "…" not in line


def test_the_estimate_is_the_pace_so_far() -> None:
    clock, events = Clock(), []
    with listening(lambda kind, event: events.append(event)):
        steps = Steps("train", 100, clock)
        for step in range(40, 71):  # a resumed training
            clock.now += 2.0
            steps.at(step)
    assert events[-1]["seconds_left"] == pytest.approx(60.0)
    assert "seconds_left" not in events[0]


def test_figures_are_computed_only_for_events_that_are_due() -> None:
    clock, asked = Clock(), []
    steps = Steps("train", 1000, clock)
    steps.at(1, lambda: asked.append(0) or {})  # nobody listens
    with listening(lambda kind, event: None):
        for step in range(1000):
            clock.now += 0.01
            steps.at(step, lambda: asked.append(0) or {})
    assert 9 <= len(asked) <= 11


@pytest.fixture
def recipe(content: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump({**content, "measure": None}))
    return path


def test_a_run_tells_its_epochs_with_figures(content: dict[str, Any], tmp_path: Path) -> None:
    told: list[tuple[str, str, Any]] = []
    recipe = edakari.run({**content, "measure": None}, tmp_path / "run", notify=lambda *event: told.append(event))
    epochs = [event for stage, kind, event in told if (stage, kind) == ("finetune", "epoch")]
    (last,) = [result for stage, kind, result in told if (stage, kind) == ("finetune", "done")]
    assert [(each["epoch"], each["epochs"]) for each in epochs] == [(1, 2), (2, 2)]
    for event, kept in zip(epochs, last.epochs, strict=True):
        assert {name: event[name] for name in kept if name != "epoch"} == {
            k: v for k, v in kept.items() if k != "epoch"
        }
    steps = [event for stage, kind, event in told if (stage, kind) == ("finetune", "step")]
    assert {"step", "steps", "epoch", "epochs", "loss", "lr"} <= steps[0].keys()
    assert recipe.report["networks"]


def test_options_say_how_much_is_said_and_where(recipe: Path, tmp_path: Path) -> None:
    def run(*options: str) -> Any:
        found = CliRunner().invoke(app, ["prune", str(recipe), "-o", str(tmp_path / "run"), "--overwrite", *options])
        assert found.exit_code == 0, found.output
        return found

    plain, log, records = run(), tmp_path / "logs" / "run.txt", tmp_path / "run.jsonl"
    assert "epoch 2/2: loss" in plain.stderr
    quiet = run("-q", "--log-file", str(log))
    assert "finetune" not in quiet.stderr
    assert "Top-1 accuracy" in quiet.stdout
    assert "epoch 2/2: loss" in log.read_text()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S* \S", line) for line in log.read_text().splitlines())
    verbose = run("-v", "--log-format", "json", "--log-file", str(records))
    lines = [json.loads(line) for line in verbose.stderr.splitlines()]
    assert records.read_text() == verbose.stderr
    assert {line["event"] for line in lines if "event" in line} >= {"start", "done", "log", "step", "epoch", "skipped"}
    epoch = next(line for line in lines if line.get("event") == "epoch")
    assert {"time", "level", "stage", "epoch", "epochs", "step", "steps", "loss", "lr", "val_top1"} <= epoch.keys()
    assert "Top-1 accuracy" in verbose.stdout


def test_an_error_is_json_too(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["prune", str(tmp_path / "none.yaml"), "--log-format", "json"])
    assert found.exit_code == 1
    assert json.loads(found.stderr)["level"] == "error"


def test_a_log_file_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["methods", "--log-file", str(tmp_path)])
    assert found.exit_code == 1
    assert str(tmp_path) in found.stderr
    assert "Traceback" not in found.output
    assert not found.stdout


def test_an_interrupted_run_resumes_from_its_folder(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(run: Any) -> Any:
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    monkeypatch.setattr("edakari.pipeline.stages.dense_stage", interrupted)
    command = ("prune", str(recipe), "-o", str(folder), "--set", "budget=macs<=60%", "--set", "seed=3")
    assert CliRunner().invoke(app, list(command)).exit_code == 130
    monkeypatch.undo()
    other = CliRunner().invoke(app, ["prune", str(recipe), "-o", str(folder)])
    for text in ("budget is 'macs<=60%' there and 'macs<=50%' here", "seed is 3 there and 0 here", "edakari resume"):
        assert text in other.stderr
    found = CliRunner().invoke(app, ["resume", str(folder)])
    assert found.exit_code == 0, found.output
    assert "(done before)" in found.stderr
    assert (folder / "report.html").is_file()
    assert "no run folder" in CliRunner().invoke(app, ["resume", str(tmp_path)]).stderr


@pytest.mark.parametrize("name", [*registered(), *CRITERIA])
def test_every_setting_of_a_method_is_explained(name: str) -> None:
    found = json.loads(CliRunner().invoke(app, ["methods", name, "--json"]).stdout)
    assert found["summary"]
    for setting in found["settings"]:
        assert setting["type"]
        assert setting["default"]
        assert len(setting["meaning"]) > 10
        assert not setting["meaning"].lower().startswith("see ")
