"""An attribute of one module stands in for a method or parameter, and leaves nothing behind."""

from __future__ import annotations

import torch
from torch import nn

from edakari.core.stand_ins import has_stand_in, put_stand_in, take_stand_in_off


def test_a_stand_in_is_found_first_and_leaves_nothing_behind() -> None:
    layer = nn.Linear(2, 3)
    before, x = dict(vars(layer)), torch.ones(1, 2)
    expected = layer(x)
    assert put_stand_in(layer, lambda x: 2 * type(layer).forward(layer, x)) is None
    put_stand_in(layer, torch.zeros(3, 2), "weight")
    assert has_stand_in(layer)
    assert has_stand_in(layer, "weight")
    assert torch.equal(layer(x)[0], 2 * layer.bias)
    take_stand_in_off(layer)
    take_stand_in_off(layer, "weight")
    assert vars(layer) == before
    assert torch.equal(layer(x), expected)


def test_what_stood_in_before_is_put_back() -> None:
    layer = nn.Identity()
    put_stand_in(layer, earlier := (lambda x: x + 1))
    assert put_stand_in(layer, lambda x: x + 2) is earlier
    take_stand_in_off(layer, before=earlier)
    assert layer(torch.zeros(1)) == 1
    take_stand_in_off(layer)
    take_stand_in_off(layer)
    assert not has_stand_in(layer)
