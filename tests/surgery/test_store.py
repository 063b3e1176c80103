"""Saved networks: no pickle, whole or not at all, checked on the way back."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from torch import nn

from edakari.core.plan import Plan
from edakari.errors import EdakariError, PlanError, RunFolderError, WeightsError
from edakari.graph import trace
from edakari.models import build
from edakari.surgery import apply, load, load_plan, save
from edakari.testing import random_plan

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def pruned() -> tuple[nn.Module, Plan]:
    torch.manual_seed(0)
    dense = build("edakari:resnet20")
    plan = random_plan(trace(dense, X))
    return apply(dense, plan), plan


def test_a_network_comes_back_as_it_was(pruned, tmp_path):
    small, plan = pruned
    save(small, plan, tmp_path / "run")
    back = load(tmp_path / "run")
    with torch.no_grad():
        assert torch.equal(back(X), small(X))
    assert load_plan(tmp_path / "run") == plan
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "network.json",
        "plan.json",
        "weights.safetensors",
    ]


def test_saving_is_quiet_where_a_constructor_loads_weights(tmp_path):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n\ndef make():\n"
        "    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3))\n"
        "    net.load_state_dict({name: value.clone() for name, value in STATE.items()})\n    return net\n\n"
        "import torch\nwith torch.device('cpu'):\n"
        "    STATE = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)).state_dict()\n"
    )
    dense = build(f"{tmp_path}/nets.py:make")
    plan = random_plan(trace(dense, X))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(apply(dense, plan), plan, tmp_path / "run")
    assert torch.equal(load(tmp_path / "run", trust_code=True)(X), apply(dense, plan)(X))


def test_tied_weights_stay_tied(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.b.weight = self.a.weight
            self.out = nn.Linear(8, 2)

        def forward(self, x):
            return self.out(self.b(torch.relu(self.a(self.first(x)))))

    dense = Tied()
    plan = random_plan(trace(dense, torch.zeros(1, 4)))
    small = apply(dense, plan)
    save(small, plan, tmp_path)
    back = load(tmp_path, model=Tied())
    x = torch.randn(3, 4)
    assert back.a.weight is back.b.weight
    assert torch.equal(back(x), small(x))


def test_a_network_of_ones_own_needs_the_dense_module(tmp_path):
    dense = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 3))
    plan = random_plan(trace(dense, X))
    save(apply(dense, plan), plan, tmp_path)
    with pytest.raises(RunFolderError, match="model="):
        load(tmp_path)
    assert load(tmp_path, model=nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 3)))[0].out_channels == 4
    with pytest.raises(PlanError, match="another network"):
        load(tmp_path, model=nn.Sequential(nn.Conv2d(3, 9, 3), nn.Conv2d(9, 2, 3)))


def test_nothing_is_overwritten_unasked(pruned, tmp_path):
    save(*pruned, tmp_path)
    with pytest.raises(RunFolderError, match="already"):
        save(*pruned, tmp_path)
    save(*pruned, tmp_path, overwrite=True)


@pytest.mark.parametrize(
    ("file", "error"),
    [("plan.json", PlanError), ("weights.safetensors", WeightsError), ("network.json", RunFolderError)],
)
def test_damage_is_noticed(pruned, tmp_path, file, error):
    save(*pruned, tmp_path)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(error):
        load(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(EdakariError, match="missing"):
        load(tmp_path)


def test_a_plan_edited_by_hand_is_noticed(pruned, tmp_path):
    save(*pruned, tmp_path)
    content = json.loads((tmp_path / "plan.json").read_text())
    content["edits"][0]["indices"].pop()
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(PlanError, match="edited"):
        load(tmp_path)
