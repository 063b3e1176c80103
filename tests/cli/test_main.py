import json
import subprocess
import sys

import pytest
import torch
import yaml
from typer.testing import CliRunner

import edakari.pipeline.stages as stages_module
from edakari.cli.main import app
from edakari.train.precision import _warn_of_emulation


def call(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def recipe(content, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def run(recipe, tmp_path):
    found = call("prune", str(recipe), "--output", str(tmp_path / "run"), "--set", "measure=null")
    assert found.exit_code == 0, found.output
    return tmp_path / "run"


def test_help_is_quick_and_needs_no_torch():
    code = "import sys, edakari.cli.main, edakari.cli.tables; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    found = call("--help")
    assert found.exit_code == 0
    for name in ("demo", "inspect", "prune", "measure", "export", "report", "methods", "train"):
        assert name in found.output


def test_a_run_on_the_command_line(run):
    found = call("report", str(run))
    assert found.exit_code == 0
    assert "report.html" in found.stdout
    assert "MACs" in found.stdout


@pytest.mark.filterwarnings("default::edakari.errors.EdakariWarning")
def test_what_a_user_should_know_is_a_note(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    _warn_of_emulation.cache_clear()
    found = call(
        *("prune", str(recipe), "--output", str(tmp_path / "run"), "--set", "measure=null"),
        *("--set", "finetune.precision=bf16"),
    )
    assert found.exit_code == 0, found.output
    (note,) = [line for line in found.stderr.splitlines() if "bf16" in line]
    assert note.startswith("Note: precision 'bf16' on this processor, which has no instructions for it")
    assert "EdakariWarning" not in found.stderr


def test_a_finished_run_says_so(run, recipe):
    found = call("prune", str(recipe), "--output", str(run), "--set", "measure=null", "--json")
    assert found.exit_code == 0
    assert "finished before" in found.stderr
    assert json.loads(found.stdout)["finished"]


def test_the_report_as_json_writes_nothing(run):
    before = (run / "report.json").stat().st_mtime_ns
    content = json.loads(call("report", str(run), "--json").stdout)
    assert [network["name"] for network in content["networks"]] == ["dense", "pruned", "fine-tuned"]
    assert (run / "report.json").stat().st_mtime_ns == before


def test_a_condition_on_a_run_is_an_exit_code(run):
    assert call("report", str(run), "--fail-if", "macs>100%", "--fail-if", "budget_excess>0").exit_code == 0
    found = call("report", str(run), "--fail-if", "macs>1%, params>100%", "--json")
    assert found.exit_code == 3
    (line,) = found.stderr.splitlines()
    assert line.startswith("Failed: macs is ")
    assert json.loads(found.stdout)["finished"]
    wrong = call("report", str(run), "--fail-if", "mags>1%")
    assert wrong.exit_code == 1
    assert "did you mean 'macs'" in wrong.stderr


def test_measure(run):
    found = call(
        "measure", str(run), "--runtime", "torch", "--repeats", "3", "--batch", "2", "--spread", "100", "--json"
    )
    timings = json.loads(found.stdout)["runtimes"]["torch"]
    assert set(timings) == {"dense", "pruned"}
    assert timings["pruned"]["repeats"] >= 3
    assert "as fast" in call("measure", str(run), "--runtime", "torch", "--repeats", "2", "--spread", "100").stdout


def test_export_refuses_to_overwrite(run, tmp_path):
    target = tmp_path / "out"
    assert call("export", str(run), "--to", "program", "--output", str(target)).exit_code == 0
    found = call("export", str(run), "--to", "program", "--output", str(target))
    assert found.exit_code == 1
    assert "already exists" in found.stderr
    assert sorted(path.name for path in target.iterdir()) == ["model.json", "pruned.pt2"]


def test_inspect_as_json():
    found = json.loads(call("inspect", "edakari:fashion_cnn", "--json").stdout)
    assert found["costs"]["macs"] > 1e6
    assert found["input"] == [1, 1, 28, 28]
    assert {"name", "kind", "size", "macs_share", "params_share"} <= set(found["groups"][0])
    assert found["unprunable"]


def test_inspect_as_a_table():
    found = call("inspect", "edakari:resnet20", "--option", "num_classes=7", "--image-size", "48")
    assert found.exit_code == 0, found.output
    assert "1×3×48×48" in found.stdout
    assert "Not counted in the MACs" in found.stdout


def test_methods():
    assert json.loads(call("methods", "--json").stdout)["methods"]["score"]["settings"]["recovery_lr"] == 0.01
    assert "taylor" in call("methods").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["inspect", "edakari:fashion_cn"], 1, "fashion_cnn"),
        (["inspect", "timm:resnet50", "--option", "x"], 1, "key=value"),
        (["prune", "none.yaml"], 1, "none.yaml"),
        (["report", "nowhere"], 1, "no run folder"),
        (["measure", "nowhere"], 1, "recipe.yaml"),
        (["export", "nowhere"], 1, "recipe.yaml"),
        (["demo", "--model", "rnn"], 2, "rnn"),
        (["prnue"], 2, "prune"),
    ],
)
def test_errors_are_one_clear_line(arguments, code, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = call(*arguments)
    assert found.exit_code == code
    assert text in found.stderr
    assert "Traceback" not in found.output
    if code == 1:
        assert found.stderr.startswith("Error: ")
        assert len(found.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_interrupt_says_how_to_go_on(recipe, tmp_path, monkeypatch):
    def interrupted(run):
        raise KeyboardInterrupt

    monkeypatch.setattr(stages_module, "dense_stage", interrupted)
    found = call("prune", str(recipe), "--output", str(tmp_path / "run"))
    assert found.exit_code == 130
    assert "same command again" in found.stderr
    monkeypatch.undo()
    found = call("prune", str(recipe), "--output", str(tmp_path / "run"))
    assert found.exit_code == 0
    assert "done before" in found.stderr


def test_markup_in_names_is_shown_as_it_is(tmp_path):
    found = call("report", str(tmp_path / "[red]x"))
    assert "[red]x" in found.stderr


def test_a_run_goes_on_by_its_own_recipe(run):
    for argument in (run, run / "recipe.yaml"):
        found = call("prune", str(argument), "--json")
        assert found.exit_code == 0, found.output
        assert "finished before" in found.stderr
        assert "Random weights" in found.stderr
        assert json.loads(found.stdout)["finished"]


def test_a_project_folder_is_never_taken_for_a_run(recipe, tmp_path, monkeypatch):
    project = tmp_path / "project"
    project.mkdir()
    (project / "recipe.yaml").write_text(recipe.read_text())
    (project / "work").mkdir()
    (project / "work" / "thesis.txt").write_text("mine")
    monkeypatch.chdir(project)
    for more in ((), ("--overwrite",)):
        found = call("prune", "recipe.yaml", "--output", ".", *more)
        assert found.exit_code == 1
        assert "no run folder" in found.stderr
        assert "overwrite" not in found.stderr
    assert sorted(path.name for path in project.rglob("*")) == ["recipe.yaml", "thesis.txt", "work"]
    assert (project / "recipe.yaml").read_text() == recipe.read_text()
