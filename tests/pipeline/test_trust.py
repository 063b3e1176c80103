"""Code that only a file names runs if the user says so, and in no other case."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from typer.testing import CliRunner

import edakari
from edakari.cli.main import app
from edakari.errors import EdakariError, ModelError, UntrustedCode
from edakari.models import ModelSpec, build, check_trusted
from edakari.models.trust import remember, trusted_before
from edakari.pipeline import read_recipe, recipe_from
from edakari.pipeline.load import networks

COMMANDS = (
    ["measure", "RUN", "--runtime", "torch", "--repeats", "2", "--spread", "99"],
    ["export", "RUN", "--to", "program", "--overwrite"],
    ["explain", "rfc", "RUN", "--images", "16"],
    ["explain", "isp", "RUN"],
    ["explain", "tokens", "RUN"],
    ["prune", "RECIPE", "--output", "OTHER"],
    ["train", "RECIPE", "--output", "OTHER.safetensors"],
)


@pytest.fixture
def stranger(content: dict, tmp_path: Path) -> tuple[Path, Path]:
    """A finished run and a recipe, whose Python file is another one than the user has run, and what it leaves."""
    content = {**content, "finetune": None, "measure": None}
    edakari.run(recipe_from(content), tmp_path / "run")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**content, "train": {"epochs": 1}}))
    trace = tmp_path / "it_ran"
    nets = tmp_path / "nets.py"
    nets.write_text(nets.read_text() + f"\nopen({str(trace)!r}, 'w').close()\n")
    return tmp_path, trace


def call(command: list[str], folder: Path, *more: str):
    names = {"RUN": folder / "run", "RECIPE": folder / "recipe.yaml", "OTHER": folder / "other"}
    words = [str(names.get(word, word)).replace("OTHER", str(folder / "other")) for word in command]
    return CliRunner().invoke(app, [*words, *more])


def test_every_command_asks_before_it_runs_a_strangers_code(stranger):
    folder, trace = stranger
    for command in COMMANDS:
        found = call(command, folder)
        assert found.exit_code == 1, found.output
        text = found.stderr.replace("\n", " ")
        assert command[0] in ("prune", "train") or "recipe.yaml" in text
        assert all(word in text for word in ("nets.py", "tiny", "--trust", "trust_code=True")), text
        assert not trace.exists(), command
    assert sorted(path.name for path in folder.glob("other*")) == []
    for command in COMMANDS[:3]:
        assert call(command, folder, "--trust").exit_code == 0
        assert trace.exists(), command
        trace.unlink()
    # what was allowed once for somebody's folder is not allowed for good
    assert call(COMMANDS[0], folder).exit_code == 1


def test_a_recipe_run_by_trust_needs_none_later_until_its_code_changes(stranger):
    folder, trace = stranger
    assert call(COMMANDS[5], folder, "--trust").exit_code == 0
    assert trace.exists()
    for command in (COMMANDS[0], COMMANDS[5]):
        assert call(command, folder).exit_code == 0
    nets = folder / "nets.py"
    nets.write_text(nets.read_text() + "\n")
    assert call(COMMANDS[0], folder).exit_code == 1


def test_python_asks_too_and_an_own_network_needs_no_code(stranger):
    folder, trace = stranger
    for attempt in (
        lambda: edakari.load(folder / "run"),
        lambda: networks(folder / "run"),
        lambda: edakari.run(read_recipe(folder / "recipe.yaml"), folder / "run", overwrite=True),
    ):
        with pytest.raises(UntrustedCode, match=r"nets\.py"):
            attempt()
        assert not trace.exists()
    assert (folder / "run" / "report.html").is_file()  # an overwrite that may not begin removes nothing
    with pytest.raises(EdakariError) as other:
        edakari.load(folder / "run", build("edakari:resnet20"))
    assert not isinstance(other.value, UntrustedCode)
    assert not trace.exists()
    assert edakari.load(folder / "run", trust_code=True) is not None
    assert trace.exists()


def test_a_trusted_function_lets_no_other_function_or_file_run(tmp_path):
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("def make(): ...\ndef remove(): ...\n")
    remember(f"{tmp_path}/a.py:make")
    remember(f"{tmp_path}/missing.py:make")
    assert trusted_before(f"{tmp_path}/a.py:make")
    for name in ("a.py:remove", "b.py:make", "missing.py:make"):
        assert not trusted_before(f"{tmp_path}/{name}")


@pytest.mark.parametrize("named", ["file", "no home", "a folder in place of the file"])
def test_where_nothing_can_be_remembered_trust_is_asked_for_each_time(tmp_path, monkeypatch, named):
    (tmp_path / "a.py").write_text("def make(): ...\n")
    (tmp_path / "config").mkdir()
    if named.startswith("a folder"):
        (tmp_path / "config" / "trusted_code.txt").mkdir()
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("EDAKARI_CONFIG", str(tmp_path / ("blocked" if named == "file" else "config")))
    if named == "no home":
        monkeypatch.delenv("EDAKARI_CONFIG")
        monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    remember(f"{tmp_path}/a.py:make")
    assert not trusted_before(f"{tmp_path}/a.py:make")


@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"])
def test_options_that_unpickle_need_trust(option):
    spec = ModelSpec("timm:resnet18", {option: "evil.pth"})
    with pytest.raises(UntrustedCode, match=option):
        check_trusted(spec, "network.json", trust_code=False)
    check_trusted(spec, "network.json", trust_code=True)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit(0)", "sys.exit"),
        ("def make(): raise SystemExit(0)", "sys.exit"),
        ("raise OSError('no')", "OSError: no"),
        ("def make(:", "SyntaxError"),
        ("", "unknown function"),
        ("def make(): return 3", "not a torch.nn.Module"),
        ("from torch import nn\ndef make(): return nn.LazyConv2d(4, 3)", "uninitialised"),
    ],
)
def test_a_file_that_gives_no_network_is_one_error(tmp_path, code, said):
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "r.yaml").write_text(
        json.dumps(
            {
                "model": {"name": f"{tmp_path}/mine.py:make", "weights": "random"},
                "method": "magnitude",
                "budget": "macs<=50%",
            }
        )
    )
    words = ["prune", str(tmp_path / "r.yaml"), "--trust", "--output", str(tmp_path / "out")]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 1
    assert said in found.stderr
    assert not (tmp_path / "out").exists()


def test_an_uninitialised_network_is_refused_by_trace():
    with pytest.raises(ModelError, match="once"):
        edakari.trace(nn.Sequential(nn.LazyConv2d(4, 3)), torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("key", ["source", "train", "val"])
def test_a_strangers_data_set_is_code_wherever_it_stands(content: dict, tmp_path: Path, key: str) -> None:
    trace = tmp_path / "it_ran"
    (tmp_path / "sets.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    named = f"{tmp_path / 'sets.py'}:make"
    data = {"task": "detection", key: [named] if key == "train" else named}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**content, "data": data}))
    with pytest.raises(UntrustedCode, match=r"names Python code for its source of data: 'make' of .*sets.py"):
        read_recipe(path)
    assert not trace.exists()
