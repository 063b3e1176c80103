"""Masks in training against a loop that keeps all values and computes with the masked ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from edakari.methods.tickets.masking import Masking, averaged_weights
from edakari.methods.tickets.selecting import select
from edakari.train.gradients import with_gradients

BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: Mapping[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "momentum and decay": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam with l2": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.02),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, weight_decay=0.01),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 6, 3, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 4)).double()


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 3, 6, 6, generator=generator, dtype=torch.float64), torch.arange(8) % 4


def weights_of(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: each for name, each in model.named_parameters() if each.dim() > 1}


def masks_at(model: nn.Module, fraction: float) -> dict[str, torch.Tensor]:
    return select({name: each.detach().abs() for name, each in weights_of(model).items()}, fraction)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(BITS[tensor.dtype])


def by_hand(model: nn.Module, masks: Mapping[str, torch.Tensor], make: Make, steps: int) -> None:
    """All values stay in the network; the loss is computed with masked ones, so that autograd masks the gradient."""
    optimizer = make(list(model.parameters()))
    for step in range(steps):
        images, labels = batch(step)
        weights = {name: each * masks[name] if name in masks else each for name, each in model.named_parameters()}
        optimizer.zero_grad()
        functional.cross_entropy(functional_call(model, weights, images), labels).backward()
        optimizer.step()


def by_masking(model: nn.Module, masking: Masking, make: Make, steps: int) -> None:
    optimizer = make(list(model.parameters()))

    def before_update() -> None:
        masking.zero_gradients()
        masking.restore()

    with_gradients(optimizer, before_update)
    for step in range(steps):
        images, labels = batch(step)
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        masking.mask()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_equals_a_loop_that_computes_with_masked_weights(name: str) -> None:
    one, other = network(), network()
    masks = masks_at(one, 0.6)
    by_hand(one, masks, OPTIMIZERS[name], 5)
    masking = Masking(weights_of(other))
    masking.set(masks)
    by_masking(other, masking, OPTIMIZERS[name], 5)
    for key, weight in weights_of(other).items():
        assert bool((weight[~masks[key]] == 0).all())
    masking.restore()
    for (key, wanted), found in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14, msg=key)
    moved = [not torch.equal(each, network().get_parameter(key)) for key, each in weights_of(other).items()]
    assert all(moved)


def test_masked_weights_stay_bit_by_bit_under_plain_sgd() -> None:
    model = network()
    before = {name: each.detach().clone() for name, each in weights_of(model).items()}
    masks, masking = masks_at(model, 0.5), Masking(weights_of(model))
    masking.set(masks)
    by_masking(model, masking, OPTIMIZERS["sgd"], 5)
    masking.set({})
    for name, weight in weights_of(model).items():
        gone = ~masks[name]
        assert torch.equal(bits(weight)[gone], bits(before[name])[gone])
        assert not bool((weight.detach()[masks[name]] == before[name][masks[name]]).any())


def test_the_gradient_of_masked_weights_is_exactly_zero() -> None:
    model = network()
    masking = Masking(weights_of(model))
    masking.set(masks_at(model, 0.5))
    images, labels = batch(0)
    functional.cross_entropy(model(images), labels).backward()
    model[0].weight.grad[0] = torch.inf  # as of an overflow
    masking.zero_gradients()
    for name, weight in weights_of(model).items():
        mask = masking.masks[name]
        assert bool((weight.grad[~mask] == 0).all())
        assert bool((weight.grad[mask] != 0).any())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_values_come_back_bit_by_bit(dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.randn(4, 8, 3, 3).to(dtype).to(memory_format=torch.channels_last))
    special = torch.tensor([-0.0, torch.inf, -torch.inf, torch.nan, 1e-7], dtype=dtype)
    with torch.no_grad():
        weight[0, :5, 0, 0] = special
        weight[1, :5, 0, 0] = special
    before, mask = weight.detach().clone(), torch.rand(weight.shape) < 0.5
    mask[0, :5], mask[1, :5] = False, True
    masking = Masking({"w": weight})
    masking.set({"w": mask})
    assert bool((bits(weight)[~mask] == 0).all())
    assert torch.equal(bits(weight)[mask], bits(before)[mask])
    masking.restore()
    assert torch.equal(bits(weight), bits(before))
    assert weight.stride() == before.stride()


def test_masks_change_while_others_hold() -> None:
    model = network()
    before = {name: each.detach().clone() for name, each in weights_of(model).items()}
    masking = Masking(weights_of(model))
    for fraction in (0.2, 0.9, 0.0, 0.5):
        masks = select({name: each.abs() for name, each in before.items()}, fraction)
        masking.set(masks)
        masking.mask()
        assert all(torch.equal(each, before[name] * masks[name]) for name, each in weights_of(model).items())
    masking.restore()
    masking.restore()
    assert all(torch.equal(bits(each), bits(before[name])) for name, each in weights_of(model).items())


def test_a_state_restores_masks_and_values() -> None:
    model, other = network(), network()
    masking = Masking(weights_of(model))
    masking.set(masks_at(model, 0.7))
    other.load_state_dict(model.state_dict())
    again = Masking(weights_of(other))
    again.load_state_dict(masking.state_dict())
    assert all(torch.equal(again.masks[name], mask) for name, mask in masking.masks.items())
    again.restore()
    for name, each in weights_of(network()).items():
        assert torch.equal(bits(weights_of(other)[name]), bits(each))


def test_averages_are_found_in_the_usual_objects() -> None:
    model = network()
    weights = weights_of(model)
    average = torch.optim.swa_utils.AveragedModel(model)
    found = averaged_weights(average, weights)
    assert all(found[name].data_ptr() == dict(average.module.named_parameters())[name].data_ptr() for name in weights)
    timm = pytest.importorskip("timm.utils.model_ema")
    found = averaged_weights(timm.ModelEmaV3(model), weights)
    assert found.keys() == weights.keys()
    assert averaged_weights(nn.Linear(2, 2), weights) == {}
