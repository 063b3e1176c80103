"""`edakari explain isp`: one command after the run, pictures and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from edakari.cli.main import app
from edakari.pipeline.explained import run_saliency
from edakari.report.saliency import Looks, SaliencyView, shares

METHOD = {"name": "isp", "predictor_epochs": 1, "explainer_epochs": 1, "gate_epochs": 6, "gate_lr": 0.5}


def pruned(content: dict[str, Any], folder: Path, method: dict[str, Any]) -> Path:
    content = {**content, "method": method, "measure": None, "finetune": {"epochs": 1, "lr": 0.01}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    done = CliRunner().invoke(app, ["prune", str(folder / "recipe.yaml"), "--output", str(folder / "run")])
    assert done.exit_code == 0, done.output
    return folder / "run"


@pytest.mark.parametrize("options", [{}, {"selector": "realx", "labels": "predicted"}])
def test_a_run_is_explained_by_one_command(content: dict[str, Any], tmp_path: Path, options: dict[str, Any]) -> None:
    run = pruned(content, tmp_path, {**METHOD, **options})
    assert sorted(path.name for path in (run / "kept").iterdir()) == [
        "explainer.safetensors",
        "gates.json",
        "gates.safetensors",
        "predictor.safetensors",
        "saliency.json",
    ]
    done = CliRunner().invoke(app, ["explain", "isp", str(run), "--json", "--columns", "3"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert figures["images"] == 24
    assert 0 <= figures["agreement_pruned"] <= 1
    for name in ("isp-images.png", "isp-agreement.png"):
        assert min(Image.open(run / "explain" / name).size) > 300
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Where the network looks" in page
    assert page.count("data:image/png;base64,") == 2


def test_before_fine_tuning_it_looks_elsewhere(content: dict[str, Any], tmp_path: Path) -> None:
    run = pruned(content, tmp_path, METHOD)
    finished, cut = run_saliency(run, 10), run_saliency(run, 10, "pruned")
    assert len(finished.images) == 10
    assert np.array_equal(finished.dense.masks, cut.dense.masks)
    assert not np.array_equal(finished.pruned.masks, cut.pruned.masks)


def test_a_run_of_another_method_is_told(content: dict[str, Any], tmp_path: Path) -> None:
    run = pruned(content, tmp_path, {"name": "magnitude"})
    done = CliRunner().invoke(app, ["explain", "isp", str(run)])
    assert done.exit_code == 1
    assert "its method was 'magnitude', and only 'isp' trains one" in done.stderr.replace("\n", " ")


def test_figures_by_hand() -> None:
    masks = np.zeros((2, 4, 4))
    masks[:, :2] = 1.0
    other = np.zeros((2, 4, 4))
    other[0, :2], other[1, 1:3] = 1.0, 1.0
    said = np.array([0, 1])
    centre = np.array([[1.0, 2.0], [1.0, 2.0]])
    dense = Looks(centre, np.ones(2), masks, said, said, said[::-1].copy())
    moved = Looks(centre + np.array([[0.0, 0.0], [3.0, 4.0]]), np.ones(2), other, said, np.array([0, 0]), said)
    view = SaliencyView(np.zeros((2, 4, 4, 1)), said, ("a", "b"), dense, moved)
    found = shares(view)
    assert view.overlaps.tolist() == [1.0, pytest.approx(1 / 3)]
    assert view.shifts.tolist() == [0.0, 5.0]
    assert (found["agreement_dense"], found["agreement_pruned"]) == (1.0, 0.5)
    assert (found["chance_dense"], found["same_class"], found["shown_dense"]) == (0.0, 1.0, 0.5)
