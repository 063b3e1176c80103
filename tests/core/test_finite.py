"""What is not finite is found and named, and never written as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edakari.core.files import json_text, write_json
from edakari.core.finite import non_finite_tensor, require_finite, require_finite_figures
from edakari.errors import EdakariError, ExportError, ModelError
from edakari.export.check import compare
from edakari.train.checkpoint import Checkpoint, read, write

NAN, INF = math.nan, math.inf


class Network(nn.Module):
    """Has a buffer with infinities that are meant."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 5)
        self.register_buffer("shut", torch.tensor([0.0, 0.0, -torch.inf, 0.0]))
        self.register_buffer("scale", torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.body(x).mean((2, 3)) * self.scale
        return self.head((hidden + self.shut).softmax(-1))


def spoil(tensor: str, value: float) -> nn.Module:
    torch.manual_seed(0)
    model = Network().eval()
    model.state_dict()[tensor].view(-1)[0] = value
    return model


X = torch.rand(2, 3, 4, 4)


def test_finite_networks_pass_and_are_left_as_found() -> None:
    model = Network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    require_finite(model, lambda: model(X))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("tensor", "value", "name"),
    [
        ("body.0.weight", NAN, "body.0.weight"),
        ("head.bias", INF, "head.bias"),
        ("body.1.running_mean", -INF, "body.1.running_mean"),
        ("scale", NAN, "scale"),
        ("body.1.running_var", -1e3, "body.1"),
    ],
)
def test_the_first_tensor_or_module_is_named(tensor: str, value: float, name: str) -> None:
    model = spoil(tensor, value)
    with pytest.raises(ModelError, match=rf"'{name}'"):
        require_finite(model, lambda: model(X))
    assert (non_finite_tensor(model) == name) == (name.count(".") == 2 or name in ("head.bias", "scale"))


def test_an_overflow_of_finite_weights_is_named() -> None:
    model = spoil("head.bias", 3e38)
    model.state_dict()["head.weight"][0] = 3e38
    with pytest.raises(ModelError, match=r"'head' on, though its weights are finite"):
        require_finite(model, lambda: {"logits": model(X)})


def test_figures_that_are_not_finite_are_named() -> None:
    require_finite_figures({"top1": 0.5, "loss": 2}, "run", "lower it")
    for value in (NAN, INF, -INF):
        with pytest.raises(ModelError, match=f"run: loss is {value}; lower it"):
            require_finite_figures({"top1": 0.5, "loss": value}, "run", "lower it")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize(
    ("content", "where"),
    [
        (lambda value: {"a": [1, {"b": value}]}, r"a\[1\]\.b"),
        (lambda value: (0.0, value), r"\[1\]"),
        (lambda value: value, "the value"),
    ],
)
def test_json_never_holds_them(value: float, content: Callable[[float], Any], where: str, tmp_path: Path) -> None:
    with pytest.raises(EdakariError, match=f"{where} is {value}"):
        write_json(tmp_path / "x.json", content(value))
    assert list(tmp_path.iterdir()) == []


def test_json_of_finite_values_is_plain() -> None:
    content = {"a": [1, 2.5, None, True, "x"], "b": {"c": []}}
    assert json_text(content, "x", sort_keys=True) == json.dumps(content, sort_keys=True)
    content["b"]["c"].append(content)  # type: ignore[call-overload, index]
    with pytest.raises(ValueError, match="Circular"):
        json_text(content, "x")


def test_checkpoints_keep_them_without_breaking_json(tmp_path: Path) -> None:
    state = {"best": -INF, "seen": [NAN, (1.5, INF)], "text": "nan"}
    write(tmp_path / "c.safetensors", Checkpoint({"a": 1}, 3, False, state))
    found = read(tmp_path / "c.safetensors", {"a": 1})
    assert found is not None
    assert found.state["best"] == -INF
    assert math.isnan(found.state["seen"][0])
    assert found.state["seen"][1] == (1.5, INF)
    assert found.state["text"] == "nan"
    length = int.from_bytes((tmp_path / "c.safetensors").read_bytes()[:8], "little")
    header = json.loads((tmp_path / "c.safetensors").read_bytes()[8 : 8 + length])["__metadata__"]["content"]
    json.loads(header, parse_constant=lambda name: pytest.fail(f"{name} in the header"))


@pytest.mark.parametrize("ours", [NAN, INF, 1.0])
@pytest.mark.parametrize("theirs", [NAN, INF, -INF, 1.0])
def test_exports_are_never_equal_to_nan(ours: float, theirs: float) -> None:
    pair = [torch.tensor([1.0, ours])], [torch.tensor([1.0, theirs])]
    if ours == theirs:
        assert compare(*pair, "it", 1e-6) == (0.0, 0.0)
    else:
        with pytest.raises(ExportError, match="not finite"):
            compare(*pair, "it", 1e-6)
