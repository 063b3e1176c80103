"""Settings that make trainings faster or smaller: the same result, and everything as it was afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from edakari.core.protocols import Schedule, StepState
from edakari.errors import ModelError
from edakari.train import FitSettings, fit, optimizers
from edakari.train.fits import fit_by
from edakari.train.optim import make_optimizer
from edakari.train.precision import in_tf32
from edakari.train.saving_memory import checkpointed


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def batches() -> list[Any]:
    torch.manual_seed(1)
    return [(torch.randn(6, 4), torch.randint(0, 3, (6,))) for _ in range(3)]


def objective(model: nn.Module, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]).float(), batch[1])


SETTINGS = FitSettings(progress=False, device="cpu")


def test_epochs_are_evaluated_in_the_precision_of_the_training_and_the_last_one_in_full() -> None:
    computed: list[torch.dtype] = []
    given: list[torch.dtype] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        handle = model[3].register_forward_hook(lambda module, args, output: computed.append(output.dtype))
        given.append(model(torch.ones(2, 4)).dtype)
        handle.remove()
        return {"top1": 0.5}

    model = network()
    history = fit(
        model, objective, batches(), Schedule(epochs=3, precision="bf16"), settings=SETTINGS, evaluate=evaluate
    )
    assert computed == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert given == [torch.float32] * 3
    assert "forward" not in vars(model)
    assert history.metrics == {"top1": 0.5}


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_metrics_after_the_last_epoch_are_those_of_the_network_that_is_returned(ema: float) -> None:
    def evaluate(model: nn.Module) -> dict[str, float]:
        model.eval()
        return {"sum": float(model(torch.ones(2, 4)).sum().detach())}

    model = network()
    history = fit(
        model, objective, batches(), Schedule(epochs=2, lr=0.1, ema=ema), settings=SETTINGS, evaluate=evaluate
    )
    assert dict(history.metrics) == evaluate(model)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_optimizers_are_fused_where_torch_can_and_train_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule, results = Schedule(epochs=2, lr=0.05, optimizer=name), []
    params = list(network().parameters())
    assert not make_optimizer(params, schedule).defaults.get("fused")  # on the CPU it would not pay
    for devices in ((), ("cpu",)):  # the CPU stands in for a GPU
        monkeypatch.setattr(optimizers, "FUSED_ON", devices)
        assert bool(make_optimizer(params, schedule).defaults["fused"]) == bool(devices)
        model = network().double()  # Adam divides by the gradient's size: that of a bias before a norm is only rounding
        data = [(inputs.double(), labels) for inputs, labels in batches()]
        fit(
            model,
            lambda net, batch: nn.functional.cross_entropy(net(batch[0]), batch[1]),
            data,
            schedule,
            settings=SETTINGS,
        )
        results.append(model.state_dict())
    for key, value in results[0].items():
        torch.testing.assert_close(results[1][key], value)
    own = Schedule(optimizer=name, optimizer_options={"foreach": True})
    assert not make_optimizer(params, own).defaults["fused"]
    assert not make_optimizer(params, Schedule(optimizer=name, precision="fp16")).defaults["fused"]


@pytest.mark.parametrize("wanted", [True, False])
def test_tf32_is_set_for_a_gpu_alone_and_restored(wanted: bool) -> None:
    before = torch.get_float32_matmul_precision()
    with in_tf32(torch.device("cpu"), wanted):
        assert torch.get_float32_matmul_precision() == before
    with in_tf32(torch.device("cuda"), wanted):
        assert torch.get_float32_matmul_precision() == ("high" if wanted else "highest")
    assert torch.get_float32_matmul_precision() == before


class Blocks(nn.Module):
    """A network with timm's way of checkpointing."""

    def __init__(self, able: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.able, self.grad_checkpointing, self.ran = able, False, 0
        self.first, self.block, self.head = (
            nn.Linear(4, 8),
            nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 8)),
            nn.Linear(8, 3),
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        assert self.able or not enable, "gradient checkpointing not supported"
        self.grad_checkpointing = enable

    def inner(self, x: torch.Tensor) -> torch.Tensor:
        self.ran += 1
        return torch.relu(self.block(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if self.grad_checkpointing:
            x = torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False)
        else:
            x = self.inner(x)
        return self.head(x)


class Enabled(nn.Module):
    """A network with transformers' way of checkpointing."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.is_gradient_checkpointing = nn.Linear(4, 3), False

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None) -> None:
        assert gradient_checkpointing_kwargs == {"use_reentrant": False}
        self.is_gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        self.is_gradient_checkpointing = False


def test_a_training_with_gradient_checkpointing_gives_the_same_weights() -> None:
    results = []
    for wanted in (False, True):
        model = Blocks()
        settings = FitSettings(progress=False, device="cpu", gradient_checkpointing=wanted)
        fit(nn.Sequential(model), objective, batches(), Schedule(epochs=2, lr=0.1), settings=settings)
        assert model.ran == 6 * (1 + wanted)
        assert not model.grad_checkpointing
        results.append(model.state_dict())
    assert all(torch.equal(value, results[1][key]) for key, value in results[0].items())


def plain(
    model: nn.Module, terms: Any, schedule: Schedule, *, hooks: Any = (), params: Any = None, batches: Any
) -> None:
    """A loop of a user's own."""
    optimizer = torch.optim.SGD(model.parameters(), schedule.lr)
    for step, batch in enumerate(batches):
        state = StepState(model, optimizer, step, 0)
        for hook in hooks:
            hook.before_step(state)
        optimizer.zero_grad()
        terms(model, batch)["loss"].backward()
        optimizer.step()
        for hook in hooks:
            hook.after_step(state)
    for hook in hooks:
        hook.end_epoch(state)


def test_another_loop_trains_with_gradient_checkpointing_too() -> None:
    for wanted in (False, True):
        model = Blocks()
        settings = FitSettings(progress=False, device="cpu", gradient_checkpointing=wanted)
        fit_by(plain)(nn.Sequential(model), objective, batches(), Schedule(epochs=1, lr=0.1), settings=settings)
        assert model.ran == 3 * (1 + wanted)
        assert not model.grad_checkpointing


def test_checkpointing_is_restored_to_what_it_was() -> None:
    model, other = Blocks(), Enabled()
    model.set_grad_checkpointing(True)
    with checkpointed(model):
        assert model.grad_checkpointing
    assert model.grad_checkpointing
    with checkpointed(nn.Sequential(other)):
        assert other.is_gradient_checkpointing
    assert not other.is_gradient_checkpointing


@pytest.mark.parametrize("model", [network(), Blocks(able=False)], ids=["none", "unable"])
def test_networks_without_checkpointing_are_refused(model: nn.Module) -> None:
    settings = FitSettings(progress=False, device="cpu", gradient_checkpointing=True)
    with pytest.raises(ModelError, match="offers no gradient checkpointing"):
        fit(model, objective, batches(), Schedule(epochs=1), settings=settings)
