"""Torch's semi-structured format: what is handed to torch, as its kernels need a GPU that the tests do not have."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import edakari
from edakari.core.weight_masks import WeightMasks
from edakari.errors import ModelError, PlanError
from edakari.surgery import apply, to_semi_structured


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def patterned(model: nn.Module, names: list[str]) -> nn.Module:
    graph = edakari.trace(model, torch.zeros(1, 1, 4, 4))
    return apply(model, edakari.mask_weights(graph, WeightMasks.two_of_four(model, names)))


def test_weights_with_the_pattern_are_handed_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def stand_in(weight: torch.Tensor) -> torch.Tensor:
        seen.append(weight)
        return weight * 1

    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", stand_in)
    model = patterned(network(), ["1.weight", "3.weight"])
    for names, count in ((None, 2), (["3.weight"], 1)):
        seen.clear()
        made = to_semi_structured(model, names)
        assert [weight.shape for weight in seen] == [model[index].weight.shape for index in (1, 3)][-count:]
        assert all((weight.reshape(-1, 4) != 0).sum(1).max() <= 2 for weight in seen)
        x = torch.randn(2, 1, 4, 4)
        assert torch.equal(made(x), model.eval()(x))
        assert not any(parameter.requires_grad for parameter in made.parameters())
        assert model[1].weight.requires_grad


def test_torchs_own_words_say_why_a_weight_cannot_be_stored() -> None:
    if torch.cuda.is_available():
        pytest.skip("torch may store it here")
    with pytest.raises(ModelError, match=r"'1\.weight'.*NVIDIA GPU"):
        to_semi_structured(patterned(network(), ["1.weight"]))


def test_weights_without_the_pattern_are_refused() -> None:
    model = patterned(network(), ["1.weight"])
    for names, message in (
        (["3.weight"], "more than two"),
        (["3.bias"], "not the weight"),
        (["3.wait"], "did you mean"),
    ):
        with pytest.raises(PlanError, match=message):
            to_semi_structured(model, names)
    with pytest.raises(PlanError, match="no linear layer"):
        to_semi_structured(network())
