"""The memory format of a network: told by its weights, set and restored in place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edakari.core.memory_format import in_memory_format, memory_format_of, set_memory_format_


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 1), nn.ConvTranspose2d(6, 5, 3), nn.ReLU(), nn.Conv2d(5, 3, 2), nn.Flatten()
    )


def test_a_format_changes_strides_and_nothing_else() -> None:
    model = network()
    params, before = list(model.parameters()), {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(2, 1, 6, 6)
    expected = model(images)
    set_memory_format_(model, "channels_last")
    assert memory_format_of(model) == "channels_last"
    assert model[3](model[2](model[1](model[0](images)))).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(images), expected)
    assert all(one is other for one, other in zip(params, model.parameters(), strict=True))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("before", ["contiguous", "channels_last"])
@pytest.mark.parametrize("inside", ["contiguous", "channels_last", None])
def test_the_former_format_is_restored_also_after_an_error(before: str, inside: str | None) -> None:
    model = network()
    set_memory_format_(model, before)
    strides = [param.stride() for param in model.parameters()]

    def fail() -> None:
        with in_memory_format(model, inside):
            assert memory_format_of(model) == (inside or before)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [param.stride() for param in model.parameters()] == strides


def test_networks_without_2d_convolutions_are_contiguous() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Conv1d(3, 3, 1), nn.Conv3d(1, 2, 2))
    set_memory_format_(model, "channels_last")
    assert memory_format_of(model) == "contiguous"
    assert all(param.is_contiguous() for param in model.parameters())
