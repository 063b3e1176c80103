"""Trackers receive the figures of a run; one that is not installed is told before anything runs."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import edakari
from edakari.cli.main import app
from edakari.core import optional
from edakari.errors import RecipeError, WrongArgument
from edakari.pipeline import tracking
from edakari.pipeline.tracking import TRACKERS
from edakari.testing import ToyTask, toy_cnn


class Recorder:
    """A tracker of the test's own, as a package would bring it."""

    calls: list[tuple[str, Any]] = []  # noqa: RUF012 - emptied by the fixture

    def begin(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self.calls.append(("begin", (name, folder.is_dir(), settings)))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.calls.append(("log", (dict(figures), step)))

    def end(self) -> None:
        self.calls.append(("end", None))


@pytest.fixture
def recorder() -> Iterator[list[tuple[str, Any]]]:
    TRACKERS.add("recorder", Recorder)
    Recorder.calls.clear()
    yield Recorder.calls
    del TRACKERS._registered["recorder"]


@pytest.fixture
def recipe(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "measure": None}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "logs" / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_tracker_gets_all_figures_of_a_run(
    recipe: dict[str, Any], tmp_path: Path, recorder: list[tuple[str, Any]]
) -> None:
    result = edakari.run({**recipe, "report_to": ["recorder"]}, tmp_path / "run")
    kinds = [kind for kind, _ in recorder]
    assert (kinds[0], kinds[-1]) == ("begin", "end")
    name, made, settings = recorder[0][1]
    assert (name, made) == ("run", True)
    assert settings["finetune.lr"] == 0.05
    assert all(isinstance(value, bool | int | float | str) for value in settings.values())
    logged = [entry for kind, entry in recorder if kind == "log"]
    assert result.results.finetune is not None
    assert result.results.dense is not None
    for number, epoch in enumerate(result.results.finetune.epochs, start=1):
        # the event of the epoch, and not that of the step before it, has the terms of the loss
        found = next(figures for figures, step in logged if step == 3 * number and "finetune/distillation" in figures)
        assert {f"finetune/{key}": value for key, value in epoch.items() if key != "epoch"}.items() <= found.items()
    every = {key: value for figures, _ in logged for key, value in figures.items()}
    assert every["dense/top1"] == result.results.dense.metrics["top1"]
    assert every["finished/top1"] == result.results.finetune.metrics["top1"]
    assert every["pruned/macs"] == result.costs["macs"]


def test_csv_continues_after_an_interruption(recipe: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    def interrupted(*given: Any) -> Any:
        raise KeyboardInterrupt

    folder, asked = tmp_path / "run", {**recipe, "report_to": ["csv"]}
    monkeypatch.setattr("edakari.pipeline.stages.finetune_stage", interrupted)
    with pytest.raises(KeyboardInterrupt):
        edakari.run(asked, folder)
    before = rows(folder)
    with (folder / "logs" / "metrics.csv").open("a") as file:
        file.write("7,finetune/lo")  # cut short by a kill
    monkeypatch.undo()
    edakari.run(asked, folder)
    after = rows(folder)
    assert after[: len(before)] == before
    assert {"dense/top1", "pruned/top1"} <= {row["name"] for row in before}
    assert {"finetune/loss", "finetune/lr", "finetune/val_top1", "finished/top1"} <= {row["name"] for row in after}
    assert all(float(row["value"]) >= 0 for row in after if row["value"])


def test_who_watches_may_change_and_overwrite_removes_what_was_written(recipe: dict[str, Any], tmp_path: Path) -> None:
    folder, path = tmp_path / "run", tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(recipe))
    edakari.run({**recipe, "report_to": ["csv"]}, folder)
    assert not edakari.run(recipe, folder).fresh
    assert not edakari.run({**recipe, "report_to": ["csv"]}, folder).fresh
    (folder / "logs" / "mine.txt").write_text("a note of the user's")
    edakari.run(recipe, folder, overwrite=True)
    assert [each.name for each in (folder / "logs").iterdir()] == ["mine.txt"]
    found = CliRunner().invoke(app, ["prune", str(path), "-o", str(folder), "--overwrite", "--report-to", "csv"])
    assert found.exit_code == 0, found.output
    assert rows(folder)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_tracker_that_is_missing_is_one_error_before_anything_runs(
    name: str, recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (tracking, optional):
        monkeypatch.setattr(module, "missing_packages", lambda *names: [each for each in names if each == name])
    asked = {**recipe, "report_to": ["csv", name], "train": {"epochs": 1, "lr": 0.1}}
    for call in (edakari.run, edakari.pipeline.train_dense):
        with pytest.raises(RecipeError, match=rf"report_to\[1\].*'{name}' needs .*pip install \"edakari\[{name}\]\""):
            call(asked, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tracker_that_is_not_known_is_named_with_the_nearest(recipe: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="tensorboard"):
        edakari.run({**recipe, "report_to": ["tensorbord"]}, tmp_path / "run")


def test_a_training_and_a_call_are_tracked_too(recipe: dict[str, Any], tmp_path: Path) -> None:
    asked = {**recipe, "train": {"epochs": 1, "lr": 0.05}, "report_to": ["csv"]}
    edakari.pipeline.train_dense(asked, tmp_path / "net.safetensors")
    assert {"train/loss", "train/val_top1"} <= {row["name"] for row in rows(tmp_path / "net")}
    with pytest.raises(WrongArgument, match="report_to writes files"):
        edakari.prune(toy_cnn(), ToyTask(), "macs<=50%", report_to=["csv"])
    edakari.prune(toy_cnn(), ToyTask(), "macs<=50%", report_to=["csv"], output=tmp_path / "given")
    assert "pruned/macs" in {row["name"] for row in rows(tmp_path / "given")}


@pytest.mark.parametrize(("name", "file"), [("tensorboard", "events.out.*"), ("wandb", "run-*.wandb")])
def test_a_tracker_of_accelerate_writes_its_own_files(
    name: str, file: str, recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name)
    monkeypatch.setitem(os.environ, "WANDB_MODE", "offline")
    edakari.run({**recipe, "report_to": [name]}, tmp_path / "run")
    assert list((tmp_path / "run" / "logs").rglob(file))


def test_mlflow_gets_a_run(recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/runs.db")
    edakari.run({**recipe, "report_to": ["mlflow"]}, tmp_path / "run")
    (found,) = mlflow.search_runs(experiment_names=["edakari"], output_format="list")
    assert found.data.metrics["finished/top1"] >= 0
    assert found.data.params["finetune.lr"] == "0.05"
