"""Other formats than ONNX: compared where their runtime is installed, one clear error where the converter is not."""

from __future__ import annotations

import importlib
import platform
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edakari.errors import ExportError, MissingPackage
from edakari.export import EXPORTERS, About

EXAMPLE = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
ABOUT = About("images", "logits", {"task": "classification", "classes": ["cat", "dog"]})
FORMATS = {
    "openvino": ("openvino", "xml"),
    "executorch": ("executorch", "pte"),
    "coreml": ("coremltools", "mlpackage"),
    "litert": ("litert_torch", "tflite"),
}


class Refused(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


def network(*last: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    return nn.Sequential(*body, *last).train()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_network_is_written_and_compared(tmp_path: Path, kind: str) -> None:
    package, suffix = FORMATS[kind]
    pytest.importorskip(package)
    model, path = network(), tmp_path / "out" / f"pruned.{suffix}"
    check = EXPORTERS.named(kind)(model, EXAMPLE, path, about=ABOUT)
    assert (check.path, check.format) == (path, kind)
    assert model.training
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    beside = [path.with_suffix(".bin")] if kind == "openvino" else []
    assert check.bytes == sum(each.stat().st_size for each in (*files, *beside))
    if kind == "coreml" and platform.system() != "Darwin":
        assert check.absolute is None
    else:
        assert check.relative is not None
        assert check.relative <= 1e-4


@pytest.mark.parametrize("kind", FORMATS)
def test_an_operator_that_a_converter_refuses_is_named_with_its_module(tmp_path: Path, kind: str) -> None:
    package, suffix = FORMATS[kind]
    pytest.importorskip(package)
    model = network(nn.Sequential(nn.ReLU(), Refused()))
    with pytest.raises(ExportError, match=r"Sequential cannot be exported to .*bessel_j0.*6\.1"):
        EXPORTERS.named(kind)(model, EXAMPLE, tmp_path / f"pruned.{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", FORMATS)
def test_a_converter_that_is_not_installed_is_told(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    gone = FORMATS[kind][0]
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == gone else found(name, *rest))
    install = (
        rf"needs {gone}, not installed here: pip install .*{'edakari.openvino' if kind == 'openvino' else gone[:6]}"
    )
    with pytest.raises(MissingPackage, match=install):
        EXPORTERS.named(kind)(network(), EXAMPLE, tmp_path / "pruned")
    assert not list(tmp_path.iterdir())


def test_openvino_takes_other_batches_and_says_what_it_is(tmp_path: Path) -> None:
    openvino: Any = pytest.importorskip("openvino")
    model = network().eval()
    EXPORTERS.named("openvino")(model, EXAMPLE, tmp_path / "pruned.xml", about=ABOUT, dynamic_batch=True)
    found = openvino.Core().read_model(str(tmp_path / "pruned.xml"))
    assert found.get_rt_info(["edakari", "classes"]).value == '["cat", "dog"]'
    assert [each.get_any_name() for each in (*found.inputs, *found.outputs)] == ["images", "logits"]
    images = torch.rand(4, 3, 12, 12)
    given = openvino.Core().compile_model(found, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(images.numpy())
    assert torch.allclose(torch.from_numpy(next(iter(given.values()))), model(images), atol=1e-5)


def test_a_variable_batch_is_refused_where_a_format_has_none(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"variable batch size cannot be exported to \.pt2"):
        EXPORTERS.named("program")(network(), EXAMPLE, tmp_path / "pruned.pt2", dynamic_batch=True)
