"""Where nothing can be written, every command says so in one line, before a network runs."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from typer.testing import CliRunner

import edakari
from edakari.cli.main import app
from edakari.errors import EdakariError, EdakariWarning
from edakari.export import to_onnx, to_program
from edakari.models import build
from edakari.models.trust import remember
from edakari.pipeline import recipe_from, train_dense
from edakari.pipeline.load import networks
from edakari.report import collect, write_report
from edakari.surgery import load_plan
from tests.permissions import held, locked

NET = """
from torch import nn


def tiny():
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run in `run`, its recipe in `recipe.yaml`, and a checkpoint."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "nets.py").write_text(NET)
    labels = np.arange(24) % 3
    np.savez(folder / "x.npz", images=(labels[:, None, None] * np.full((24, 8, 8), 80)).astype(np.uint8), labels=labels)
    data = {"train": [str(folder / "x.npz")], "val": str(folder / "x.npz"), "batch_size": 8, "augment": "none"}
    content = {
        "model": {"name": f"{folder}/nets.py:tiny", "weights": "random"},
        "data": data,
        "method": "magnitude",
        "budget": "macs<=60%",
        "train": {"epochs": 1},
        "measure": None,
        "device": "cpu",
    }
    (folder / "my.yaml").write_text(yaml.safe_dump(content))
    remember(content["model"]["name"])  # as a user who has run it by --trust
    edakari.run(recipe_from(content), folder / "run")
    torch.save({"w": torch.zeros(2)}, folder / "best.pth")
    return folder


@pytest.fixture
def copy(made, tmp_path):
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def still(monkeypatch):
    """No network may run."""

    def called(*args, **kwargs):
        raise AssertionError("a network ran")

    monkeypatch.setattr(nn.Module, "__call__", called)


