"""The quantisation of a run: four corners, the file, and what cannot be quantised."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import edakari
from edakari.cli.main import app
from edakari.errors import DataError, ExportError, SettingsError
from edakari.export import quantizing, to_int8
from edakari.export.calibration import calibration_inputs, pieces
from edakari.export.int8 import QuantizeSettings
from edakari.export.onnx_model import write_onnx
from edakari.export.onnx_network import OnnxNetwork
from edakari.pipeline import MeasureSettings
from edakari.pipeline.quantizing import quantize_run
from edakari.report import collect


def loader(count, size=16):
    torch.manual_seed(1)
    return [(torch.randn(size, 1, 8, 8), torch.randint(0, 3, (size,))) for _ in range(count // size)]


def accuracy(model, batches):
    found = [(model(x).argmax(1) == y).float() for x, y in batches]
    return {"accuracy": float(torch.cat(found).mean())}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    ).eval()  # fmt: skip


EXAMPLE = torch.zeros(1, 1, 8, 8)


def task(count=48):
    return edakari.Task.of(EXAMPLE, train=loader(48), val=loader(48), calibration=loader(count), evaluate=accuracy)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    given = edakari.prune(
        network(),
        task(),
        "macs<=60%",
        output=folder,
        quantize=QuantizeSettings(images=32),
        device="cpu",
        measure=MeasureSettings(runtimes=("torch",), repeats=3),
    )
    return given, folder


def test_the_report_has_four_corners(finished):
    result, folder = finished
    found = result.results.quantize
    assert [(each.network, each.precision) for each in found.corners] == [
        ("dense", "fp32"), ("dense", "int8"), ("pruned", "fp32"), ("pruned", "int8"),
    ]  # fmt: skip
    assert all(each.latency.median_ms > 0 and 0 <= each.metrics["accuracy"] <= 1 for each in found.corners)
    assert found.corners[0].metrics == dict(result.results.dense.metrics)
    assert found.images == 32
    assert 0 < found.difference < 0.2
    assert found.agreement > 0.5
    assert collect(folder)["int8"]["corners"][3]["precision"] == "int8"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "pruned, int8" in page


def test_the_file_is_the_network_in_int8(finished):
    result, folder = finished
    content = (folder / "export" / "pruned.int8.onnx").read_bytes()
    named = {each["path"]: each for each in json.loads((folder / "export" / "model.json").read_text())["files"]}
    assert named["pruned.int8.onnx"]["network"] == "pruned"
    assert [each["name"] for each in named["pruned.int8.onnx"]["inputs"]] == ["input"]
    operators = {node.op_type for node in onnx.load_from_string(content).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    judged = task().evaluate(OnnxNetwork(content, result.model, EXAMPLE))
    assert judged == dict(result.results.quantize.corners[3].metrics)


def test_a_run_without_it_quantises_nothing(content, tmp_path):
    result = edakari.run(content | {"finetune": None}, tmp_path / "run")
    assert not result.results.quantize.corners
    assert result.report["int8"] is None


def test_a_finished_run_is_quantised_by_the_command_line(content, tmp_path):
    folder = tmp_path / "run"
    content |= {"finetune": None}
    edakari.run(content, folder)
    told = CliRunner().invoke(app, ["quantize", str(folder), "--images", "16", "--exclude", "0", "--json"])
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["file"] == "export/pruned.int8.onnx"
    weights = {each.name for each in onnx.load(folder / found["file"]).graph.initializer}
    assert "0.weight" in weights
    assert collect(folder)["int8"]["images"] == 16
    with pytest.raises(SettingsError, match="matches 'head'"):
        quantize_run(folder, QuantizeSettings(exclude=("head",)))


def test_too_few_calibration_images_are_refused():
    with pytest.raises(DataError, match=r"at least 32 calibration images.*has 16"):
        calibration_inputs(network(), EXAMPLE, task(16), 256)
    assert len(calibration_inputs(network(), EXAMPLE, task(48), 40)) == 40


def test_calibration_images_of_another_size_are_refused():
    with pytest.raises(DataError, match=r"shape \(1, 8, 8\), but the exported network takes \(1, 9, 9\) as 'input'"):
        calibration_inputs(network(), torch.zeros(1, 1, 9, 9), task(), 32)


@pytest.mark.parametrize(("count", "size"), [(7, 3), (6, 3), (1, 4)])
def test_an_exported_network_takes_any_number_of_images(count, size, tmp_path):
    model, images = network(), torch.randn(count, 1, 8, 8)
    example = torch.zeros(size, 1, 8, 8)
    content = write_onnx(model, example, tmp_path / "net.onnx").read_bytes()
    with torch.no_grad():
        assert torch.allclose(OnnxNetwork(content, model, example)(images), model(images), atol=1e-5)
    assert all(len(piece) == size for piece in pieces(images, size))


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, images):
        logits = self.net(images)
        return {"logits": logits, "loss": None, "twice": [2 * logits]}


def test_an_exported_network_gives_outputs_of_the_module_s_form(tmp_path):
    model, images = Named().eval(), torch.randn(5, 1, 8, 8)
    content = write_onnx(model, EXAMPLE, tmp_path / "net.onnx").read_bytes()
    found = OnnxNetwork(content, model, EXAMPLE)(images=images)
    assert list(found) == ["logits", "loss", "twice"]
    assert found["loss"] is None
    assert torch.equal(found["twice"][0], 2 * found["logits"])
    assert found["logits"].shape == (5, 3)


def outliers():
    """A network with a layer that int8 ruins: beside the huge weight of an almost empty input, the others become 0."""
    model, images = network(), torch.cat([x for x, _ in loader(48)])
    with torch.no_grad():
        model[0].weight[0] *= 1e-6
        model[0].bias[0] = 0
        model[3].weight[:, 0] *= 1e5
        model[7].bias -= model(images).mean(0)  # so that all classes occur
    return model


def test_a_large_drop_names_the_layers(tmp_path):
    path = tmp_path / "net.onnx"
    asked = QuantizeSettings(images=32, max_drop=0.0)
    model = outliers()
    labels = [(x, model(x).argmax(1)) for x, _ in loader(48)]
    own = edakari.Task.of(EXAMPLE, val=labels, calibration=loader(48), evaluate=accuracy)
    with pytest.raises(ExportError, match=r"loses .* of accuracy .*alone is quantised: 3 \(") as told:
        to_int8(model, EXAMPLE, own, path, settings=asked)
    assert "quantize.exclude: ['3']" in str(told.value)
    assert not path.exists()
    check = to_int8(model, EXAMPLE, own, path, settings=QuantizeSettings(images=32, exclude=("3",)))
    assert check.difference < 0.2
    assert check.bytes == path.stat().st_size


def test_a_drop_cannot_be_limited_without_a_metric(tmp_path):
    bare = edakari.Task.of(EXAMPLE, train=loader(48))
    with pytest.raises(ExportError, match="max_drop limits the loss of a metric, but the task gives no metrics"):
        edakari.prune(network(), bare, "macs<=60%", quantize=QuantizeSettings(max_drop=0.1), device="cpu")


def test_without_data_nothing_is_quantised():
    with pytest.raises(DataError, match="quantisation to int8 cannot do without data"):
        edakari.prune(network(), EXAMPLE, "macs<=60%", quantize=QuantizeSettings())


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_values_that_are_not_finite_are_refused():
    model = network()
    with torch.no_grad():
        model[7].bias[0] = np.inf
    with pytest.raises(ExportError, match="not finite"):
        quantizing.quantize_network(model, EXAMPLE, task(), QuantizeSettings(images=32))
