"""Pictures of filters: what is in them, how crops are cut, and how they come into the report."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
import yaml
from torch import nn
from typer.testing import CliRunner

import edakari
from edakari.cli.main import app
from edakari.core.plan import Plan
from edakari.criteria.responses import Response
from edakari.errors import RunFolderError, UnknownName
from edakari.explain.filters import Choice, _cropped, filter_views
from edakari.graph.receptive import Field
from edakari.pipeline.explained import run_filters
from edakari.report import collect
from edakari.report.explanation import Explanation, Picture, explanations, write_explanation
from edakari.tasks import DataSettings, image_task


@pytest.fixture
def run(content: dict, tmp_path: Path) -> Path:
    content["finetune"] = content["measure"] = None
    content["method"] = {"name": "rfc", "criterion": {"responses": {"top": 8}}}
    recipe = tmp_path / "my.yaml"
    recipe.write_text(yaml.safe_dump(content))
    found = CliRunner().invoke(app, ["prune", str(recipe), "--output", str(tmp_path / "run")])
    assert found.exit_code == 0, found.output
    return tmp_path / "run"


def test_the_command_draws_into_the_folder_and_the_report(run: Path) -> None:
    found = CliRunner().invoke(app, ["explain", "rfc", str(run), "--top", "8", "--filters", "4", "--crops", "3"])
    assert found.exit_code == 0, found.output
    names = {path.name for path in (run / "explain").iterdir()}
    assert names == {"rfc.json", "rfc-layers.png", "rfc-0.png", "rfc-3.png"}
    page = (run / "report.html").read_text()
    assert "What filters respond to" in page
    assert page.count("data:image/png;base64,") == 3
    assert [each["name"] for each in collect(run)["explanations"]] == ["rfc"]
    picture = matplotlib.image.imread(run / "explain" / "rfc-0.png")
    assert picture.shape[0] > 200
    assert picture[:, :, :3].std() > 0.05
    again = CliRunner().invoke(app, ["explain", "rfc", str(run), "--top", "8", "--layer", "3"])
    assert again.exit_code == 0
    assert len(json.loads((run / "explain" / "rfc.json").read_text())["pictures"]) == 2


def test_a_view_holds_the_ends_of_the_ranking_and_what_the_plan_keeps(run: Path) -> None:
    views = run_filters(run, Choice(filters=4, crops=3, top=8))
    assert [layer.name for layer in views.layers] == ["0", "3"]
    assert views.images == 48
    assert views.top == 8
    for layer in views.layers:
        drawn = [each.entropy for each in layer.filters]
        assert drawn == sorted(drawn)
        assert drawn[0] == layer.entropies.min()
        assert drawn[-1] == layer.entropies.max()
        for each in layer.filters:
            assert each.kept == layer.kept[each.index]
            assert len(each.crops) == len(each.labels) == 3
            assert each.shares.sum() == pytest.approx(1)
    first, second = views.layers
    assert first.field == (3, 3)
    assert second.field == (5, 5)
    # what is too small to be made out is shown with what lies around it
    assert first.filters[0].crops[0].shape == (13, 13, 1)
    assert any(not layer.kept.all() for layer in views.layers)


def test_a_crop_is_what_the_filter_sees_where_it_responds_most() -> None:
    pixels = np.arange(900, dtype=np.float64).reshape(30, 30, 1) / 900
    seen = {2: Field(15, 2, -1), 3: Field(15, 2, -1)}
    response = Response(torch.ones(1, 2), torch.tensor([[4, 0]]), (3, 3))
    middle = _cropped(pixels, response, 0, 0, seen)
    np.testing.assert_array_equal(middle, pixels[1:16, 1:16])
    corner = _cropped(pixels, response, 0, 1, seen)
    assert corner.shape == (15, 15, 1)
    assert np.isnan(corner[0]).all()
    assert np.isnan(corner[:, 0]).all()
    np.testing.assert_array_equal(corner[1:, 1:], pixels[:14, :14])
    small = _cropped(pixels, response, 0, 0, {2: Field(3, 8, -1), 3: Field(3, 8, -1)})
    np.testing.assert_array_equal(small, pixels[2:15, 2:15])
    whole = _cropped(pixels, response, 0, 1, {2: Field(31, 2, -4), 3: Field(31, 2, -4)})
    assert whole is pixels
    assert _cropped(pixels, response, 0, 1, None) is pixels


@pytest.mark.parametrize("labels", ["data", "predicted"])
def test_the_class_of_a_crop_is_that_of_the_pixel_where_labels_belong_to_pixels(tmp_path: Path, labels: str) -> None:
    random = np.random.default_rng(0)
    images, maps = random.integers(0, 256, (30, 8, 8), np.uint8), random.integers(0, 2, (30, 8, 8), np.int64)
    np.savez(tmp_path / "d.npz", images=images, labels=maps)
    task = image_task(DataSettings(task="segmentation", source=str(tmp_path / "d.npz")))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(task.example().shape[1], 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    graph = edakari.trace(model, task.example())
    views = filter_views(
        model, Plan((), graph.fingerprint, graph.inputs), task, Choice(filters=4, crops=3, top=5, labels=labels)
    )
    x, own = (torch.cat(parts) for parts in zip(*task.batches("calibration"), strict=True))
    with torch.no_grad():
        shown = own if labels == "data" else model(x).argmax(1)
        maps_FNS = model[:2](x).flatten(2).movedim(1, 0)
    values_FN, positions_FN = maps_FNS.max(2)
    for filter_view in views.layers[0].filters:
        index = filter_view.index
        strongest = values_FN[index].topk(3).indices
        expected = [int(shown[image].flatten()[positions_FN[index, image]]) for image in strongest]
        assert list(filter_view.labels) == expected


def test_wrong_names_and_folders(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown layer 'blocks"):
        run_filters(run, Choice(layers=("blocks.*",), top=8))
    (run / "stages" / "prune.json").unlink()
    with pytest.raises(RunFolderError, match="no pruned network yet"):
        run_filters(run)
    with pytest.raises(RunFolderError):
        run_filters(tmp_path / "nowhere")


def test_too_few_images_are_said_on_the_command_line(run: Path) -> None:
    found = CliRunner().invoke(app, ["explain", "rfc", str(run), "--top", "400"])
    assert found.exit_code == 1
    assert "there are 48 images" in found.output


def test_explanations_are_kept_and_damage_is_said(tmp_path: Path) -> None:
    explanation = Explanation(name="own", title="Own", text="text", pictures=(Picture(file="a.png", title="A"),))
    path = write_explanation(explanation, tmp_path)
    with pytest.raises(RunFolderError, match=r"'a\.png', which is not there"):
        explanations(tmp_path)
    (path.parent / "a.png").write_bytes(b"png")
    assert explanations(tmp_path)[0]["title"] == "Own"
    path.write_text("{")
    with pytest.raises(RunFolderError, match="cannot be read"):
        explanations(tmp_path)
