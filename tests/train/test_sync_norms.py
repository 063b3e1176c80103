"""Batch norms of several processes with common statistics: as one process has on the complete batch.

torch has no such operator for CPUs. Here a formula by differentiable sums over processes takes the place of its
`SyncBatchNorm.forward`; that operator itself has not been run on CUDA by these tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from edakari.core.copying import copied
from edakari.core.processes import Processes
from edakari.core.protocols import Hook, Schedule, StepState
from edakari.errors import ModelError, RecipeError
from edakari.pipeline import recipe_from
from edakari.pipeline.preflight import check_pruning, check_training
from edakari.train import FitSettings, fit
from edakari.train.accelerators import new_accelerator
from edakari.train.sync_norms import SyncedNorms
from tests.together import together

SIZE = 8
KINDS = ("norm", "timm", "recomputed")


class Sum(torch.autograd.Function):
    """Sum over processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return Processes.here().reduced(value.clone())

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return Processes.here().reduced(grad.clone())


def common(norm: Any, images: torch.Tensor) -> torch.Tensor:
    """What `SyncBatchNorm.forward` computes on CUDA, by sums that autograd can follow."""
    if not norm.training:
        return nn.functional.batch_norm(
            images, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )
    dims = [0, *range(2, images.ndim)]
    count = Processes.here().world * images.numel() / images.shape[1]
    shape = [1, -1] + [1] * (images.ndim - 2)
    mean = Sum.apply(images.sum(dims)) / count
    var = Sum.apply((images - mean.view(shape)).square().sum(dims)) / count
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var * count / (count - 1), norm.momentum)
    made = (images - mean.view(shape)) * (var.view(shape) + norm.eps).rsqrt()
    return made * norm.weight.view(shape) + norm.bias.view(shape)


class Recomputed(nn.Module):
    """Computes its layers again in the backward pass, if asked."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.grad_checkpointing = nn.Sequential(*layers), False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    def forward(self, images: torch.Tensor) -> Any:
        if not self.grad_checkpointing:
            return self.layers(images)
        return torch.utils.checkpoint.checkpoint(self.layers, images, use_reentrant=False)


def network(kind: str) -> nn.Module:
    from timm.layers import BatchNormAct2d

    torch.manual_seed(3)
    norm = BatchNormAct2d(4, act_layer=nn.ReLU) if kind == "timm" else nn.BatchNorm2d(4)
    layers = (nn.Conv2d(2, 4, 3), norm, nn.Tanh(), nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    return (Recomputed(*layers) if kind == "recomputed" else nn.Sequential(*layers)).double()


class Copies(Hook):
    """Copies the network during the training."""

    def __init__(self) -> None:
        self.made: list[nn.Module] = []

    def after_step(self, state: StepState) -> None:
        self.made.append(copied(state.model))


def trained(kind: str, *, sync_bn: bool = True) -> tuple[nn.Module, Copies]:
    here, model, hook = Processes.here(), network(kind), Copies()
    generator = torch.Generator().manual_seed(0)
    whole = [(3 * torch.randn(SIZE, 2, 4, 4, generator=generator).double(), torch.arange(SIZE) % 2) for _ in range(4)]
    batches = [(images.chunk(here.world)[here.rank], labels.chunk(here.world)[here.rank]) for images, labels in whole]
    settings = FitSettings(progress=False, device="cpu", sync_bn=sync_bn, gradient_checkpointing=kind == "recomputed")
    fit(
        model,
        lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        batches,
        Schedule(epochs=2, lr=0.1, ema=0.5 if kind == "norm" else 0.0),
        hooks=[hook],
        settings=settings,
    )
    return model, hook


def main(folder: str) -> None:
    """Run by each of two processes."""
    import edakari.train.loop as loop

    new_accelerator("fp32", cpu=True)  # from here on, the processes know each other
    rank = Processes.here().rank
    with pytest.raises(RecipeError, match=r"sync_bn: .* GPU for each process, and these 2 train on the CPU"):
        trained("norm")
    loop.require_sync_norms = lambda device, world: None
    nn.SyncBatchNorm.forward = common  # type: ignore[method-assign]
    for kind in KINDS:
        model, hook = trained(kind)
        for each in (model, *hook.made):
            assert not any(isinstance(module, nn.SyncBatchNorm) for module in each.modules())
            assert not any("forward" in vars(module) for module in each.modules())
        save_file(model.state_dict(), f"{folder}/{kind}-{rank}.safetensors")
    model, _ = trained("norm", sync_bn=False)
    save_file(model.state_dict(), f"{folder}/apart-{rank}.safetensors")


def test_two_processes_train_as_one_does_on_whole_batches(tmp_path: Path) -> None:
    together(main, str(tmp_path))
    for kind in KINDS:
        found = [load_file(tmp_path / f"{kind}-{rank}.safetensors") for rank in range(2)]
        alone = trained(kind)[0].state_dict()
        for name, value in alone.items():
            for each in found:
                torch.testing.assert_close(each[name], value, rtol=1e-10, atol=1e-12)
        if kind == "norm":
            apart = load_file(tmp_path / "apart-0.safetensors")
            assert any((apart[name] - value).abs().max() > 1e-3 for name, value in alone.items())


def test_the_operator_gets_what_torch_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to its call: on one process, torch's own forward takes the usual operator."""
    for kind in KINDS:
        one, other = network(kind).train(), network(kind).train()
        images = torch.randn(6, 2, 4, 4).double()
        expected = one(images)
        with SyncedNorms(other).active():
            torch.testing.assert_close(other(images), expected, rtol=0, atol=0)
        for name, value in one.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], value, rtol=0, atol=0)
        with SyncedNorms(other.eval()).active():
            torch.testing.assert_close(other(images), one.eval()(images), rtol=0, atol=0)
        assert not any("forward" in vars(module) for module in other.modules())


def test_a_norm_that_computes_in_its_own_way_is_named() -> None:
    class Odd(nn.BatchNorm2d):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(images)

    with pytest.raises(
        ModelError, match=r"sync_bn: the batch normalisation '1' is of the class Odd.*leave sync_bn out"
    ):
        SyncedNorms(nn.Sequential(nn.Conv2d(1, 2, 1), Odd(2)))


def test_several_processes_on_cpus_are_refused_before_anything_runs() -> None:
    content = {"model": "edakari:fashion_cnn", "method": "magnitude", "budget": "macs<=50%", "sync_bn": True}
    recipe = recipe_from({**content, "finetune": {"epochs": 1}, "train": {"epochs": 1}})
    check_pruning(recipe, Processes(), lambda stage: False)
    check_training(recipe, Processes())
    for check in (lambda two: check_pruning(recipe, two, lambda stage: False), lambda two: check_training(recipe, two)):
        with pytest.raises(RecipeError, match="sync_bn: torch's SyncBatchNorm needs a GPU for each process"):
            check(Processes(0, 2))
    other = recipe_from({**content, "fit": "timm", "finetune": {"epochs": 1}})
    with pytest.raises(RecipeError, match="sync_bn: is of edakari's own training loop, but fit names 'timm'"):
        check_pruning(other, Processes(), lambda stage: False)
