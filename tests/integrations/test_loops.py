"""Loops that a user writes: what is done around them, and what is said of those that leave something out."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path
from typing import Any

import pytest
import torch

import edakari
import edakari.integrations.timm
from edakari.core.protocols import Hook, Schedule
from edakari.errors import EdakariError, ModelError, SettingsError, UntrustedCode, WrongArgument
from edakari.pipeline import read_recipe, recipe_from
from edakari.testing import ToyTask, check_fit, toy_cnn, toy_fit
from edakari.train import FitSettings, fit, fit_by, fitter
from tests.integrations import loops
from tests.integrations.oracle import QUIET, SCHEDULE, SCHEDULES, batches, check_same, network, objective

HERE = Path(__file__).parents[1] / "plugins"
RECIPE: dict[str, Any] = {
    "model": {"name": "edakari:fashion_cnn", "weights": "random"},
    "data": {"task": "task.py:brightness", "batch_size": 16},
    "method": "magnitude",
    "budget": "macs<=50%",
    "finetune": {"epochs": 1, "lr": 0.01},
    "device": "cpu",
}


@pytest.mark.parametrize("name", [name for name, schedule in SCHEDULES.items() if not schedule.ema])
@pytest.mark.parametrize("loop", [loops.plain, loops.closure])
def test_a_loop_by_hand_trains_as_the_own_loop_does(loop: Any, name: str) -> None:
    check_same(loop, SCHEDULES[name])


def test_loops_that_keep_the_promises_are_told_from_those_that_do_not() -> None:
    def own(*args: Any, **rest: Any) -> None:
        fit(args[0], args[1], rest.pop("batches"), args[2], settings=QUIET, **rest)

    for loop in (loops.plain, loops.closure, own):
        check_fit(loop)
    with pytest.raises(AssertionError, match=r"event 12 is|batches were taken|event \d+ is"):
        check_fit(toy_fit)  # one batch a step, whatever the schedule says


def broken(place: str) -> Any:
    """The loop by hand, which does something too early or not at all."""

    class Less(Hook):
        def __init__(self, hook: Hook) -> None:
            self.hook = hook

        def before_step(self, state: Any) -> None:
            self.hook.before_step(
                dc.replace(state, model=torch.nn.Sequential(state.model)) if place == "model" else state
            )

        def after_step(self, state: Any) -> None:
            if place == "gradients":
                state.optimizer.zero_grad()
            if place == "loss":
                state = dc.replace(state, loss=None)
            if place != "after":
                self.hook.after_step(state)

        def end_epoch(self, state: Any) -> None:
            if place != "epoch":
                self.hook.end_epoch(state)

    def loop(model: Any, objective: Any, schedule: Any, *, hooks: Any, params: Any, batches: Any) -> None:
        params = [*model.parameters()] if place == "params" else params
        batches = list(batches) if place == "epochs" else batches
        loops.plain(model, objective, schedule, hooks=[Less(h) for h in hooks], params=params, batches=batches)

    return loop


@pytest.mark.parametrize(
    ("place", "error", "text"),
    [
        ("after", WrongArgument, "called before_step of its hooks 6 times, after_step 0 times"),
        ("epoch", WrongArgument, "end_epoch 0 times"),
        ("gradients", AssertionError, "gradients are reset before after_step"),
        ("loss", AssertionError, "loss is None"),
        ("model", AssertionError, "not the network itself"),
        ("params", AssertionError, "outside of the network did not change"),
        ("epochs", AssertionError, "set_epoch was called with"),
    ],
)
def test_each_promise_that_is_broken_is_named(place: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        check_fit(broken(place))


def test_a_training_that_diverges_is_stopped_whatever_the_loop() -> None:
    with pytest.raises(ModelError, match=r"fit, epoch 1: .* lower the learning rate"):
        fit_by(loops.plain)(network(), objective, batches(), dc.replace(SCHEDULE, lr=1e30), settings=QUIET)


def test_a_finished_call_is_not_repeated_and_an_interrupted_one_begins_again(tmp_path: Path) -> None:
    steps: list[int] = []

    class Stop(Hook):
        def __init__(self, at: int) -> None:
            self.at = at

        def before_step(self, state: Any) -> None:
            steps.append(state.step)
            if state.step == self.at:
                raise InterruptedError

        def state_dict(self) -> Any:
            return {"at": self.at}

        def load_state_dict(self, state: Any) -> None:
            self.at = state["at"]

    def run(at: int) -> Any:
        model, schedule = toy_cnn(), Schedule(epochs=1, lr=0.01)
        settings = FitSettings(folder=tmp_path, seed=1)
        job = fitter(ToyTask(), settings, train=fit_by(toy_fit))
        hook = Stop(at)
        job(model, lambda m, b: ToyTask().loss(m(b[0]), b), schedule)
        job(model, lambda m, b: ToyTask().loss(m(b[0]), b), schedule, hooks=[hook])
        return model, hook.at

    with pytest.raises(InterruptedError):
        run(2)
    model, _ = run(99)
    again, at = run(2)
    assert steps == [0, 1, 2, 0, 1, 2, 3]
    assert at == 99
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_every_training_of_a_run_goes_through_the_loop_that_is_handed_in() -> None:
    called: list[int] = []

    def own(model: Any, objective: Any, schedule: Any, **rest: Any) -> None:
        called.append(schedule.epochs)
        loops.plain(model, objective, schedule, **rest)

    method = {"name": "magnitude", "iterations": 2, "recovery_epochs": 3}
    settings: Any = {"finetune": Schedule(epochs=2, lr=0.01), "device": "cpu", "seed": 3}
    result = edakari.prune(toy_cnn(), ToyTask(), "macs<=60%", method, fit=own, **settings)
    expected = edakari.prune(toy_cnn(), ToyTask(), "macs<=60%", method, **settings)
    assert called == [3, 2]
    assert result.plan.edits == expected.plan.edits
    for name, value in expected.model.state_dict().items():
        torch.testing.assert_close(result.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    ours, theirs = (found.results.finetune.epochs for found in (result, expected))
    assert [set(epoch) for epoch in ours] == [{"epoch", "lr", "loss", "val_accuracy"}] * 2
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close([one[key] for key in one], [other[key] for key in one], rtol=1e-4, atol=1e-5)


def test_a_recipe_names_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDAKARI_CONFIG", str(tmp_path / "config"))
    for name, source in (("loop.py", "fit.py"), ("task.py", "task.py")):
        (tmp_path / name).write_text((HERE / source).read_text(encoding="utf-8"), encoding="utf-8")
    recipe = recipe_from({**RECIPE, "fit": "loop.py:plain"})
    assert recipe.content["fit"] == "loop.py:plain"
    assert recipe_from({**RECIPE, "fit": None}).fit is None
    result = edakari.run(recipe, "run")
    (epoch,) = result.results.finetune.epochs
    assert {"loss", "val_minus_error"} <= set(epoch)
    (tmp_path / "loop.py").write_text("raise SystemExit(3)", encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text("model: x\nmethod: magnitude\nbudget: macs<=50%\nfit: loop.py:plain\n")
    with pytest.raises(UntrustedCode, match="loop"):
        read_recipe("recipe.yaml")


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ("tim", EdakariError, "timm"),
        (3, SettingsError, "fit must be a fit"),
        (
            lambda model: None,
            WrongArgument,
            r"does not take \(model, objective, schedule, .*call it: fit=fit\(\.\.\.\)",
        ),
        (edakari.integrations.timm.fit, WrongArgument, "edakari.integrations.timm.fit.*does not take"),
    ],
)
def test_what_is_no_loop_is_refused_before_anything_runs(given: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        edakari.prune(toy_cnn(), ToyTask(), "macs<=50%", fit=given)


def test_a_recipe_with_a_wrong_loop_is_told_so() -> None:
    with pytest.raises(EdakariError, match=r"fit: unknown fit 'timmm'; did you mean 'timm'"):
        recipe_from({**RECIPE, "fit": "timmm"})
    with pytest.raises(EdakariError, match=r"lr is decided by the schedule"):
        recipe_from({**RECIPE, "fit": {"name": "timm", "optimizer": {"lr": 0.1}}})
