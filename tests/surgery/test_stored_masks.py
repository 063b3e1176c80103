"""Masks in folders: saved, read back bit by bit, and one clear error for every way in which they can be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from edakari.core.plan import Plan
from edakari.errors import PlanError
from edakari.graph import trace
from edakari.models import build
from edakari.surgery import apply, held_masks, load, load_plan, mask_weights, save
from edakari.surgery.store import load_steps
from edakari.surgery.stored_tensors import MASKS
from edakari.testing import random_plan

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def masks_for(model: nn.Module, seed: int) -> Plan:
    generator = torch.Generator().manual_seed(seed)
    named = {name: each for name, each in model.named_parameters() if each.dim() > 1}
    masks = {name: torch.rand(each.shape, generator=generator) < 0.5 for name, each in named.items()}
    return mask_weights(trace(model, X), masks)


@pytest.fixture(scope="module")
def dense() -> nn.Module:
    torch.manual_seed(0)
    return build("edakari:resnet20")


@pytest.fixture(scope="module")
def saved(dense: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module, Plan]:
    """A folder of a network that was masked and cut, then masked and cut again in a second step."""
    folder = tmp_path_factory.mktemp("saved")
    first = masks_for(dense, 0).then(random_plan(trace(dense, X), 0.8))
    small = apply(dense, first)
    second = masks_for(small, 1).then(random_plan(trace(small, X), 0.8, seed=1))
    small = apply(small, second)
    save(small, second, folder / "run")
    return folder / "run", small, second


def test_a_masked_network_comes_back_with_its_masks(saved: tuple[Path, nn.Module, Plan], dense: nn.Module) -> None:
    folder, small, plan = saved
    for back in (load(folder), load(folder, dense)):
        assert all(map(torch.equal, back.state_dict().values(), small.state_dict().values()))
        assert held_masks(back) == held_masks(small)
    assert load_plan(folder) == plan
    assert load_plan(folder).masks() == plan.masks()
    assert [len(step.plan.masks()) for step in load_steps(folder)] == [len(plan.masks())] * 2
    every = sum(each.numel() for name, each in dense.named_parameters() if each.dim() > 1)
    # eight weights a byte, in two steps
    assert (folder / MASKS).stat().st_size < 2 * every / 8 + 20_000


def test_a_loaded_network_saves_and_prunes_on(saved: tuple[Path, nn.Module, Plan], tmp_path: Path) -> None:
    folder, small, plan = saved
    back = load(folder)
    save(back, plan, tmp_path / "copy")
    assert held_masks(load(tmp_path / "copy")) == held_masks(small)
    third = random_plan(trace(back, X), 0.5)
    save(apply(back, third), third, tmp_path / "third")
    again = load(tmp_path / "third")
    assert held_masks(again).keys() == held_masks(small).keys()
    assert not any(again.get_parameter(name)[~mask].any() for name, mask in held_masks(again).items())


def test_a_joined_plan_is_saved_as_one_step(dense: nn.Module, tmp_path: Path) -> None:
    first = random_plan(trace(dense, X), 0.8)
    middle = apply(dense, first)
    second = masks_for(middle, 3)
    joined = first.then(second, trace(dense, X))
    small = apply(middle, second)
    save(small, joined, tmp_path)
    assert load_plan(tmp_path).masks() == joined.masks()
    assert held_masks(load(tmp_path)) == held_masks(small)


def test_no_file_of_masks_is_written_or_left_for_a_plan_without(dense: nn.Module, tmp_path: Path) -> None:
    plan = masks_for(dense, 0)
    save(apply(dense, plan), plan, tmp_path)
    assert (tmp_path / MASKS).is_file()
    plain = random_plan(trace(dense, X), 0.8)
    save(apply(dense, plain), plain, tmp_path, overwrite=True)
    assert not (tmp_path / MASKS).exists()
    assert len(held_masks(load(tmp_path))) == 0


def test_filled_zeros_are_refused(dense: nn.Module, tmp_path: Path) -> None:
    plan = masks_for(dense, 0)
    small = apply(dense, plan)
    name, mask = next(iter(held_masks(small).items()))
    with torch.no_grad():
        small.get_parameter(name)[~mask] = 1
    with pytest.raises(PlanError, match=rf"{int((~mask).sum())} weights of '{name}' that the plan masks are not zero"):
        save(small, plan, tmp_path)
    with pytest.raises(PlanError, match="not zero"):
        save(small, plan, tmp_path, base=dense)
    assert not list(tmp_path.iterdir())


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def without_one(path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    arrays = load_file(path)
    arrays.pop(sorted(arrays)[0])
    save_file(arrays, path)


def swapped(path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    arrays = load_file(path)
    names = sorted(arrays)
    save_file(dict(zip(names, [arrays[name] for name in (*names[1:], names[0])], strict=True)), path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "masks.safetensors is missing.*copy it along"),
        (flipped, "not those that the plan was made with"),
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), "is damaged"),
        (lambda path: path.write_bytes(b"nothing"), "is damaged"),
        (without_one, "holds no mask of .* of another plan"),
        (swapped, "not those that the plan was made with"),
    ],
)
@pytest.mark.parametrize("read", [load, load_plan, load_steps])
def test_wrong_masks_give_one_clear_error(saved, tmp_path, damage, message, read) -> None:
    folder = tmp_path / "run"
    shutil.copytree(saved[0], folder)
    damage(folder / MASKS)
    if read is load_plan and damage in (flipped, without_one):
        pytest.skip("the damage may be to the mask of the earlier step, which load_plan does not read")
    with pytest.raises(PlanError, match=message):
        read(folder)


def test_masks_of_another_network_do_not_fit(saved, dense: nn.Module, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(saved[0], folder)
    other = masks_for(dense, 9)
    save(apply(dense, other), other, tmp_path / "other")
    shutil.copy(tmp_path / "other" / MASKS, folder / MASKS)
    with pytest.raises(PlanError, match="of another plan"):
        load(folder)


def test_a_plans_text_alone_says_what_is_missing(saved, dense: nn.Module) -> None:
    plan = Plan.from_json(json.dumps(json.loads(masks_for(dense, 0).to_json())))
    with pytest.raises(PlanError, match="its JSON alone"):
        apply(dense, plan)
    with pytest.raises(PlanError, match="its JSON alone"):
        save(dense, plan, "nowhere", base=dense)