def refused(*arguments):
    """The one line in which a command ends."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert found.exit_code == 1, found.output
    assert isinstance(found.exception, SystemExit)
    *notes, line = found.stderr.splitlines()
    assert line.startswith("Error: ")
    assert not [note for note in notes if "Error" in note or "Traceback" in note]
    return line


WRITING = {
    "prune": ("prune", "{made}/my.yaml", "--trust", "-o", "{place}/run"),
    "demo": ("demo", "-o", "{place}/run"),
    "train": ("train", "{made}/my.yaml", "--trust", "-o", "{place}/x.safetensors"),
    "export": ("export", "{made}/run", "--trust", "-o", "{place}"),
    "export program": ("export", "{made}/run", "--trust", "-o", "{place}/new", "--to", "program"),
    "inspect": ("inspect", "edakari:resnet20", "--html", "{place}/x.html"),
    "convert": ("convert", "{made}/best.pth", "{place}/x.safetensors"),
}


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("place", ["locked", "hidden", "file", "n" * 300, "/proc/edakari"])
@pytest.mark.parametrize("command", WRITING)
def test_a_command_that_cannot_write_says_so_before_it_works(made, tmp_path, command, place):
    (tmp_path / "file").write_text("mine")
    for name in ("locked", "hidden"):
        (tmp_path / name).mkdir()
    target = tmp_path / place  # an absolute one stays what it is
    arguments = [part.format(made=made, place=target) for part in WRITING[command]]
    with locked(tmp_path / "hidden", 0), locked(tmp_path / "locked"):
        assert str(target) in refused(*arguments)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "hidden", "locked"]


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("mode", [0o555, 0o000])
@pytest.mark.parametrize(
    "arguments",
    [
        ("prune", "{run}"),
        ("prune", "{run}/recipe.yaml", "--overwrite"),
        ("report", "{run}"),
        ("export", "{run}", "--to", "program"),
        ("explain", "rfc", "{run}"),
        ("explain", "isp", "{run}"),
        ("explain", "tokens", "{run}"),
    ],
)
def test_a_command_on_a_run_that_cannot_be_written_says_so_before_it_works(copy, arguments, mode):
    (copy / "stages" / "report.json").unlink()
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with locked(copy, mode):
        assert str(copy) in refused(*(part.format(run=copy) for part in arguments))
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("part", ["stages", "pruned", "."])
def test_a_run_whose_parts_cannot_be_written_is_not_gone_on_with(copy, part, still):
    (copy / "stages" / "report.json").unlink()
    with locked(copy / part):
        assert "permission denied" in refused("prune", copy)


def test_a_finished_run_is_used_where_nothing_can_be_written(copy):
    with locked(copy):
        for arguments in (("prune", copy), ("report", copy, "--json")):
            found = CliRunner().invoke(app, [str(argument) for argument in arguments])
            assert found.exit_code == 0, found.output
        edakari.load(copy, trust_code=True)


def functions(made, run, place):
    recipe = recipe_from(yaml.safe_load((made / "my.yaml").read_text()))
    model, example = build(recipe.model), torch.zeros(1, 1, 8, 8)
    small = edakari.load(made / "run", trust_code=True)
    writing = [
        lambda: edakari.save(small, load_plan(made / "run"), place / "x", base=model),
        lambda: to_onnx(model, example, place / "x.onnx"),
        lambda: to_program(model, example, place / "x.pt2"),
        lambda: edakari.run(recipe, place / "run"),
        lambda: train_dense(recipe, place / "x.safetensors"),
        lambda: edakari.measure_latency(model, example, "torch", cache=place),
    ]
    reading = [
        lambda: collect(run),
        lambda: write_report(run),
        lambda: edakari.load(run, model),
        lambda: load_plan(run),
        lambda: networks(run),
        lambda: edakari.run(recipe, run),
        lambda: build("edakari:resnet20", weights=run / "weights.safetensors"),
        lambda: edakari.pipeline.read_recipe(run / "recipe.yaml"),
    ]
    return writing, reading


def test_every_function_that_writes_or_reads_files_raises_one_error(made, copy, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "locked").mkdir()
    for place in (tmp_path / "file", tmp_path / "locked", Path("/proc/edakari")):
        writing, reading = functions(made, copy, place)
        with locked(tmp_path / "locked"):
            for call in writing:
                with pytest.raises(EdakariError) as caught:
                    call()
                assert str(place) in str(caught.value)
    with locked(copy, 0):
        for call in reading:
            with pytest.raises(EdakariError) as caught:
                call()
            assert str(copy) in str(caught.value)


@pytest.mark.parametrize("home", ["", "/proc/nohome", "locked", "file"])
def test_without_a_home_tables_lie_in_a_temporary_folder_and_a_note_says_so(tmp_path, monkeypatch, home):
    from edakari.latency import cache_folder

    (tmp_path / "file").write_text("mine")
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("EDAKARI_CACHE", raising=False)
    if home:
        monkeypatch.setenv("HOME", str(tmp_path / home))
    else:
        monkeypatch.setattr(Path, "home", classmethod(lambda cls: (_ for _ in ()).throw(RuntimeError("no home"))))
    with locked(tmp_path / "locked"), pytest.warns(EdakariWarning, match="EDAKARI_CACHE"):
        folder = cache_folder()
    assert folder.is_relative_to(tmp_path)
    assert folder.parent.stat().st_mode & 0o077 == 0
    folder.parent.chmod(0o777)
    with locked(tmp_path / "locked"), pytest.raises(EdakariError, match="other users may write"):
        cache_folder()


def test_a_home_that_can_be_written_is_used(tmp_path, monkeypatch):
    from edakari.latency import cache_folder

    monkeypatch.delenv("EDAKARI_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with held():
        assert cache_folder() == tmp_path / ".cache" / "edakari" / "latency"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["file", "locked"])
def test_a_cache_that_cannot_be_written_is_told_before_layers_are_timed(tmp_path, monkeypatch, place):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "locked").mkdir()
    monkeypatch.setenv("EDAKARI_CACHE", str(tmp_path / place))
    monkeypatch.setattr("edakari.latency.model.fill", lambda *args, **kwargs: pytest.fail("layers were timed"))
    with locked(tmp_path / "locked"):
        said = refused("measure", "edakari:resnet20", "--calibrate", "--runtime", "torch", "--networks", "4")
    assert str(tmp_path / place) in said
    assert "--cache" in said
