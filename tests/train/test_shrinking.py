"""A training in which hooks make the network smaller: against masks, stopped anywhere, and in several processes."""

from __future__ import annotations

import dataclasses as dc
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import edakari as ek
from edakari.core.protocols import StepState
from edakari.errors import ModelError
from edakari.train import fit
from tests.surgery.masked_training import EXAMPLE, cnn, distance
from tests.together import apart, together
from tests.train import shrinking
from tests.train.shrinking import QUIET, SCHEDULE, SCHEDULES, Mask, Shrink, Stopped, batches, objective


@pytest.mark.parametrize(("name", "subset"), [*((name, False) for name in SCHEDULES), ("all", True)])
def test_it_ends_where_masks_end(name: str, subset: bool) -> None:
    small, dense = cnn(), cnn()
    hook = Shrink((1,))
    # a branch's last batch normalisation would get gradients again, as masks know nothing of it
    hook.made = lambda graph, epoch: ek.testing.random_plan(graph, (0.4, 0.8), epoch)  # type: ignore[method-assign]
    mask = Mask(dense, 1, lambda model: hook.made(ek.trace(model, EXAMPLE), 1))
    modules = dict(small.named_modules())
    for model, own in ((small, hook), (dense, mask)):
        model.eval()
        kept = [param for key, param in model.named_parameters() if not key.startswith("stem")] if subset else None
        fit(model, objective, batches(), SCHEDULES[name], hooks=[own], params=kept, settings=QUIET)  # type: ignore[list-item]
    assert hook.plan is not None
    assert distance(small, dense, mask.where) < 1e-10
    assert dict(small.named_modules()) == modules
    assert all(param.requires_grad and param.grad is None for param in small.parameters())
    assert not any(module.training for module in small.modules())
    assert sum(param.numel() for param in small.parameters()) < sum(param.numel() for param in dense.parameters())
    if subset:  # the comparison says something
        twin = cnn()
        fit(twin, objective, batches(), SCHEDULES[name], settings=QUIET)
        assert distance(small, twin, mask.where) > 1e-3


def run(folder: Path, hook: Shrink, model: nn.Module | None = None) -> nn.Module:
    model = cnn() if model is None else model
    settings = dc.replace(QUIET, folder=folder, checkpoint_steps=1)
    fit(model, objective, batches(), SCHEDULES["all"], hooks=[hook], settings=settings)
    return model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return run(tmp_path_factory.mktemp("whole"), Shrink())


def same(one: nn.Module, other: nn.Module) -> None:
    assert repr(one) == repr(other)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


# three steps an epoch; cuts after the first and the second
@pytest.mark.parametrize("stop", [("step", 1), ("epoch", 0), ("step", 3), ("step", 4), ("epoch", 1), ("step", 7)])
def test_a_stopped_training_ends_bit_for_bit_as_one_that_ran_through(
    whole: nn.Module, stop: tuple[str, int], tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, Shrink(stop=stop))
    same(run(tmp_path, Shrink()), whole)
    again = Shrink()  # its weights are loaded
    same(run(tmp_path, again), whole)
    assert again.plan is not None
    assert repr(ek.apply(cnn(), again.plan)) == repr(whole)


@pytest.mark.slow
def test_a_killed_training_continues_after_the_cut(whole: nn.Module, tmp_path: Path) -> None:
    assert apart(shrinking.main, str(tmp_path), 1)[0] == -signal.SIGKILL
    same(run(tmp_path, Shrink()), whole)


def test_optimizers_and_averages_that_stay_behind_are_told() -> None:
    class Careless(Shrink):
        def end_epoch(self, state: StepState) -> None:
            plan = self.made(ek.trace(state.model, EXAMPLE), 0)
            ek.shrink(state.model, plan, *(() if self.epochs else (state.optimizer,)))

    for schedule, epochs, words in (
        (SCHEDULE, (0,), "optimizer trains others"),
        (SCHEDULES["averaged"], (), "averaged"),
    ):
        with pytest.raises(ModelError, match=words):
            fit(cnn(), objective, batches(), schedule, hooks=[Careless(epochs)], settings=QUIET)


def test_a_hook_that_cannot_reshape_is_told(tmp_path: Path) -> None:
    class Forgetful(Shrink):
        def reshape(self, model: nn.Module) -> None:
            pass

    run(tmp_path, Forgetful())
    with pytest.raises(ModelError, match=r"needs a method reshape\(model\)"):
        run(tmp_path, Forgetful())


def test_two_processes_shrink_as_one_does(tmp_path: Path) -> None:
    together(shrinking.shared, str(tmp_path / "two"))
    shrinking.shared(str(tmp_path / "one"))
    alone = load_file(tmp_path / "one" / "1-0.safetensors")
    for rank in (0, 1):
        found = load_file(tmp_path / "two" / f"2-{rank}.safetensors")
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(found[name], value, atol=1e-10, rtol=1e-9)
