"""Quantisation for OpenVINO by NNCF; runs where both are installed, up to the call with a stand-in elsewhere."""

from __future__ import annotations

import sys
import types

import numpy as np
import onnx
import pytest
import torch

from edakari.errors import ExportError, MissingPackage
from edakari.export.nncf_quantizer import quantized_by_nncf
from edakari.export.onnx_model import open_onnx, write_onnx
from edakari.testing import toy_cnn

RNG = np.random.default_rng(0)
INPUTS = [{"input": RNG.standard_normal((1, 3, 16, 16), dtype=np.float32)} for _ in range(4)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("nncf") / "toy.onnx"
    return write_onnx(toy_cnn(), torch.zeros(1, 3, 16, 16), path).read_bytes()


def stand_in(quantize):
    """A module with what of NNCF is used."""
    made = types.ModuleType("nncf")
    made.Dataset = lambda data, transform: [transform(each) for each in data]
    made.IgnoredScope = lambda names, validate: (names, validate)
    made.set_log_level = lambda level: None
    made.quantize = quantize
    return made


def test_what_nncf_is_asked_for(exported, monkeypatch):
    asked = []

    def quantize(model, data, **options):
        asked.append((model, data, options))
        return model

    monkeypatch.setitem(sys.modules, "nncf", stand_in(quantize))
    assert quantized_by_nncf(exported, INPUTS, ["stem"]) == onnx.load_from_string(exported).SerializeToString()
    model, data, options = asked[0]
    assert data == INPUTS
    assert options["subset_size"] == len(INPUTS)
    names, validate = options["ignored_scope"]
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert convolutions[0] in names
    assert convolutions[-1] not in names
    assert not validate
    quantized_by_nncf(exported, INPUTS, only="stem.0")
    assert convolutions[0] not in asked[1][2]["ignored_scope"][0]
    assert set(convolutions[1:]) <= set(asked[1][2]["ignored_scope"][0])


def test_what_nncf_refuses_is_told(exported, monkeypatch):
    def quantize(model, data, **options):
        raise RuntimeError("no such operator\nmore")

    monkeypatch.setitem(sys.modules, "nncf", stand_in(quantize))
    with pytest.raises(ExportError, match=r"NNCF refuses the network: RuntimeError: no such operator\. Leave"):
        quantized_by_nncf(exported, INPUTS)


def test_without_nncf_the_extra_is_named(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingPackage, match=r"edakari\[openvino-int8\]"):
        quantized_by_nncf(exported, INPUTS)


def test_nncf_itself(exported):
    pytest.importorskip("nncf")
    pytest.importorskip("openvino")
    found = quantized_by_nncf(exported, INPUTS, ["stem"])
    operators = {node.op_type for node in onnx.load_from_string(found).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    for feeds in INPUTS:
        ours, theirs = (open_onnx(content).run(None, feeds)[0] for content in (exported, found))
        assert 0 < np.abs(ours - theirs).max() < 0.1 * np.abs(ours).max()
