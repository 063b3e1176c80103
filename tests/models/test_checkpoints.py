"""Checkpoints as trainers write them: whatever they wrap weights in, the network gets back what it had."""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from edakari.cli.main import app
from edakari.errors import WeightsError
from edakari.models import build
from edakari.models.checkpoints import convert

NAME = "edakari:resnet20"
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    model = build(NAME)
    for value in model.state_dict().values():
        value.copy_(torch.randn(value.shape)) if value.is_floating_point() else value.fill_(7)
    return model.state_dict()


def under(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: value for name, value in state.items()}


def optimizer(state: State) -> dict[str, Any]:
    return {"state": {0: {"exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}


WRITTEN: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "ordered": OrderedDict,
    "imagenet": lambda s: {"epoch": 3, "arch": "x", "state_dict": under("module.")(s), "optimizer": optimizer(s)},
    "timm": lambda s: {"state_dict": s, "state_dict_ema": {k: v * 2 for k, v in s.items()}, "version": 2},
    "detr": lambda s: {"model": s, "ema": {"module": {k: v * 2 for k, v in s.items()}, "updates": 9}, "epoch": 1},
    "only averaged": lambda s: {"ema": {"module": s}, "optimizer": optimizer(s)},
    "ema": lambda s: {"model_ema": s, "optimizer": optimizer(s)},
    "compiled and parallel": lambda s: {"model": under("module._orig_mod.")(s)},
    "averaged model": lambda s: {"n_averaged": torch.tensor(5), **under("module.")(s)},
    "compiled inside": lambda s: {name.replace(".", "._orig_mod.", 1): value for name, value in s.items()},
    "lightning": lambda s: {"state_dict": under("model.")(s), "hyper_parameters": {"lr": 0.1}, "loops": {"fit": {}}},
    "nested": lambda s: {"checkpoint": {"net": s, "step": 2}},
    "unknown key": lambda s: {"student": s, "optim": {"a.b": torch.ones(2)}},
    "with numbers": lambda s: {**s, "epoch": 5},
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_weights_are_found_whatever_is_around_them(kind: str, state: State, tmp_path: Path) -> None:
    torch.save(WRITTEN[kind](state), tmp_path / "best.pth.tar")
    found = convert(tmp_path / "best.pth.tar")
    assert found.tensors.keys() == state.keys()
    assert all(torch.equal(found.tensors[name], state[name]) for name in state)
    found = convert(tmp_path / "best.pth.tar", names=state)
    assert all(torch.equal(found.tensors[name], state[name]) for name in state)


def test_a_prefix_that_the_network_has_itself_stays(tmp_path: Path) -> None:
    inner = nn.ModuleDict({"model": nn.Linear(2, 3)})
    torch.save(inner.state_dict(), tmp_path / "x.pt")
    assert set(convert(tmp_path / "x.pt", names=inner.state_dict()).tensors) == {"model.weight", "model.bias"}
    assert set(convert(tmp_path / "x.pt", prefix="").tensors) == {"model.weight", "model.bias"}
    assert set(convert(tmp_path / "x.pt").tensors) == {"weight", "bias"}


def test_a_prefix_of_some_names_is_taken_where_the_network_is_known(state: State, tmp_path: Path) -> None:
    torch.save({"state_dict": {**under("net.body.")(state), "loss.weight": torch.ones(3)}}, tmp_path / "x.pt")
    assert "net.body.stem.0.weight" in convert(tmp_path / "x.pt").tensors
    for found in (convert(tmp_path / "x.pt", names=state), convert(tmp_path / "x.pt", prefix="net.body.")):
        assert found.tensors.keys() == state.keys()
        assert found.prefixes == ("net.body.",)
        assert any(line.startswith("loss.weight") for line in found.left_out)


class Evil:
    def __reduce__(self) -> Any:
        return (eval, ("__import__('pathlib').Path('evil').touch()",))


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (lambda s: {"state_dict": s, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
        (lambda s: {"state_dict": s, "best": np.float64(0.9)}, "a numpy value"),
        (lambda s: nn.Conv2d(1, 1, 1), "torch.nn.modules.conv.Conv2d"),
        (lambda s: {"state_dict": s, "x": Evil()}, "an object of eval"),
        (lambda s: [torch.ones(3)], "no weights, but list of 1"),
        (lambda s: torch.ones(3), "no weights, but tensor"),
        (lambda s: {"epoch": 3}, "no weights"),
        (lambda s: {"generator": s, "discriminator": s}, "--key generator, --key discriminator"),
        (lambda s: {"a.weight": torch.ones(2).to_sparse()}, "a.weight"),
        (lambda s: {"module.a.weight": torch.ones(2), "a._orig_mod.weight": torch.ones(2)}, None),
    ],
)
def test_what_holds_no_weights_or_more_than_data_is_refused(
    made: Any, named: str | None, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(made(state), "x.pt")
    if named is None:
        assert len(convert("x.pt").tensors) == 2
        return
    with pytest.raises(WeightsError) as caught:
        convert("x.pt")
    assert named in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert not Path("evil").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02" + b"x" * 50, b"not a pickle at all"])
def test_a_damaged_file_is_one_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=r"x\.pt"):
        convert(tmp_path / "x.pt")


def test_a_scripted_module_is_refused_by_name(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / "x.pt"))
    with pytest.raises(WeightsError, match="TorchScript"):
        convert(tmp_path / "x.pt")


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def test_the_command_says_what_it_did_and_what_it_wrote_loads(state: State, tmp_path: Path) -> None:
    source, target = tmp_path / "best.pth.tar", tmp_path / "out.safetensors"
    torch.save(WRITTEN["imagenet"](state), source)
    with pytest.raises(WeightsError) as caught:
        build(NAME, weights=source)
    assert f"edakari convert {source} {tmp_path}/best.safetensors" in str(caught.value)
    done = call(source, target, "--model", NAME)
    assert done.exit_code == 0, done.output
    for said in ("state_dict", "module.", f"{len(state)}, ", "float32", "epoch: int 3", "optimizer: mapping", NAME):
        assert said in done.stdout
    assert all(torch.equal(build(NAME, weights=target).state_dict()[name], state[name]) for name in state)
    assert call(source, target).exit_code == 1
    assert json.loads(call(source, target, "--overwrite", "--json").stdout)["prefixes"] == ["module."]
    wrong = call(source, tmp_path / "other.safetensors", "--model", NAME, "--option", "num_classes=7")
    assert wrong.exit_code == 1
    assert "of another shape" in wrong.stderr
    assert not (tmp_path / "other.safetensors").exists()
    assert call(source, tmp_path / "out.pth").exit_code == 1


def test_every_error_about_weights_points_to_it(state: State, tmp_path: Path) -> None:
    save_file(under("module.")(state), tmp_path / "ddp.safetensors")
    with pytest.raises(WeightsError, match=r"begin with the prefix 'module\.'.*edakari convert"):
        build(NAME, weights=tmp_path / "ddp.safetensors")
    assert call(tmp_path / "ddp.safetensors", tmp_path / "clean.safetensors").exit_code == 0
    assert load_file(tmp_path / "clean.safetensors").keys() == state.keys()
    save_file({"other": torch.ones(2)}, tmp_path / "other.safetensors")
    for path in ("none.safetensors", "other.safetensors", "x.pth"):
        with pytest.raises(WeightsError, match="edakari convert"):
            build(NAME, weights=tmp_path / path)
