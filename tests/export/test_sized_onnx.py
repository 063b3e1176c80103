"""ONNX models that are resized for pruned networks instead of exported."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import onnx
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edakari.cost.example import arguments
from edakari.export import sized_onnx
from edakari.export.onnx_model import arrays, onnx_bytes, onnx_program, open_onnx
from edakari.export.sized_onnx import NetworkFiles, expanded, reshaped
from edakari.graph import trace
from edakari.latency.calibrate import random_sizes
from edakari.latency.widths import first_channels
from edakari.models.embedded import fashion_vit, resnet20
from edakari.surgery import apply
from edakari.testing import toy_cnn


class Doubled(nn.Module):
    """Takes two inputs, and divides by a size, which is a constant in its ONNX model."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, images, scale):
        hidden = torch.relu(self.first(images))
        return self.second(hidden * scale / hidden.shape[1])


IMAGES = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
NETWORKS = {
    "toy": (toy_cnn, IMAGES[..., :16, :16]),
    "resnet": (resnet20, IMAGES),
    "squeeze and excite, depthwise, hard swish": (
        lambda: timm.create_model("mobilenetv3_small_050", num_classes=10),
        IMAGES,
    ),
    "groups": (lambda: timm.create_model("regnetx_002", num_classes=10), IMAGES),
    "layers over the last dimension": (
        lambda: timm.create_model("convnext_atto", num_classes=10),
        IMAGES,
    ),
    "attention": (fashion_vit, IMAGES[:, :1, :28, :28]),
    "a size in the code": (Doubled, (IMAGES[0, 0, :2, :8], torch.full((2, 1), 9.0))),
}


def pruned(network, example, seed):
    graph = trace(network, example)
    return apply(network, first_channels(graph, random_sizes(graph.groups, 3, seed=seed)[1]), graph)


@pytest.fixture
def exports(monkeypatch):
    """Networks that torch's exporter was called for."""
    found = []

    def counted(model, *arguments, **keywords):
        found.append(model)
        return onnx_program(model, *arguments, **keywords)

    monkeypatch.setattr(sized_onnx, "onnx_program", counted)
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_a_model_is_the_exported_one_and_gives_the_outputs_of_its_module(name, exports):
    make, example = NETWORKS[name]
    torch.manual_seed(0)
    dense = make().eval()
    files = NetworkFiles()
    for network in (dense, pruned(dense, example, 0)):
        content = files.content(network, example)
        args, kwargs = arguments(example)
        wanted = network(*args, **kwargs).detach().numpy()
        found = open_onnx(content).run(None, arrays(example))[0]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
    assert operators(content) == operators(onnx_bytes(onnx_program(network.eval(), example)))  # of the pruned one
    assert len(exports) == (2 if name == "a size in the code" else 1)


def test_a_network_of_another_kind_is_exported(exports):
    files, example = NetworkFiles(), torch.randn(1, 3, 32, 32)
    files.content(resnet20().eval(), example)
    other = toy_cnn().eval()
    found = open_onnx(files.content(other, example)).run(None, arrays(example))[0]
    np.testing.assert_allclose(found, other(example).detach().numpy(), atol=1e-4)
    assert len(exports) == 2


def operators(content):
    return Counter(node.op_type for node in onnx.load_from_string(content).graph.node)


SIZES = st.lists(st.integers(2, 5), min_size=1, max_size=4)


@given(kept=SIZES, merged=SIZES, size=st.integers(2, 9))
def test_a_flattened_shape_follows_its_last_dimension(kept, merged, size):
    target = reshaped([*kept, *merged], [*kept, math.prod(merged)])
    array = np.zeros([*kept, *merged[:-1], size])
    asked = [array.shape[at] if each == 0 else each for at, each in enumerate(target)]
    assert array.reshape(asked).shape == (*kept, math.prod(array.shape[len(kept) :]))


@given(kept=SIZES, heads=st.integers(2, 5), width=st.integers(2, 5), size=st.integers(1, 9))
def test_a_split_shape_follows_the_number_of_heads(kept, heads, width, size):
    target = reshaped([*kept, heads * width], [*kept, heads, width])
    array = np.zeros([*kept, size * width])
    asked = [array.shape[at] if each == 0 else each for at, each in enumerate(target)]
    assert array.reshape(asked).shape == (*kept, size, width)


@given(sizes=SIZES, size=st.integers(2, 9))
def test_an_expanded_shape_follows_its_input(sizes, size):
    target = expanded([1, *sizes], [7, *sizes])
    array = np.zeros([1, *sizes[:-1], size])
    assert np.broadcast_shapes(array.shape, tuple(target)) == (7, *sizes[:-1], size)
