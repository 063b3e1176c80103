"""Whole sweeps: they end with what single runs end with, whoever dies on the way."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import edakari
import edakari.sweeps.sweeping as sweeping
from edakari.errors import DataError, RunFolderError, SweepError
from edakari.pipeline import recipe_from
from edakari.sweeps.plan import plan_of
from edakari.sweeps.queue import Worker
from edakari.sweeps.settings import sweep_from
from tests.together import apart, ends

AXES = {"method": ["magnitude", "taylor"], "seed": [0, 1]}


@pytest.fixture
def short(content: dict[str, Any]) -> dict[str, Any]:
    """A recipe whose training depends on its seed, and in which nothing is timed."""
    content["data"] |= {"augment": "light", "pad": 1}
    content["finetune"] = {"epochs": 1, "lr": 0.05}
    content.pop("measure")
    return content


def figures(folder: Path) -> list[Any]:
    """What a sweep found out, without times and folders of runs."""
    rows = json.loads((folder / "results.json").read_text())["rows"]
    for row in rows:
        row.pop("seconds")
        for run in row["runs"]:
            run.pop("seconds")
    return sorted(rows, key=lambda row: json.dumps(row["settings"]))


def test_a_sweep_is_its_runs(short: dict[str, Any], tmp_path: Path) -> None:
    found = edakari.sweep({"recipe": short, "axes": AXES}, tmp_path / "sweep")
    assert found.page == tmp_path / "sweep" / "results.html"
    assert len(found.results.entries) == 4
    for entry in found.results.entries:
        content = {**short, "method": entry.settings["method"], "seed": entry.seed}
        content["finetune"] = {**short["finetune"], "counts_method": True}
        alone = tmp_path / f"{entry.settings['method']}-{entry.seed}"
        result = edakari.run(recipe_from(content), alone)
        assert entry.metrics == result.report["networks"][-1]["metrics"]
        ours, theirs = (load_file(folder / "weights.safetensors") for folder in (Path(entry.folder), alone))
        assert all((ours[name] == value).all() for name, value in theirs.items())
        assert entry.examples == 48  # one epoch, whatever the method
    compared = edakari.compare([tmp_path / "sweep"])
    assert {row.name: row.metric for row in compared.results.rows} == {
        row.name: row.metric for row in found.results.rows
    }
    again = edakari.sweep({"recipe": short, "axes": AXES}, tmp_path / "sweep")
    assert again.results == found.results


def work(content: dict[str, Any], folder: str, begun: str = "") -> None:
    """One worker; with a path to a file, it is killed when that many stages of training have begun."""

    def notify(stage: str, state: str, found: Any) -> None:
        if begun and (stage, state) == ("finetune", "start"):
            os.kill(os.getpid(), signal.SIGKILL)

    edakari.sweep(content, folder, notify=notify)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are killed by signals")
@pytest.mark.slow
def test_workers_that_die_change_nothing(short: dict[str, Any], tmp_path: Path) -> None:
    sweep = {"recipe": short, "axes": {**AXES, "seed": [0, 1, 2]}, "name": "x"}
    edakari.sweep(sweep, tmp_path / "quiet")
    for _ in range(2):
        ended, _ = apart(work, sweep, str(tmp_path / "loud"), "killed")
        assert ended == -signal.SIGKILL
    assert [code for code, _ in ends(work, sweep, str(tmp_path / "loud"), world=1)] == [0]
    assert figures(tmp_path / "loud") == figures(tmp_path / "quiet")


def test_a_run_of_a_dead_worker_goes_back(
    short: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Ends a worker without a word."""

    sweep = {"recipe": short, "axes": {"seed": [0, 1]}}
    run, ran = sweeping.run, []

    def dying(*arguments: Any, **options: Any) -> Any:
        ran.append(arguments)
        raise Killed

    monkeypatch.setattr(sweeping, "run", dying)
    with pytest.raises(Killed):
        edakari.sweep(sweep, tmp_path / "sweep")
    monkeypatch.setattr(sweeping, "run", run)
    found = edakari.sweep(sweep, tmp_path / "sweep")
    assert len(ran) == 1
    assert [entry.seed for entry in found.results.entries] == [0, 1]


