"""Whatever `save` accepts, `load` reads in a new process; what it could not read, `save` refuses and says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import edakari
from edakari.core.plan import Plan
from edakari.errors import EdakariError, PlanError, RunFolderError, WeightsError
from edakari.graph import trace
from edakari.surgery import apply, load, load_plan, save
from edakari.testing import random_plan
from tests.together import apart

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def read(*folders: Path) -> None:
    """What another process does."""
    for folder in folders:
        model = edakari.load(folder)
        with torch.no_grad():
            save_file({"y": model(load_file(folder / "x.safetensors")["x"]).contiguous()}, folder / "y.safetensors")


def dense(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = edakari.build("edakari:resnet20", **options)
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return model


def cut(model: nn.Module, keep: float = 0.6) -> tuple[nn.Module, Plan]:
    graph = trace(model, X)
    plan = random_plan(graph, keep)
    return apply(model, plan, graph), plan


def new_head(model: nn.Module, classes: int = 7) -> nn.Module:
    name, last = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
    model.set_submodule(name, nn.Linear(last.in_features, classes))
    return model


def plain() -> tuple[nn.Module, Plan]:
    return cut(dense())


def with_options() -> tuple[nn.Module, Plan]:
    return cut(dense(num_classes=4))


def twice() -> tuple[nn.Module, Plan]:
    return cut(cut(dense())[0])


def thrice() -> tuple[nn.Module, Plan]:
    return cut(cut(cut(dense())[0])[0])


def joined() -> tuple[nn.Module, Plan]:
    first, one = cut(dense())
    second, two = cut(first)
    return second, one.then(two)


def head_after() -> tuple[nn.Module, Plan]:
    small, plan = cut(dense())
    return new_head(small), plan


def head_before() -> tuple[nn.Module, Plan]:
    return cut(new_head(dense()))


def head_between() -> tuple[nn.Module, Plan]:
    return cut(new_head(cut(dense())[0]))


def longer_head() -> tuple[nn.Module, Plan]:
    small, plan = cut(dense())
    name, last = [(n, m) for n, m in small.named_modules() if isinstance(m, nn.Linear)][-1]
    head = nn.Sequential(
        nn.Dropout(0.3), nn.Linear(last.in_features, 5, bias=False), nn.BatchNorm1d(5), nn.GELU("tanh"), nn.Linear(5, 2)
    )
    small.set_submodule(name, head)
    return small.eval(), plan


def other_activation() -> tuple[nn.Module, Plan]:
    small, plan = cut(dense())
    name = next(n for n, m in small.named_modules() if isinstance(m, nn.ReLU))
    small.set_submodule(name, nn.SiLU())
    return small, plan


def of_type(dtype: torch.dtype) -> Callable[[], tuple[nn.Module, Plan]]:
    def made() -> tuple[nn.Module, Plan]:
        small, plan = cut(dense())
        return small.to(dtype), plan

    made.__name__ = str(dtype)
    return made


def compiled() -> tuple[nn.Module, Plan]:
    small, plan = cut(dense())
    return torch.compile(small, backend="eager"), plan


def parallel() -> tuple[nn.Module, Plan]:
    small, plan = cut(dense())
    return nn.DataParallel(small), plan


def half_compiled() -> tuple[nn.Module, Plan]:
    small, plan = cut(dense())
    name = next(n for n, m in small.named_modules() if isinstance(m, nn.BatchNorm2d))
    small.set_submodule(name, torch.compile(small.get_submodule(name), backend="eager"))
    return small, plan


def synced() -> tuple[nn.Module, Plan]:
    small, plan = cut(dense())
    return nn.SyncBatchNorm.convert_sync_batchnorm(small), plan


ACCEPTED = (
    *(plain, with_options, twice, thrice, joined, head_after, head_before, head_between, longer_head, other_activation),
    *(of_type(torch.float16), of_type(torch.bfloat16), of_type(torch.float64)),
    *(compiled, parallel, half_compiled, synced),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, torch.Tensor, nn.Module]]:
    """Everything that is accepted, saved here and read by another process."""
    top, made = tmp_path_factory.mktemp("saved"), {}
    for make in ACCEPTED:
        model, plan = make()
        folder, model = top / make.__name__, model.eval()
        save(model, plan, folder)
        x = X.to(next(model.parameters()).dtype)
        save_file({"x": x}, folder / "x.safetensors")
        with torch.no_grad():
            made[make.__name__] = (folder, model(x), model)
    ended, said = apart(read, *(folder for folder, _, _ in made.values()))
    assert ended == 0, said
    return made


@pytest.mark.parametrize("name", [make.__name__ for make in ACCEPTED])
def test_what_is_saved_is_read_in_another_process(name: str, saved: dict[str, tuple[Path, torch.Tensor, Any]]) -> None:
    folder, wanted, _ = saved[name]
    found = load_file(folder / "y.safetensors")["y"]
    assert found.dtype == wanted.dtype
    assert torch.equal(found, wanted)


def test_a_network_that_was_read_is_pruned_and_saved_again(tmp_path: Path) -> None:
    save(*twice(), tmp_path / "two")
    third, plan = cut(edakari.build(str(tmp_path / "two")))
    save(third, plan, tmp_path / "three")
    back = load(tmp_path / "three")
    assert torch.equal(back(X), third.eval()(X))
    assert load_plan(tmp_path / "three") == plan
    assert len(json.loads((tmp_path / "three" / "network.json").read_text())["earlier"]) == 2


def test_types_are_kept_tensor_by_tensor(tmp_path: Path) -> None:
    small, plan = cut(dense())
    for module in small.half().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    save(small, plan, tmp_path / "run")
    found = load(tmp_path / "run").state_dict()
    assert {name: value.dtype for name, value in found.items()} == {
        name: value.dtype for name, value in small.state_dict().items()
    }
    assert all(torch.equal(found[name], value) for name, value in small.state_dict().items())


class Own(nn.Sequential):
    def __init__(self, classes: int = 5) -> None:
        super().__init__(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))


def test_a_network_of_ones_own_that_was_pruned_twice_needs_any_of_those_before(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = Own()
    first, _ = cut(whole)
    second, plan = cut(first, 0.5)
    save(new_head(second), plan, tmp_path / "run")
    for start in (Own(), first, whole):
        before = {name: value.clone() for name, value in start.state_dict().items()}
        assert torch.equal(load(tmp_path / "run", start)(X), second.eval()(X))
        assert all(torch.equal(before[name], value) for name, value in start.state_dict().items())
    with pytest.raises(RunFolderError, match="model="):
        load(tmp_path / "run")


def test_a_network_that_was_changed_before_pruning_is_given_as_base(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    def changed() -> nn.Module:
        model = dense()
        name = next(n for n, m in model.named_modules() if isinstance(m, nn.ReLU))
        model.set_submodule(name, Twice())
        return model

    base = changed()
    small, plan = cut(base)
    with pytest.raises(PlanError, match=r"a Twice, but the plan gives ReLU.*base="):
        save(small, plan, tmp_path / "run")
    save(small, plan, tmp_path / "run", base=base)
    assert torch.equal(load(tmp_path / "run", changed())(X), small.eval()(X))


def test_a_network_that_apply_did_not_make_is_checked_against_its_base(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = Own()
    small, plan = cut(whole)
    by_hand = Own()
    by_hand[0], by_hand[4] = nn.Conv2d(3, small[0].out_channels, 3), nn.Linear(small[0].out_channels, 5)
    by_hand.load_state_dict(small.state_dict())
    with pytest.raises(PlanError, match="pass that network as base="):
        save(by_hand, plan, tmp_path / "run")
    save(by_hand, plan, tmp_path / "run", base=whole)
    assert torch.equal(load(tmp_path / "run", Own())(X), small.eval()(X))


class Wrapped(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def other_plan() -> tuple[nn.Module, Plan]:
    small, _ = cut(dense())
    return small, random_plan(trace(dense(), X), 0.3)


def earlier_plan() -> tuple[nn.Module, Plan]:
    first, plan = cut(dense())
    return cut(first)[0], plan


def plan_of_another_network() -> tuple[nn.Module, Plan]:
    return cut(dense())[0], cut(Own())[1]


def dense_itself() -> tuple[nn.Module, Plan]:
    return dense(), cut(dense())[1]


def wrapped() -> tuple[nn.Module, Plan]:
    small, plan = cut(dense())
    return Wrapped(small), plan


def own_module_in_it() -> tuple[nn.Module, Plan]:
    small, plan = cut(dense())
    name = next(n for n, m in small.named_modules() if isinstance(m, nn.ReLU))
    small.set_submodule(name, Wrapped(nn.ReLU()))
    return small, plan


def parametrized() -> tuple[nn.Module, Plan]:
    small, plan = cut(dense())
    convolution = next(m for m in small.modules() if isinstance(m, nn.Conv2d))
    nn.utils.parametrizations.weight_norm(convolution)
    return small, plan


def a_tensor_of_another_shape() -> tuple[nn.Module, Plan]:
    small, plan = cut(dense())
    small.register_buffer("extra", torch.ones(3))
    return small, plan


def a_module_less() -> tuple[nn.Module, Plan]:
    small, plan = cut(dense())
    name, _ = [(n, m) for n, m in small.named_modules() if isinstance(m, nn.Linear)][-1]
    delattr(small.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
    return small, plan


def on_meta() -> tuple[nn.Module, Plan]:
    small, plan = cut(dense())
    return small.to("meta"), plan


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (other_plan, PlanError, "not pruned by this plan"),
        (earlier_plan, PlanError, "not pruned by this plan"),
        (plan_of_another_network, PlanError, "not pruned by this plan"),
        (dense_itself, PlanError, "not the result of its plan"),
        (wrapped, PlanError, "base="),
        (own_module_in_it, PlanError, "Wrapped, but the plan gives ReLU"),
        (parametrized, PlanError, "ParametrizedConv2d"),
        (a_tensor_of_another_shape, PlanError, r"extra is \[3\], but the plan gives not there"),
        (a_module_less, PlanError, "not there, but the plan gives Linear"),
        (on_meta, WeightsError, "has no values"),
    ],
)
def test_what_load_could_not_read_is_refused(make: Any, error: type[EdakariError], said: str, tmp_path: Path) -> None:
    model, plan = make()
    with pytest.raises(error, match=said):
        save(model, plan, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [{}, [], "x", 3, None, {"fc": {"kind": "Evil"}}, {"fc": {"kind": "Linear", "x": 1}}])
@pytest.mark.parametrize("key", ["model", "earlier", "replaced", "plan", "weights", "version"])
def test_a_file_that_was_edited_is_one_error(key: str, value: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = Own()
    small, plan = cut(whole)
    save(small, plan, tmp_path)
    path = tmp_path / "network.json"
    content = json.loads(path.read_text())
    content[key] = {"before": {}, "after": value} if key == "replaced" else [value] if key == "earlier" else value
    path.write_text(json.dumps(content))
    if key == "replaced" and value == {}:
        return
    with pytest.raises(EdakariError):
        load(tmp_path, None if key == "model" else whole)
    del content[key]
    path.write_text(json.dumps(content))
    if key not in ("replaced", "earlier"):  # which are empty in the files of earlier versions
        with pytest.raises(RunFolderError, match=r"network\.json"):
            load(tmp_path, whole)
