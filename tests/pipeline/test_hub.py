"""The files of a repository, and their upload to a server that is not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

import edakari
from edakari.cli.main import app
from edakari.errors import ExportError, RunFolderError
from edakari.pipeline.hub import hub_files, push

CLASSES = ["cat", "a|b", "line\nbreak: `x`"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with an export."""
    folder = tmp_path_factory.mktemp("hub")
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (12, 28, 28), dtype=np.uint8), np.arange(12) % 10
    names = np.array([*CLASSES, *map(str, range(7))])
    np.savez(folder / "secret_place.npz", images=images, labels=labels, class_names=names)
    path = str(folder / "secret_place.npz")
    recipe = {
        "model": {"name": "edakari:fashion_cnn", "weights": "pretrained"},
        "data": {"train": [path], "val": path, "workers": 0, "image_size": 28},
        "method": "magnitude",
        "budget": "macs<=60%",
        "export": ["onnx"],
        "device": "cpu",
    }
    edakari.run(recipe, folder / "run")
    return folder / "run"


class FakeApi:
    """Keeps what it is told."""

    calls: list[tuple[str, Any]]

    def __init__(self, **_: Any) -> None:
        """Nothing to log in to."""

    def create_repo(self, repo_id: str, **how: Any) -> str:
        self.calls.append(("create", (repo_id, how)))
        return f"https://hub/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        files = {
            p.relative_to(folder_path).as_posix(): p.read_bytes() for p in Path(folder_path).rglob("*") if p.is_file()
        }
        self.calls.append(("upload", (repo_id, files)))


def test_a_run_is_pushed_with_all_that_its_users_need(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(FakeApi, "calls", [], raising=False)
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    found = CliRunner().invoke(app, ["push", str(run), "me/small-net", "--private"])
    assert found.exit_code == 0, found.output
    assert "https://hub/me/small-net" in found.stdout
    (_, created), (_, (repo, files)) = FakeApi.calls
    assert created == ("me/small-net", {"private": True, "exist_ok": True})
    assert repo == "me/small-net"
    assert set(files) == {
        "README.md", "config.json", "plan.json", "network.json", "weights.safetensors",
        "export/pruned.onnx", "export/model.json", "export/infer.py",
    }  # fmt: skip
    assert not [name for name, content in files.items() if b"secret_place" in content or str(run).encode() in content]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    x = torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        assert torch.equal(edakari.load(tmp_path)(x), edakari.load(run)(x))


def test_the_card_and_the_configuration_say_what_the_report_says(run: Path, tmp_path: Path) -> None:
    hub_files(run, "me/small-net", tmp_path)
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    _, head, text = card.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert (metadata["library_name"], metadata["pipeline_tag"]) == ("edakari", "image-classification")
    last = report["networks"][-1]
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == last["metrics"]["top1"]
    for words in ("macs<=60%", "`magnitude`", "python infer.py", "edakari.load", "[batch, 1, 28, 28]"):
        assert words in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {4}
    assert f"| top-1 accuracy | {report['networks'][0]['metrics']['top1']:.2%}".replace("%", " %") in text
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["architecture"] == "edakari:fashion_cnn"
    assert config["label_names"][:3] == CLASSES
    assert config["pretrained_cfg"]["input_size"] == [1, 28, 28]
    assert config["pretrained_cfg"]["crop_pct"] == 1.0
    assert config["edakari"]["plan"] == json.loads((tmp_path / "export" / "model.json").read_text())["plan"]


@pytest.mark.parametrize(
    "how", [{}, {"mean": [0.5]}, {"mean": "0.5", "std": [1.0], "size": 8, "channels": 1, "resize": []}]
)
def test_preprocessing_of_the_users_own_is_left_out(run: Path, tmp_path: Path, how: dict[str, Any]) -> None:
    shutil.copytree(run, tmp_path / "run")
    facts = json.loads((run / "task.json").read_text(encoding="utf-8"))
    (tmp_path / "run" / "task.json").write_text(json.dumps({**facts, "preprocessing": how}), encoding="utf-8")
    hub_files(tmp_path / "run", "me/net", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert set(config["pretrained_cfg"]) == {"num_classes", "label_names"}
    assert "Input:" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_what_cannot_be_pushed_is_told(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(ExportError, match=r"USER/NAME .*found 'no name'"):
        hub_files(run, "no name", tmp_path)
    with pytest.raises(RunFolderError):
        hub_files(tmp_path, "me/net", tmp_path / "out")

    class Refusing(FakeApi):
        def create_repo(self, repo_id: str, **how: Any) -> str:
            raise OSError("401 Client Error\nlong text")

    monkeypatch.setattr(huggingface_hub, "HfApi", Refusing)
    with pytest.raises(ExportError, match=r"me/net cannot be pushed: OSError: 401 Client Error\. Log in"):
        push(run, "me/net")


def test_files_outside_of_a_strangers_run_are_not_pushed(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "private.txt").write_text("secret")
    (tmp_path / "run" / "export" / "pruned.onnx").unlink()
    (tmp_path / "run" / "export" / "pruned.onnx").symlink_to(tmp_path / "private.txt")
    with pytest.raises(RunFolderError, match=r"pruned\.onnx cannot be copied: .* leads out of the folder"):
        hub_files(tmp_path / "run", "me/net", tmp_path / "out")
    about = json.loads((tmp_path / "run" / "export" / "model.json").read_text(encoding="utf-8"))
    about["files"][1]["path"] = "../../private.txt"
    (tmp_path / "run" / "export" / "model.json").write_text(json.dumps(about), encoding="utf-8")
    hub_files(tmp_path / "run", "me/net", tmp_path / "again")
    assert not (tmp_path / "again" / "export").exists()


def test_the_files_can_be_written_without_a_push(run: Path, tmp_path: Path) -> None:
    arguments = ["push", str(run), "me/net", "--output", str(tmp_path / "files")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert (tmp_path / "files" / "README.md").is_file()
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1
    assert "is not empty" in again.stderr
