"""Quantisation to int8 by ONNX Runtime's quantiser."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edakari.errors import ExportError, SettingsError
from edakari.export.int8 import QuantizeSettings, quantized, quantized_for_timing
from edakari.export.node_modules import modules_of, nodes_within, require_modules
from edakari.export.onnx_model import open_onnx, write_onnx
from edakari.testing import toy_cnn

RNG = np.random.default_rng(0)
INPUTS = [{"input": RNG.standard_normal((1, 3, 16, 16), dtype=np.float32)} for _ in range(8)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("int8") / "toy.onnx"
    return write_onnx(toy_cnn(), torch.zeros(1, 3, 16, 16), path).read_bytes()


def operators(content):
    return sorted(node.op_type for node in onnx.load_from_string(content).graph.node)


def weights(content):
    return {each.name: each.data_type for each in onnx.load_from_string(content).graph.initializer}


def outputs(content, feeds):
    return open_onnx(content).run(None, feeds)[0]


def test_a_quantised_network_gives_nearly_the_same_outputs(exported):
    found = quantized(exported, INPUTS)
    for feeds in INPUTS:
        expected = outputs(exported, feeds)
        error = np.abs(outputs(found, feeds) - expected).max() / np.abs(expected).max()
        assert 0 < error < 0.05
    assert weights(found)["stem.0.weight_quantized"] == onnx.TensorProto.INT8
    scales = next(each for each in onnx.load_from_string(found).graph.initializer if each.name == "stem.0.weight_scale")
    assert list(scales.dims) == [toy_cnn().stem[0].out_channels]


def test_made_up_ranges_give_the_same_operators_as_data(exported):
    assert operators(quantized_for_timing(exported)) == operators(quantized(exported, INPUTS))


def test_excluded_modules_keep_their_weights_in_fp32(exported):
    for found in (quantized(exported, INPUTS, ["stem"]), quantized_for_timing(exported, ["st*m"])):
        assert weights(found)["stem.0.weight"] == onnx.TensorProto.FLOAT
        assert any(name.endswith("_quantized") for name in weights(found))


def test_nodes_know_their_modules(exported):
    model = onnx.load_from_string(exported)
    found = modules_of(model)
    own = {path for path, _ in toy_cnn().named_modules()}
    assert set(found.values()) <= own
    convolutions = {found[node.name] for node in model.graph.node if node.op_type == "Conv"}
    assert convolutions == {path for path, module in toy_cnn().named_modules() if isinstance(module, nn.Conv2d)}
    assert nodes_within(found, ["*"]) == [name for name, path in found.items() if path]


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, a, b):
        return self.first(a) + self.second(b)


def test_nodes_of_a_network_of_several_inputs_know_their_modules_too(tmp_path):
    example = torch.randn(1, 4), torch.randn(1, 4)
    content = write_onnx(TwoInputs(), example, tmp_path / "two.onnx").read_bytes()
    assert set(modules_of(onnx.load_from_string(content)).values()) >= {"first", "second"}


def test_a_pattern_without_a_module_is_refused():
    require_modules(toy_cnn(), ["stem*", "*"])
    with pytest.raises(SettingsError, match="matches 'stam'; did you mean 'stem'"):
        require_modules(toy_cnn(), ["stam"])


class Scaled(nn.Module):
    def forward(self, x):
        return x * float("nan")


def test_a_refused_operator_is_named_with_its_module(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(Scaled()), nn.ReLU())
    content = write_onnx(model, torch.zeros(1, 3, 16, 16), tmp_path / "nan.onnx").read_bytes()
    with pytest.raises(ExportError, match=r"refuses the operator Mul of module '1\.0'.*exclude: \[\"1\.0\"\]"):
        quantized_for_timing(content)
    assert quantized_for_timing(content, ["1.0"])


@pytest.mark.parametrize("wrong", [{"images": 0}, {"max_drop": -0.1}, {"exclude": "head"}], ids=str)
def test_settings_know_their_ranges(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        QuantizeSettings(**wrong)
