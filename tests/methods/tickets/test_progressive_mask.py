"""The hook `ProgressiveMask`: schedule, policies of reactivation, averages, resuming, and following a cut."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from edakari.core.objective import task_objective
from edakari.core.plan import KeepChannels, Plan
from edakari.core.protocols import Hook, Schedule, StepState
from edakari.errors import InfeasibleBudget, RunFolderError
from edakari.graph import trace
from edakari.methods.tickets.fixed_masks import FixedMasks
from edakari.methods.tickets.mask_schedule import ProgressiveMaskSettings, sparsity_at
from edakari.methods.tickets.progressive_mask import ProgressiveMask
from edakari.surgery.shrinking import shrink
from edakari.testing.toys import ToyTask, toy_cnn, toy_fit
from edakari.train import FitSettings, fit

TASK = ToyTask(images=16, batch=8)


def names_of(model: nn.Module) -> list[str]:
    return [f"{name}.weight" for name, each in model.named_modules() if isinstance(each, nn.Conv2d)]


def values_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: model.get_parameter(name).detach().clone() for name in names_of(model)}


def hook_of(model: nn.Module, **how: Any) -> ProgressiveMask:
    settings = {"interval": 1, "step": 0.2, "target": 0.6, "reactivation": "persist", **how}
    return ProgressiveMask(model, names_of(model), ProgressiveMaskSettings(**settings))


def train(model: nn.Module, hooks: list[Hook], epochs: int = 3, folder: Path | None = None, **others: Any) -> Any:
    schedule = Schedule(**{"epochs": epochs, "lr": 0.05, "weight_decay": 1e-3, **others.pop("schedule", {})})
    settings = FitSettings(folder=folder, device="cpu", progress=False, checkpoint_seconds=0, **others.pop("pace", {}))
    batches = others.pop("batches", list(TASK.batches("train")))
    return fit(model, task_objective(TASK), batches, schedule, hooks=hooks, settings=settings, **others)


class Told(Hook):
    """Looks at the network at each moment of a training."""

    def __init__(self, look: Any) -> None:
        self.look = look

    def before_step(self, state: StepState) -> None:
        self.look("before", state)

    def after_step(self, state: StepState) -> None:
        self.look("after", state)

    def end_epoch(self, state: StepState) -> None:
        self.look("end", state)


@pytest.mark.parametrize(
    ("interval", "target", "epoch", "wanted"),
    [
        (25, 0.95, 24, 0.0),
        (25, 0.95, 25, 0.1),
        (25, 0.95, 200, 0.8),
        (25, 0.95, 225, 0.9),
        (25, 0.95, 250, 0.95),
        (25, 0.95, 425, 0.95),
        (15, 0.9, 135, 0.9),
        (25, 0.95, 75, 0.3),
    ],
)
def test_the_schedule_of_the_paper(interval: int, target: float, epoch: int, wanted: float) -> None:
    how = ProgressiveMaskSettings(interval=interval, target=target)
    assert how.fraction_after(epoch) == wanted
    assert dc.replace(how, one_shot=True).fraction_after(epoch) == (target if epoch >= interval else 0.0)


def test_no_choice_is_no_sparsity() -> None:
    assert sparsity_at(0, 0.1, 0.9) == 0 == sparsity_at(0, 0.1, 0.9, one_shot=True)


def test_masks_grow_to_the_target_and_the_network_has_zeros_outside_of_updates() -> None:
    model = toy_cnn()
    hook, seen = hook_of(model), []

    def look(when: str, state: StepState) -> None:
        zeros = sum(int((value == 0).sum()) for value in values_of(model).values())
        masked = sum(int((~mask).sum()) for mask in hook.masks.values())
        assert zeros == masked
        seen.append((when, state.epoch, masked))

    train(model, [hook, Told(look)], epochs=4)
    total = sum(value.numel() for value in values_of(model).values())
    at_end = [masked for when, _, masked in seen if when == "end"]
    assert at_end == [int(part * total) for part in (0.2, 0.4, 0.6, 0.6)]
    assert [event.asked for event in hook.events] == [0.2, 0.4, 0.6, 0.6]
    assert hook.events[0].returned == 0
    assert hook.events[0].masked == at_end[0]
    for before, event in zip(at_end, hook.events[1:], strict=False):
        assert before + event.masked - event.returned == round(event.sparsity * total)
    assert hook.sparsity == pytest.approx(0.6, abs=1 / total)
    assert sum(hook.events[-1].layers[n] * v.numel() for n, v in values_of(model).items()) == pytest.approx(at_end[-1])


def test_masked_weights_return_when_their_scores_rise() -> None:
    """Decay moves the masked weights too, and others fall below them: masks chosen again differ."""
    model = toy_cnn()
    hook = hook_of(model, step=0.5, target=0.5)
    train(model, [hook], epochs=4, schedule={"lr": 0.3})
    assert sum(event.returned for event in hook.events) > 0


@pytest.mark.parametrize("policy", ["persist", "on_search", "after_prune"])
def test_after_prune_lifts_masks_before_the_next_step_and_others_do_not(policy: str) -> None:
    model, evaluated, stepped = toy_cnn(), [], []
    hook = hook_of(model, interval=2, one_shot=True, reactivation=policy)

    def look(when: str, state: StepState) -> None:
        if when == "before":
            stepped.append((state.epoch, bool(hook.masks)))

    def evaluate(network: nn.Module) -> Mapping[str, float]:
        zeros = sum(float((value == 0).sum()) for value in values_of(network).values())
        evaluated.append(zeros > 0)
        return {"zeros": zeros}

    train(model, [hook, Told(look)], epochs=4, evaluate=evaluate)
    lifts = policy == "after_prune"
    assert evaluated == ([False, True, False, True] if lifts else [False, True, True, True])
    assert dict(stepped) == {0: False, 1: False, 2: not lifts, 3: not lifts}
    assert bool(hook.masks)


@pytest.mark.parametrize("policy", ["on_search", "after_prune"])
def test_lifting_gives_the_unmasked_layer_bit_by_bit_and_its_gradient(policy: str) -> None:
    """The network before any mask, and the one after masks came and went without updates, are the same."""
    model = toy_cnn().double().train()
    images, labels = next(iter(TASK.batches("train")))
    wanted, before = model.stem[0](images.double()), values_of(model)
    hook = hook_of(model, one_shot=True, reactivation=policy)
    state = StepState(model, torch.optim.SGD(model.parameters(), 0.1), 0, 0)
    hook.before_step(state)
    hook.end_epoch(state)
    gone = {name: ~mask for name, mask in hook.masks.items()}
    assert not torch.equal(model.stem[0](images.double()), wanted)
    if policy == "on_search":
        hook.searched(False)  # a search that saves too little leaves masks as they are
        assert hook.masks.keys() == gone.keys()
        hook.searched(True)
    else:
        hook.before_step(state)
    assert not hook.masks
    assert torch.equal(model.stem[0](images.double()), wanted)
    assert all(torch.equal(values_of(model)[name], value) for name, value in before.items())
    functional.cross_entropy(model(images.double()), labels).backward()
    for name, mask in gone.items():
        assert bool((model.get_parameter(name).grad[mask] != 0).any())


def test_masked_weights_stay_bit_by_bit_for_five_steps_of_plain_sgd() -> None:
    model = toy_cnn().double().train()
    hook = hook_of(model, one_shot=True)
    state = StepState(model, torch.optim.SGD(model.parameters(), 0.1), 0, 0)
    before = values_of(model)
    hook.end_epoch(state)
    gone = {name: ~mask for name, mask in hook.masks.items()}
    images, labels = next(iter(TASK.batches("train")))
    for _ in range(5):
        hook.before_step(state)
        state.optimizer.zero_grad()
        functional.cross_entropy(model(images.double()), labels).backward()
        state.optimizer.step()
        for name, mask in gone.items():  # inside of the update, the network holds all values
            assert bool((model.get_parameter(name).grad[mask] == 0).all())
            assert torch.equal(model.get_parameter(name).detach()[mask], before[name][mask])
        hook.after_step(state)
        assert all(bool((model.get_parameter(name)[mask] == 0).all()) for name, mask in gone.items())


def cut_of(model: nn.Module) -> tuple[Plan, dict[str, tuple[int, ...]]]:
    """A plan that cuts two groups, and what it keeps."""
    graph = trace(model, TASK.example())
    kept = {
        group.name: tuple(range(0, group.size, 2))
        for group in graph.groups
        if group.name in {each.name for each in graph.groups[:2]}
    }
    edits = tuple(KeepChannels(name, indices) for name, indices in kept.items())
    return Plan(edits, graph.fingerprint, graph.inputs), kept


def at_masks(model: nn.Module, policy: str) -> tuple[ProgressiveMask, StepState]:
    hook = hook_of(model, one_shot=True, reactivation=policy)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    state = StepState(model, optimizer, 0, 0)
    hook.before_step(state)
    hook.end_epoch(state)
    return hook, state


@pytest.mark.parametrize("policy", ["persist", "on_search", "after_prune"])
def test_a_cut_keeps_masks_and_values_of_what_is_left(policy: str) -> None:
    model, dense = toy_cnn(), toy_cnn()
    hook, state = at_masks(model, policy)
    masks = {name: hook.masks.get(name, torch.ones_like(v, dtype=torch.bool)) for name, v in values_of(model).items()}
    plan, _ = cut_of(model)
    seen: dict[str, Any] = {}

    class Watching:
        def follow(self, pairs: Any) -> None:
            seen.update({pair.name: pair for pair in pairs})

    # the values of the network itself, cut, and the masks, cut
    shrink(dense, plan, followers=[Watching()])
    wanted_masks = {name: seen[name].cut(mask) for name, mask in masks.items()}
    shrink(model, plan, state.optimizer, followers=[hook])
    wanted = values_of(dense)
    found = values_of(model)
    if policy == "on_search":
        assert not hook.masks
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
        return
    for name, mask in wanted_masks.items():
        assert torch.equal(hook.masks.get(name, torch.ones_like(mask)), mask)
        assert torch.equal(found[name], wanted[name] * mask)
    hook._masking.restore()
    assert all(torch.equal(values_of(model)[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("policy", ["persist", "on_search"])
def test_a_cut_that_keeps_everything_clears_masks_only_on_search(policy: str) -> None:
    model = toy_cnn()
    hook, state = at_masks(model, policy)
    before, graph = hook.masks, trace(model, TASK.example())
    shrink(model, Plan((), graph.fingerprint, graph.inputs), state.optimizer, followers=[hook])
    if policy == "persist":
        assert before.keys() == hook.masks.keys()
        assert all(torch.equal(hook.masks[name], mask) for name, mask in before.items())
    else:
        assert before
        assert not hook.masks


def test_training_continues_after_a_cut_and_later_masks_are_of_the_smaller_network() -> None:
    model = toy_cnn()
    hook = hook_of(model, one_shot=True)

    def look(when: str, state: StepState) -> None:
        if when == "end" and state.epoch == 0:
            shrink(model, cut_of(model)[0], state.optimizer, followers=[hook])

    toy_fit(model, task_objective(TASK), Schedule(epochs=3, lr=0.05), hooks=[Told(look), hook])
    total = sum(value.numel() for value in values_of(model).values())
    zeros = sum(int((value == 0).sum()) for value in values_of(model).values())
    assert hook.events[0].weights == hook.events[-1].weights == total
    assert zeros == int(0.6 * total)


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("policy", ["persist", "after_prune"])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path, ema: float, policy: str) -> None:
    """Stopped in the middle of epochs and right after choices of masks, which are where masks are lifted."""
    whole, parts = toy_cnn(), toy_cnn()
    # 2 steps an epoch: steps 3 and 5 lie within, 2, 4 and 6 end one
    schedule, how = {"ema": ema}, {"interval": 1, "reactivation": policy}
    reference = hook_of(whole, **how)
    wanted = train(whole, [reference], epochs=4, schedule=schedule)

    class Stopped(Exception):
        pass

    for stop in (2, 3, 4, 5, 6):

        def look(when: str, state: StepState, stop: int = stop) -> None:
            if when == "before" and state.step == stop:
                raise Stopped

        hook = hook_of(parts, **how)
        with pytest.raises(Stopped):
            train(parts, [hook, Told(look)], 4, tmp_path, schedule=schedule, pace={"checkpoint_steps": 1})
        parts = toy_cnn()
    hook = hook_of(parts, **how)
    found = train(parts, [hook, Told(lambda *_: None)], 4, tmp_path, schedule=schedule, pace={"checkpoint_steps": 1})
    assert [dict(each) for each in found.epochs] == [dict(each) for each in wanted.epochs]
    assert all(torch.equal(a, b) for a, b in zip(parts.state_dict().values(), whole.state_dict().values(), strict=True))
    assert hook.events == reference.events
    done = hook_of(toy_cnn(), **how)
    train(done.model, [done, Told(lambda *_: None)], 4, tmp_path, schedule=schedule, pace={"checkpoint_steps": 1})
    assert done.masks.keys() == reference.masks.keys()
    assert all(torch.equal(done.masks[name], mask) for name, mask in reference.masks.items())


def test_averages_are_masked_in_evaluations_and_average_all_values_in_between() -> None:
    """Against an average, kept by hand, of the values that the masking keeps."""
    model, hand, judged = toy_cnn(), {}, []
    hook = hook_of(model, reactivation="after_prune", interval=2, one_shot=True)

    def look(when: str, state: StepState) -> None:
        if when == "after":
            (average,) = state.averages
            held = dict(average.module.named_parameters())
            masking = hook._masking
            masking.restore()  # the values, as the average saw them
            hand.update({n: held[n].detach().clone() for n in values_of(model)})
            masking.mask()
            assert not any(bool((held[name] == 0).any()) for name in values_of(model))

    def evaluate(network: nn.Module) -> Mapping[str, float]:
        for name, value in values_of(network).items():
            mask = hook.masks.get(name, torch.ones_like(value, dtype=torch.bool))
            assert torch.equal(value, hand[name] * mask)
        judged.append(len(hook.masks))
        return {}

    train(model, [hook, Told(look)], epochs=4, schedule={"ema": 0.8}, evaluate=evaluate)
    assert [count > 0 for count in judged] == [False, True, False, True]
    masked = sum(int((~mask).sum()) for mask in hook.masks.values())
    assert sum(int((value == 0).sum()) for value in values_of(model).values()) == masked


def test_a_resumed_training_with_another_interval_is_an_error(tmp_path: Path) -> None:
    model = toy_cnn()
    train(model, [hook_of(model)], 2, tmp_path)
    with pytest.raises(RunFolderError, match=r"interval 1 instead of 2, target 0\.6 instead of 0\.5"):
        train(model, [hook_of(model, interval=2, target=0.5)], 2, tmp_path)


def test_a_target_that_excluded_layers_do_not_allow_is_an_error_before_training() -> None:
    model = toy_cnn()
    with pytest.raises(InfeasibleBudget, match="are in excluded layers"):
        ProgressiveMask(model, names_of(model), ProgressiveMaskSettings(target=0.95), excluded=names_of(model)[1:3])


def test_fixed_masks_hold_through_momentum_and_decay() -> None:
    model = toy_cnn()
    hook = hook_of(model, one_shot=True)
    hook.choose(1, 0.6)
    masks = hook.masks
    again = toy_cnn()
    train(again, [FixedMasks(again, masks)], epochs=2, schedule={"weight_decay": 0.1, "ema": 0.5})
    for name, mask in masks.items():
        value = again.get_parameter(name).detach()
        assert bool((value[~mask] == 0).all())
        assert not bool((value[mask] == 0).any())
        assert not torch.equal(value, toy_cnn().get_parameter(name) * mask)


@pytest.mark.parametrize("score", ["magnitude", "random", "snip"])
def test_any_score_and_scope_masks_as_many(score: Any) -> None:
    from edakari.methods.tickets.scores import ScoreSource

    model = toy_cnn()
    how = ProgressiveMaskSettings(interval=1, target=0.5, one_shot=True, score=score, scope="per_layer")
    hook = ProgressiveMask(model, names_of(model), how, source=ScoreSource(TASK))
    train(model, [hook], epochs=1)
    assert hook.sparsity == pytest.approx(0.5, abs=1e-4)
    assert all(part == pytest.approx(0.5, abs=0.02) for part in hook.events[0].layers.values())


@pytest.mark.parametrize("resumed", [False, True])
def test_a_choice_at_the_end_takes_the_place_of_the_one_of_its_epoch(resumed: bool) -> None:
    model = toy_cnn()
    hook = hook_of(model)
    train(model, [hook], epochs=2)
    if resumed:
        state, hook = hook.state_dict(), hook_of(model)
        hook.load_state_dict(state)
    hook.finish()
    first, last = hook.events
    total = sum(value.numel() for value in values_of(model).values())
    assert (first.epoch, last.epoch, last.asked) == (1, 2, 0.6)
    assert round(first.sparsity * total) + last.masked - last.returned == int(0.6 * total)