def test_a_run_that_fails_is_listed_and_tried_again(
    short: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = sweeping.run

    def failing(recipe: Any, *arguments: Any, **options: Any) -> Any:
        if recipe.seed == 1:
            raise DataError("the disk of the data is away")
        return run(recipe, *arguments, **options)

    monkeypatch.setattr(sweeping, "run", failing)
    found = edakari.sweep({"recipe": short, "axes": {"seed": [0, 1]}}, tmp_path / "sweep")
    assert [(each.text, each.error) for each in found.results.failures] == [("seed=1", "the disk of the data is away")]
    assert "Failed: seed=1: the disk of the data is away" in repr(found)
    with pytest.raises(SweepError, match="no run of the sweep succeeded"):
        edakari.sweep({"recipe": short, "axes": {"seed": [1]}}, tmp_path / "other")
    monkeypatch.setattr(sweeping, "run", run)
    mended = edakari.sweep({"recipe": short, "axes": {"seed": [0, 1]}}, tmp_path / "sweep")
    assert not mended.results.failures
    assert len(mended.results.entries) == 2


def test_another_sweep_of_the_same_folder_or_name_is_refused(short: dict[str, Any], tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/sweep.db"
    sweep = {"recipe": short, "axes": {"seed": [0]}, "name": "x", "storage": storage}
    edakari.sweep(sweep, tmp_path / "sweep")
    other = {**sweep, "axes": {"seed": [1]}}
    with pytest.raises(RunFolderError, match=r"another sweep of this name: axes.seed is \[0\] there and \[1\] here"):
        edakari.sweep(other, tmp_path / "sweep")
    with pytest.raises(SweepError, match="holds another sweep of the name 'x'"):
        edakari.sweep(other, tmp_path / "elsewhere")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(RunFolderError, match="nothing in it was touched"):
        edakari.sweep(sweep, tmp_path / "mine")


def test_workers_that_start_at_once_make_one_sweep(short: dict[str, Any], tmp_path: Path) -> None:
    settings, workers, rounds = sweep_from({"recipe": short, "axes": {"seed": [0]}}), 4, 25
    plan = plan_of(settings, "sweep", trust_code=True)
    together, errors = threading.Barrier(workers), list[Exception]()

    def claim() -> None:
        for number in range(rounds):
            together.wait(60)
            try:
                sweeping._claim(tmp_path / str(number), plan)
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=claim) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        (
            "postgresql+psycopg2://me:secret@127.0.0.1:1/x",
            r"me:\*\*\*@127.0.0.1:1/x needs the package psycopg2|cannot be used",
        ),
        ("sqlite:////proc/nowhere/sweep.db", "cannot be used: .*unable to open"),
        ("nets.py/journal.log", "cannot be used"),  # below a file
    ],
)
def test_a_storage_that_cannot_be_reached_is_told(
    short: dict[str, Any], tmp_path: Path, storage: str, said: str
) -> None:
    asked = storage if "://" in storage else str(tmp_path / storage)
    sweep = {"recipe": short, "axes": {"seed": [0]}, "storage": asked}
    with pytest.raises((SweepError, RunFolderError), match=said) as found:
        edakari.sweep(sweep, tmp_path / "sweep")
    assert "secret" not in str(found.value)
    assert "secret" not in (tmp_path / "sweep" / "sweep.yaml").read_text()


def test_a_search_tries_equally_often(short: dict[str, Any], tmp_path: Path) -> None:
    sweep = {
        "recipe": short,
        "axes": {**AXES, "finetune.lr": {"low": 0.001, "high": 0.1, "log": True}},
        "trials": 1,
        "goal": {"maximize": "top1"},
    }
    found = edakari.sweep(sweep, tmp_path / "sweep")
    assert found.results.keys == ("method", "finetune.lr")
    by_method = [row.settings["method"] for row in found.results.rows]
    assert (by_method.count("magnitude"), by_method.count("taylor")) == (1, 1)
    assert all([entry.seed for entry in row.entries] == [0, 1] for row in found.results.rows)


def test_a_pruner_ends_trials_that_fall_behind(
    short: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"low": 0.001, "high": 0.1}
    sweep = {"recipe": short, "axes": {"finetune.lr": rates}, "trials": 5, "pruner": "median", "sampler": "random"}
    run, trials = sweeping.run, []

    def judged(recipe: Any, folder: Path, *, notify: Any, shared: Path) -> Any:
        trials.append(recipe)
        notify("finetune", "epoch", {"epoch": 1, "val_top1": 1.0 - 0.1 * len(trials)})  # each is worse than all before
        return run(recipe, folder, shared=shared)

    monkeypatch.setattr(sweeping, "run", judged)
    found = edakari.sweep(sweep, tmp_path / "sweep")
    assert len(trials) == 5
    assert (len(found.results.entries), found.results.pruned) == (3, 2)
    assert "The pruner ended 2 trials early." in repr(found)


def test_a_goal_ends_with_the_network(short: dict[str, Any], tmp_path: Path) -> None:
    goal = {"minimize": "macs", "subject_to": "top1_drop<=100"}
    sweep = {"recipe": {**short, "finetune": None}, "axes": {"method": ["magnitude"]}, "goal": goal}
    found = edakari.sweep(sweep, tmp_path / "sweep")
    assert found.best is not None
    assert (found.best / "weights.safetensors").is_file()
    (row,) = found.results.rows
    assert row.budget == "macs<=100%, top1_drop<=100"
    assert row.shares["macs"].mean < 0.5


def test_who_is_alive_is_known(tmp_path: Path) -> None:
    one, other = Worker(tmp_path), Worker(tmp_path)
    alive, done = threading.Event(), threading.Event()

    def live() -> None:
        with one.living():
            alive.set()
            done.wait(60)

    thread = threading.Thread(target=live)
    thread.start()
    alive.wait(60)
    assert other.lives(one.name)
    done.set()
    thread.join()
    assert not other.lives(one.name)
    assert not other.lives("nobody")
