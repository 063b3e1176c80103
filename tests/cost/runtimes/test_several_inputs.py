"""Networks of several inputs are timed and exported as those of one are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import edakari
from edakari.cost.example import arguments, named_tensors, shapes_text
from edakari.errors import ExportError, MeasurementError
from edakari.export import to_onnx, to_program
from edakari.latency.runtimes import runtime_named
from edakari.latency.timing import RunSettings, measure


class Siamese(nn.Module):
    """Compares an image with others, some of which may be missing."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body, self.out = nn.Embedding(9, 8), nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)

    def forward(self, a: torch.Tensor, b: Any, words: torch.Tensor, mask: Any = None, scale: float = 1.0) -> Any:
        """Two images, float [batch, 3, height, width], and a word for each, int64 [batch]."""
        difference = (self.body(a) - self.body(b["image"])).abs() + self.embed(words)[:, :, None, None]
        return {"out": self.out(difference * scale)}


def example(form: str) -> Any:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(1, 3, 8, 8, generator=generator) for _ in "ab")
    words = torch.tensor([3])
    if form == "tuple":
        return a, {"image": b}, words, None, 2.0
    return {"words": words, "scale": 2.0, "b": {"image": b}, "a": a, "mask": None}


FORMS = ("tuple", "dict")


@pytest.mark.parametrize(
    ("runtime", "form"),
    [
        ("torch", "tuple"),
        ("torch", "dict"),
        ("onnxruntime", "dict"),
        ("openvino", "dict"),
        pytest.param("torch_compile", "dict", marks=pytest.mark.slow),
    ],
)
def test_every_runtime_runs_a_network_of_several_inputs(runtime, form):
    if runtime == "openvino":
        pytest.importorskip("openvino")
    model = Siamese().eval()
    timings = measure({"dense": model}, example(form), runtime_named(runtime), repeats=2)
    assert timings["dense"].median_ms > 0


@pytest.mark.parametrize("form", FORMS)
def test_exports_of_several_inputs_are_the_network(form, tmp_path):
    model = Siamese().eval()
    assert to_onnx(model, example(form), tmp_path / "model.onnx", dynamic_batch=True).relative < 1e-4
    assert to_program(model, example(form), tmp_path / "model.pt2").relative < 1e-5


def test_integers_stay_integers_in_other_precisions():
    timings = measure(
        {"dense": Siamese().eval()},
        example("dict"),
        runtime_named("torch"),
        settings=RunSettings(precision="bf16"),
        repeats=1,
    )
    assert timings["dense"].median_ms > 0


def test_inputs_have_names():
    assert list(named_tensors(example("dict"))) == ["words", "b_image", "a"]
    assert list(named_tensors(example("tuple"))) == ["input_0", "input_1_image", "input_2"]
    assert list(named_tensors(torch.zeros(1))) == ["input"]
    assert shapes_text(example("tuple")) == "(1, 3, 8, 8), (1, 3, 8, 8), (1,)"
    assert arguments([1]) == (([1],), {})


@pytest.mark.parametrize("form", FORMS)
def test_the_latency_of_several_inputs_is_a_cost(form, tmp_path):
    model = Siamese().eval()
    cost = edakari.measure_latency(model, example(form), "torch", networks=0, cache=tmp_path)
    assert cost.total({}) > 0


@pytest.mark.parametrize("wrong", ["image", {}, (None, 3)])
def test_an_example_without_a_tensor_is_an_error(wrong, tmp_path):
    with pytest.raises(MeasurementError, match="a tensor, or a tuple or dict with tensors"):
        edakari.measure_latency(Siamese(), wrong, "torch", cache=tmp_path)


def test_what_does_not_run_names_all_shapes(tmp_path):
    wrong = {**example("dict"), "a": torch.zeros(1, 4, 8, 8)}
    with pytest.raises(MeasurementError, match=r"\(1,\), \(1, 3, 8, 8\), \(1, 4, 8, 8\)"):
        measure({"dense": Siamese().eval()}, wrong, runtime_named("torch"), repeats=1)
    with pytest.raises(ExportError):
        to_program(Siamese().eval(), wrong, tmp_path / "model.pt2")
