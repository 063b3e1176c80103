"""Statistics of batch normalisations, taken anew from batches without labels."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import edakari
from edakari.core.plan import KeepChannels, Plan
from edakari.errors import DataError, WrongArgument
from edakari.train import recalibrate

IMAGES = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def network() -> nn.Module:
    torch.manual_seed(1)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.5))
    model = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(4)).double()
    model(IMAGES)  # leaves other statistics than the initial ones
    return model.eval()


def test_statistics_are_the_means_over_the_batches() -> None:
    model = network()
    batches = [IMAGES[:8], IMAGES[8:16], IMAGES[16:]]
    fresh = recalibrate(model, batches)
    seen = [model[0](batch) for batch in batches]
    mean = torch.stack([each.mean((0, 2, 3)) for each in seen]).mean(0)
    variance = torch.stack([each.transpose(0, 1).flatten(1).var(1) for each in seen]).mean(0)
    torch.testing.assert_close(fresh[1].running_mean, mean)
    torch.testing.assert_close(fresh[1].running_var, variance)
    # the second one sees what the first one gives by its own batch's statistics
    hidden = [
        model[3](nn.functional.batch_norm(each, None, None, *model[1].parameters(), training=True).relu())
        for each in seen
    ]
    torch.testing.assert_close(fresh[4].running_mean, torch.stack([each.mean((0, 2, 3)) for each in hidden]).mean(0))


def test_nothing_else_changes() -> None:
    model = network().train()
    model[1].eval()  # frozen by its user
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    fresh = recalibrate(model, [IMAGES])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes == [module.training for module in fresh.modules()]
    assert [m.momentum for m in fresh.modules() if isinstance(m, nn.BatchNorm2d)] == [0.1, 0.1]
    changed = {name for name, value in fresh.state_dict().items() if not torch.equal(value, before[name])}
    kinds = ("running_mean", "running_var", "num_batches_tracked")
    assert changed <= {f"{layer}.{kind}" for layer in (1, 4) for kind in kinds}
    assert {"1.running_mean", "4.running_var"} <= changed


def test_a_cut_network_has_activations_like_the_dense_one_again_and_can_be_saved(tmp_path) -> None:
    model = recalibrate(network(), [IMAGES])
    graph = edakari.trace(model, IMAGES[:1])
    plan = Plan((KeepChannels(graph.groups[0].name, (0, 2, 3, 5, 6)),), graph.fingerprint, graph.inputs)
    small = edakari.apply(model, plan)
    fresh = recalibrate(small, [IMAGES])

    def moments(network: nn.Module) -> torch.Tensor:
        hidden = network[:5](IMAGES).detach()
        return torch.stack([hidden.mean((0, 2, 3)), hidden.var((0, 2, 3))])

    torch.testing.assert_close(moments(fresh), moments(model), rtol=0.0, atol=5e-3)
    assert (moments(small) - moments(model)).abs().max() > 0.05
    edakari.save(fresh, plan, tmp_path / "net", base=model)
    assert torch.equal(edakari.load(tmp_path / "net", model)(IMAGES), fresh(IMAGES))


class Named(nn.Module):
    """Takes its input by keyword, and something optional."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, dtype=torch.float64)

    def forward(self, pixels: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        assert mask is None, "labels are no mask"
        return self.norm(pixels)


@pytest.mark.parametrize(
    "batches",
    [
        [IMAGES],
        [(IMAGES, torch.zeros(24))],
        [[IMAGES, torch.zeros(24), "name"]],
        [{"pixels": IMAGES, "labels": torch.zeros(24)}],
        [({"pixels": IMAGES}, torch.zeros(24))],
        DataLoader(TensorDataset(IMAGES, torch.zeros(24)), batch_size=24),
    ],
    ids=["tensor", "pair", "list", "dict", "dict and labels", "loader"],
)
def test_labels_beside_the_inputs_are_not_read(batches) -> None:
    fresh = recalibrate(Named(), batches)
    torch.testing.assert_close(fresh.norm.running_mean, IMAGES.mean((0, 2, 3)))


@pytest.mark.parametrize(
    ("batches", "error", "said"),
    [
        ([], DataError, "no batch"),
        (3, WrongArgument, "batches takes a Iterable"),
        (["text"], DataError, "is a str"),
        ([{"image": IMAGES}], DataError, "of which the network takes none"),
        ([IMAGES[:1, :, :1, :1]], DataError, "too small"),
    ],
)
def test_what_cannot_be_used_is_told(batches, error, said) -> None:
    with pytest.raises(error, match=said):
        recalibrate(Named(), batches)


def test_a_network_without_such_layers_is_copied() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False))
    fresh = recalibrate(model, [])
    assert fresh is not model
    assert torch.equal(fresh[0].weight, model[0].weight)
