"""Each runtime for real, on tiny layers and networks; no test looks at how long anything takes."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edakari.core.far_side import sessions
from edakari.core.far_side.sessions import timed_part
from edakari.core.space import limited
from edakari.errors import MeasurementError, MissingPackage
from edakari.graph import trace
from edakari.latency import Layer, fill, key_of, latency_cost, layers_of, open_table, plan_measurement, wanted
from edakari.latency.onnx_layers import onnx_layer
from edakari.latency.runnable import require_runnable
from edakari.latency.runtimes import onnx_runtime
from edakari.latency.runtimes.onnx_runtime import OnnxRuntime
from edakari.latency.runtimes.openvino import OpenVino
from edakari.latency.runtimes.torch_compile import TorchCompile
from edakari.latency.runtimes.torch_eager import TorchEager
from edakari.latency.timing import RunSettings, measure
from edakari.latency.torch_layers import torch_layer
from edakari.testing import toy_cnn

SETTINGS = RunSettings(threads=1, warmup=1)
IMAGE = torch.zeros(1, 3, 16, 16)
PLAIN = {"batch": 2, "space": (6, 7), "kernel": (3, 3), "stride": (2, 1), "padding": (1, 1), "dilation": (1, 1),
         "transposed": False, "bias": True, "output_padding": (0, 0)}  # fmt: skip


def layer(kind, tail=(), **settings):
    return Layer(kind, tuple(sorted(settings.items())), tail)


LAYERS = [
    (layer("convolution", ("batch_norm", "relu", "add"), **PLAIN), (8, 12), (2, 12, 3, 7)),
    (layer("convolution", ("silu", "batch_norm", "clip"), **PLAIN | {"dilation": (1, 2)}), (3, 5), (2, 5, 3, 5)),
    (layer("convolution", **PLAIN | {"transposed": True, "output_padding": (1, 0)}), (8, 4), (2, 4, 12, 7)),
    (layer("grouped_convolution", ("hardswish",), ratio=(1, 1), **PLAIN), (8, 2), (2, 8, 3, 7)),
    (layer("grouped_convolution", ratio=(4, 2), **PLAIN), (3, 6), (2, 6, 3, 7)),
    (layer("grouped_convolution", ratio=(4, 2), **PLAIN | {"transposed": True}), (3, 6), (2, 6, 11, 7)),
    (layer("linear", ("gelu", "add"), rows=(1, 5), bias=True), (6, 7), (1, 5, 7)),
    (layer("linear", ("relu",), rows=(3,), bias=False), (6, 7), (3, 7)),
    (layer("matmul", rows=5, other=6, moves="inner"), (4, 3), (4, 5, 6)),
    (layer("matmul", rows=5, other=6, moves="columns"), (4, 3), (4, 5, 3)),
    (layer("attention", batch=2, rows=5, keys=6), (3, 9), (2, 3, 5, 4)),
    (layer("norm", form="layer", rows=(2, 5)), (8,), (2, 5, 8)),
    (layer("pool", form="max", **{name: PLAIN[name] for name in ("batch", "space", "kernel", "stride", "padding")}),
     (8,), (2, 8, 3, 7)),
    (layer("softmax", last=7), (70,), (10, 7)),
    *((layer("elementwise", form=form), (640,), (1, 10, 64)) for form in
      ("add", "mul", "sub", "div", "relu", "silu", "clip", "batch_norm", "other", "roll", "index", "elu")),
    (layer("elementwise", form="permute"), (640,), (1, 64, 10)),
    (layer("elementwise", form="concat"), (640,), (1, 11, 64)),
    (layer("elementwise", form="pad"), (640,), (1, 11, 64)),
    (layer("elementwise", form="mean"), (640,), (1, 10)),
    (layer("elementwise", form="sum"), (640,), (1, 10)),
    (layer("chain"), (4,), (1, 16)),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "widths", "shape"), LAYERS, ids=str)
def test_both_builders_build_the_layer(layer, widths, shape):
    model, inputs = torch_layer(layer, widths)
    with torch.no_grad():
        assert tuple(model(*inputs).shape) == shape
    built = onnx_layer(layer, widths)
    session = onnxruntime.InferenceSession(built.model, providers=["CPUExecutionProvider"])
    output = session.run(None, dict(built.feeds))[0]
    edges = layer.kind in ("convolution", "grouped_convolution", "pool")
    assert output.shape == ((shape[0], 16, *shape[2:]) if edges else shape)
    assert np.isfinite(output).all()


@pytest.mark.parametrize("runtime", [TorchEager(), OnnxRuntime()], ids=lambda runtime: runtime.name)
@pytest.mark.parametrize(("layer", "widths", "shape"), LAYERS[:8:3] + LAYERS[-6:], ids=str)
def test_a_clock_gives_the_time_of_each_call(runtime, layer, widths, shape):
    clock = runtime.clock(layer, widths, SETTINGS)
    for _ in range(3):
        clock.run()
    times = clock.times()
    assert len(times) == 3
    assert min(times) >= 0
    assert sum(times) > 0


def test_the_edges_of_a_layer_are_not_its_time():
    nodes = [("ReorderInput_kernel_time", "ReorderInput", 1.0), ("producer_nchwc", "Conv", 2.0),
             ("ReorderOutput", "ReorderOutput", 4.0), ("shortcut_nchwc", "Conv", 8.0), ("timed2_nchwc", "Conv", 16.0),
             ("ReorderOutput_1", "ReorderOutput", 32.0), ("timed3", "HardSwish", 64.0), ("consumer", "Conv", 128.0),
             ("ReorderOutput_2", "ReorderOutput", 256.0)]  # fmt: skip
    assert timed_part(nodes) == 16 + 32 + 64


def test_the_conversions_of_a_model_to_int8_and_back_are_not_the_time_of_its_layer():
    nodes = [("input0_QuantizeLinear", "QuantizeLinear", 1.0), ("Transpose_token_1", "Transpose", 2.0),
             ("producer_token_2", "QLinearConv", 4.0), ("timed1_token_5", "QLinearConv", 8.0),
             ("input1_QuantizeLinear", "QuantizeLinear", 16.0), ("shortcut_token_7", "QLinearConv", 32.0),
             ("timed3", "QLinearAdd", 64.0), ("consumer_token_9", "QLinearConv", 128.0),
             ("consumer_DequantizeLinear", "DequantizeLinear", 256.0)]  # fmt: skip
    assert timed_part(nodes) == 8 + 64
    alone = [("input0_QuantizeLinear", "QuantizeLinear", 1.0), ("input0_DequantizeLinear", "DequantizeLinear", 2.0),
             ("timed0", "ReduceMean", 4.0), ("timed0_QuantizeLinear", "QuantizeLinear", 8.0),
             ("timed0_DequantizeLinear", "DequantizeLinear", 16.0)]  # fmt: skip
    assert timed_part(alone) == 2 + 4 + 8  # a layer in fp32 between two in int8


@pytest.mark.parametrize(("layer", "widths", "shape"), LAYERS, ids=str)
def test_every_layer_runs_in_int8(layer, widths, shape):
    clock = OnnxRuntime().clock(layer, widths, RunSettings(precision="int8"))
    clock.run()
    (time,) = clock.times()
    assert 0 < time < 1000


def test_a_convolution_is_timed_in_int8_between_convolutions_in_int8(monkeypatch):
    seen = []
    monkeypatch.setattr(sessions, "timed_part", lambda nodes: seen.append(nodes) or 1.0)
    clock = OnnxRuntime().clock(LAYERS[0][0], (16, 16), RunSettings(precision="int8"))
    clock.run()
    clock.times()
    operators = [operator for _, operator, _ in seen[0]]
    assert operators.count("QLinearConv") == 4  # producer, shortcut, the layer, consumer
    assert "QLinearAdd" in operators
    assert "Conv" not in operators


def test_a_table_of_int8_is_another_one_and_knows_the_excluded_modules():
    plain, int8 = (key_of(OnnxRuntime(), RunSettings(precision=name)) for name in ("fp32", "int8"))
    excluding = key_of(OnnxRuntime(), RunSettings(precision="int8", exclude=("head*",)))
    assert len({plain.digest, int8.digest, excluding.digest}) == 3
    assert int8.settings["precision"] == "int8"
    assert "exclude" not in plain.settings


@pytest.mark.parametrize("runtime", [TorchEager(), TorchCompile()], ids=lambda runtime: runtime.name)
def test_a_runtime_without_int8_says_which_has_it(runtime):
    with pytest.raises(MeasurementError, match=f"precision is 'int8', in which the runtime '{runtime.name}' cannot"):
        require_runnable(runtime, RunSettings(precision="int8"))


def test_a_network_runs_in_int8_and_leaves_excluded_modules_in_fp32(monkeypatch):
    opened = []
    original = onnx_runtime.open_onnx
    monkeypatch.setattr(onnx_runtime, "open_onnx", lambda content, *a: opened.append(content) or original(content, *a))
    for exclude in ((), ("stem",)):
        settings = RunSettings(precision="int8", exclude=exclude, warmup=0)
        timings = measure({"dense": toy_cnn()}, IMAGE, OnnxRuntime(), settings=settings, repeats=1)
        assert timings["dense"].median_ms > 0
    weights = [{each.name for each in onnx.load_from_string(content).graph.initializer} for content in opened]
    assert "stem.0.weight_quantized" in weights[0]
    assert "stem.0.weight_quantized" not in weights[1]


def test_what_a_runtime_takes_out_takes_no_time():
    clock = OnnxRuntime().clock(layer("elementwise", form="clone"), (640,), SETTINGS)
    clock.run()
    assert clock.times() == [0.0]


@pytest.mark.parametrize("runtime", [TorchEager(), OnnxRuntime()], ids=lambda runtime: runtime.name)
def test_from_layers_to_a_network(runtime, tmp_path):
    graph = trace(toy_cnn(), IMAGE)
    groups = limited(graph.groups, round_to=16)
    table = open_table(key_of(runtime, SETTINGS), tmp_path)
    plan = plan_measurement(wanted(graph, groups), table, runtime, SETTINGS, repeats=2)
    assert plan.seconds > 0
    table = fill(table, plan.missing, runtime, SETTINGS, repeats=2)
    cost = latency_cost(graph, open_table(table.key, tmp_path), groups)
    assert 0 < cost.total({group.name: 1 for group in groups}) <= cost.total({})
    assert len(cost.layers.parts) == len({(use.layer, use.widths) for use in layers_of(graph)})


@pytest.mark.parametrize(
    "change", [{"precision": "bf16"}, {"memory_format": "channels_last"}, {"device": "cuda"}], ids=str
)
def test_onnxruntime_says_what_it_cannot_do(change):
    settings = RunSettings(**change)
    with pytest.raises(MeasurementError, match=str(next(iter(change.values())))):
        OnnxRuntime().clock(layer("chain"), (4,), settings)
    with pytest.raises(MeasurementError, match="onnxruntime runs networks here in fp32 or int8 on the CPU"):
        measure({"dense": toy_cnn()}, IMAGE, OnnxRuntime(), settings=settings, repeats=1)


@pytest.mark.parametrize("change", [{"precision": "bf16"}, {"memory_format": "channels_last"}], ids=str)
def test_torch_runs_in_other_precisions_and_formats(change):
    model = toy_cnn()
    timings = measure({"dense": model}, IMAGE, TorchEager(), settings=RunSettings(**change), repeats=1)
    assert timings["dense"].median_ms > 0
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.stem[0].weight.is_contiguous()


@pytest.mark.slow
def test_torch_compile():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    assert measure({"dense": model}, IMAGE, TorchCompile(), settings=SETTINGS, repeats=2)["dense"].median_ms > 0
    counts = torch._dynamo.utils.counters
    counts.clear()
    clocks = [TorchCompile().clock(LAYERS[6][0], (6, width), SETTINGS) for width in range(1, 11)]
    for clock in clocks:
        clock.run()
        assert len(clock.times()) == 1
    assert counts["stats"]["unique_graphs"] == len(clocks)
    assert counts["frames"]["ok"] == counts["frames"]["total"] == len(clocks)


def test_openvino_that_is_not_installed_says_how_to_install_it(monkeypatch):
    def missing(name):
        return None if name == "openvino" else found(name)

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    with pytest.raises(MissingPackage, match=r'openvino needs openvino, .* pip install "edakari\[openvino\]"'):
        OpenVino().versions()
    with pytest.raises(MeasurementError, match=r'pip install "edakari\[openvino\]"'):
        require_runnable(OpenVino(), SETTINGS)


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is an optional extra")
@pytest.mark.parametrize(("layer", "widths", "shape"), LAYERS[:8], ids=str)
def test_openvino(layer, widths, shape):
    assert measure({"dense": toy_cnn()}, IMAGE, OpenVino(), settings=SETTINGS, repeats=1)["dense"].median_ms > 0
    clock = OpenVino().clock(layer, widths, SETTINGS)
    clock.run()
    assert clock.times()[0] > 0


def test_openvino_runs_networks_and_layers_in_int8():
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    settings = RunSettings(precision="int8", warmup=0)
    assert measure({"dense": toy_cnn()}, IMAGE, OpenVino(), settings=settings, repeats=1)["dense"].median_ms > 0
    clock = OpenVino().clock(LAYERS[0][0], (16, 16), settings)
    clock.run()
    assert clock.times()[0] > 0
    kernels = [info.exec_type for info in clock.request.get_profiling_info() if info.node_type == "Convolution"]
    assert len(kernels) == 4
    assert all(kernel.endswith("I8") for kernel in kernels)
