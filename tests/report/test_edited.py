"""Run folders that were edited by hand: they are used as they are, or there is one error with the path."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edakari
from edakari.cli.tables import comparison, stage_line
from edakari.core.reading import Unreadable
from edakari.errors import EdakariError, RunFolderError
from edakari.pipeline import Recipe, recipe_from
from edakari.pipeline.load import networks
from edakari.report import collect
from edakari.report.page import render
from edakari.report.stage_files import result_from
from edakari.results import STAGES, FinetuneResult

WRONG: tuple[Any, ...] = (None, [], {}, "x", -1, [{}], {"x": []})
MISSING = object()


def spoilt(content: Any, depth: int = 3) -> Iterator[Any]:
    """Copies of a value, each with one thing in it gone or of another kind."""
    yield from WRONG
    keys = list(content) if isinstance(content, dict) else [0] if isinstance(content, list) and content else []
    for key in keys if depth else []:
        for below in (MISSING, *spoilt(content[key], depth - 1)):
            changed = dict(content) if isinstance(content, dict) else list(content)
            if below is not MISSING:
                changed[key] = below
            elif isinstance(changed, dict):
                del changed[key]
            else:
                continue
            yield changed


NET = """
from torch import nn


def tiny():
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    """A finished run and its recipe."""
    folder = tmp_path_factory.mktemp("edited")
    (folder / "nets.py").write_text(NET)
    labels = np.arange(24) % 3
    np.savez(folder / "x.npz", images=(labels[:, None, None] * np.full((24, 8, 8), 80)).astype(np.uint8), labels=labels)
    recipe = recipe_from(
        {
            "model": {"name": f"{folder}/nets.py:tiny", "weights": "random"},
            "data": {
                "train": [str(folder / "x.npz")],
                "val": str(folder / "x.npz"),
                "batch_size": 8,
                "augment": "none",
            },
            "method": "magnitude",
            "budget": "macs<=60%",
            "finetune": {"epochs": 1, "lr": 0.01},
            "measure": {"runtimes": ["torch"], "repeats": 2, "warmup": 1},
            "export": ["program"],
            "device": "cpu",
        }
    )
    edakari.run(recipe, folder / "run")
    return folder / "run", recipe


@pytest.fixture
def run(finished: tuple[Path, Recipe], tmp_path: Path) -> Path:
    """A copy of the run, to be edited."""
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


def reported(run: Path, name: str, content: Any) -> str | None:
    """Report a run one of whose stages was edited; the error, where there is one."""
    try:
        report = collect(run)
        comparison(report)
        render(report)
        stage_line(result_from(STAGES[name], content, run))
    except RunFolderError as error:
        return str(error)
    except Exception as error:
        raise AssertionError(f"{name}: {content!r}") from error
    return None


def test_whatever_is_edited_in_a_stage_is_reported_or_is_one_error(run: Path) -> None:
    unprunable = 0
    for name in STAGES:
        path = run / "stages" / f"{name}.json"
        text = path.read_text()
        stage_line(result_from(STAGES[name], json.loads(text), path))
        for content in spoilt(json.loads(text), 2):
            path.write_text(json.dumps(content))
            said = reported(run, name, content)
            assert said is None or str(path) in said, content
            unprunable += said is not None
        path.write_text(text)
    assert unprunable > 100
    render(collect(run))


@pytest.mark.parametrize("text", ["{}", "[]", "null", "{", "[" * 10**5, b"\xff\xfe\x00", '{"seconds": "x"}'])
def test_a_run_goes_on_from_no_edited_stage(run: Path, finished: tuple[Path, Recipe], text: str | bytes) -> None:
    for name in ("trace", "prune", "finetune"):
        path = run / "stages" / f"{name}.json"
        before = path.read_bytes()
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(RunFolderError) as caught:
            edakari.run(finished[1], run)
        assert str(path) in str(caught.value)
        path.write_bytes(before)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "{", "[" * 10**5, b"\xff\xfe\x00", "model: x", "model: {}"])
@pytest.mark.parametrize("name", ["recipe.yaml", "plan.json", "network.json"])
def test_an_edited_file_is_one_error_with_its_path(run: Path, name: str, text: str | bytes) -> None:
    path = run / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(EdakariError) as caught:
        collect(run) if name == "recipe.yaml" else edakari.load(run, trust_code=True)
    assert str(path) in str(caught.value)
    with pytest.raises(EdakariError) as caught:
        networks(run, trust_code=True)
    assert str(path) in str(caught.value)
    assert not isinstance(caught.value, Unreadable)


def test_edits_of_a_plan_are_one_error(run: Path) -> None:
    path = run / "plan.json"
    for content in spoilt(json.loads(path.read_text()), 3):
        path.write_text(json.dumps(content))
        with pytest.raises(EdakariError):
            edakari.load(run, trust_code=True)


@pytest.mark.parametrize("key", ["name", "title", "text", "pictures", "pictures.0.title", "pictures.0.file"])
@pytest.mark.parametrize("value", [MISSING, None, 3, [], {}])
def test_an_edited_explanation_is_one_error(run: Path, key: str, value: Any) -> None:
    (run / "explain").mkdir()
    (run / "explain" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    whole: dict[str, Any] = {"name": "a", "title": "A", "text": "t"}
    whole["pictures"] = [{"file": "a.png", "title": "p", "note": ""}]
    path = run / "explain" / "a.json"
    path.write_text(json.dumps(whole))
    render(collect(run), {"a.png": ""})
    here: Any = whole
    *outer, last = key.split(".")
    for part in outer:
        here = here[int(part) if part.isdigit() else part]
    here.pop(last) if value is MISSING else here.update({last: value})
    path.write_text(json.dumps(whole))
    if (key, value) == ("pictures", []):
        return
    with pytest.raises(RunFolderError) as caught:
        collect(run)
    assert str(path) in str(caught.value)


def test_the_line_of_a_stage_names_the_main_metric() -> None:
    tuned = FinetuneResult(metrics={"map": 0.25, "map50": 0.5}, epochs=({"epoch": 0.0, "loss": 1.0},), metric="map50")
    assert stage_line(tuned) == "1 epoch, mean average precision at IoU 0.5 50.00 %"
    assert stage_line(FinetuneResult(metrics={}, epochs=())) == "0 epochs"
