"""Learning-rate curves against torch's and timm's schedulers, optimizers by name, and the L2 penalty."""

import dataclasses as dc
import math

import pytest
import torch
from timm.scheduler import CosineLRScheduler, StepLRScheduler
from torch import nn
from torch.optim import lr_scheduler

from edakari.core.curves import Constant, Cosine, Curve, Exponential, OneCycle, Steps
from edakari.core.protocols import Hook, Schedule
from edakari.errors import EdakariError, SettingsError
from edakari.train import FitSettings, WeightPenalty, fit, fit_by, learning_rate, set_rates, with_gradients
from edakari.train.checkpoint import identity_in
from edakari.train.optim import check_optimizer, make_optimizer
from edakari.train.penalty import penalised
from tests.integrations import loops
from tests.train import problem

QUIET = FitSettings(device="cpu", progress=False)
STEPS = 60


def weight() -> nn.Parameter:
    return nn.Parameter(torch.ones(2, 2, dtype=torch.float64))


def seen(scheduler, optimizer, key):
    """What a scheduler of torch's sets for each step."""
    found = []
    for _ in range(STEPS):
        found.append(key(optimizer.param_groups[0]))
        optimizer.step()
        scheduler.step()
    return found


def rate(group):
    return group["lr"]


@pytest.mark.parametrize(
    ("curve", "reference"),
    [
        (Constant(warmup=0.0), lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
        (Cosine(warmup=0.0, final_lr=0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=0.003)),
        (Steps(warmup=0.0, drops=(0.5, 0.8), drop=0.1), lambda o: lr_scheduler.MultiStepLR(o, [30, 48], gamma=0.1)),
        (Exponential(warmup=0.0, factor=0.9, every=0.7), lambda o: lr_scheduler.StepLR(o, 7, gamma=0.9)),
        (OneCycle(), lambda o: lr_scheduler.OneCycleLR(o, 0.03, total_steps=STEPS)),
        (
            OneCycle(rise=0.41, div=10.0, final_div=7.0, momentum_range=(0.2, 0.9)),
            lambda o: lr_scheduler.OneCycleLR(
                o,
                0.03,
                STEPS,
                pct_start=0.41,
                base_momentum=0.2,
                max_momentum=0.9,
                div_factor=10.0,
                final_div_factor=7.0,
            ),
        ),
    ],
)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_curves_are_those_of_torch(curve, reference, optimizer):
    schedule = Schedule(epochs=6, lr=0.03, curve=curve, optimizer=optimizer)

    def both(group):
        return [group["lr"], group["betas"][0] if "betas" in group else group["momentum"]]

    theirs, ours = make_optimizer([weight()], schedule), make_optimizer([weight()], schedule)
    expected = seen(reference(theirs), theirs, both)
    for step in range(STEPS):
        set_rates(ours, schedule, step, STEPS)
        assert both(ours.param_groups[0]) == pytest.approx(expected[step], rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("curve", "reference"),
    [
        (
            Exponential(warmup=0.1, warmup_from=0.5, every=0.75),
            lambda o: StepLRScheduler(o, 7.5, 0.97, 6, 0.015, warmup_prefix=True, t_in_epochs=False),
        ),
        (
            Cosine(warmup=0.2, warmup_from=0.25, final_lr=0.01),
            lambda o: CosineLRScheduler(
                o, STEPS - 12, 3e-4, warmup_t=12, warmup_lr_init=0.0075, warmup_prefix=True, t_in_epochs=False
            ),
        ),
    ],
)
def test_curves_with_a_warm_up_are_those_of_timm(curve, reference):
    schedule = Schedule(epochs=6, lr=0.03, curve=curve)
    optimizer = make_optimizer([weight()], schedule)
    theirs = reference(optimizer)
    for step in range(STEPS):
        theirs.step_update(step)
        assert learning_rate(schedule, step, STEPS) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_the_staircase_of_the_imagenet_supernet():
    each, epochs = 2503, 350
    schedule = Schedule(epochs=epochs, lr=0.032, curve=Exponential(warmup=5 / epochs, warmup_from=0.5))
    rates = {epoch: learning_rate(schedule, round(epoch * each), epochs * each) for epoch in (0, 2.5, 5, 7.3, 7.5, 10)}
    assert [*rates.values()] == pytest.approx([0.016, 0.024, 0.032, 0.032, 0.032 * 0.97, 0.032 * 0.97**2], rel=1e-4)
    tenth = Schedule(epochs=3, lr=1.0, curve=Exponential(warmup=0.0, factor=0.5, every=0.1))
    assert [learning_rate(tenth, step, 90) for step in (2, 3, 6, 89)] == [1.0, 0.5, 0.25, 0.5**29]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("curve", [Constant(), Cosine(), Steps(), Exponential(), OneCycle(), OneCycle(rise=0.99)])
def test_curves_of_short_trainings_are_finite_and_at_most_the_peak(curve, steps):
    schedule = Schedule(epochs=1, lr=0.5, curve=curve)
    assert all(0.0 <= learning_rate(schedule, step, steps) <= 0.5 for step in range(steps))
    assert all(math.isfinite(curve.momentum(step, steps, 1) or 0.0) for step in range(steps))


def as_before(schedule, step, steps):
    """The learning rate as it was when a schedule had no curve."""
    warm = round(schedule.warmup * steps)
    if step < warm:
        return schedule.lr * (step + 1) / (warm + 1)
    if schedule.drops:
        return schedule.lr * schedule.drop ** sum(step >= round(index * steps) for index in schedule.drops)
    done = (step - warm) / max(1, steps - warm)
    low = schedule.lr * schedule.final_lr
    return low + (schedule.lr - low) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


@pytest.mark.parametrize("drops", [(), (0.3, 0.61)])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.37])
def test_schedules_without_a_curve_have_the_learning_rates_that_they_had(warmup, drops):
    schedule = Schedule(epochs=3, lr=0.0123, warmup=warmup, final_lr=0.03, drops=drops, drop=0.3)
    for steps in (1, 7, 113):
        assert [learning_rate(schedule, s, steps) for s in range(steps)] == [
            as_before(schedule, s, steps) for s in range(steps)
        ]


def test_a_training_begun_before_there_were_curves_goes_on(tmp_path):
    schedule = Schedule(epochs=1, lr=0.05)
    fit(problem.network(), problem.objective, problem.batches(), schedule, settings=FitSettings(folder=tmp_path))
    stored = identity_in(tmp_path / "checkpoint.safetensors")["schedule"]
    added = {"curve", "eps", "betas", "optimizer_options", "l2"}
    assert {name: stored[name] for name in added} == dict.fromkeys(added)  # which reads as not being there


def test_a_curve_is_part_of_what_a_training_is(tmp_path):
    settings = FitSettings(folder=tmp_path, device="cpu")
    schedule = Schedule(epochs=1, lr=0.05, curve=Constant())
    fit(problem.network(), problem.objective, problem.batches(), schedule, settings=settings)
    other = dc.replace(schedule, curve=Cosine())
    with pytest.raises(EdakariError, match=r"curve\.name is 'Constant' there and 'Cosine' here"):
        fit(problem.network(), problem.objective, problem.batches(), other, settings=settings)


class Stop(Hook):
    def __init__(self, at):
        self.at = at

    def after_step(self, state):
        if state.step == self.at:
            raise InterruptedError


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_a_stopped_training_goes_on_along_its_curve(tmp_path, optimizer):
    schedule = Schedule(epochs=2, lr=0.01, curve=OneCycle(), optimizer=optimizer, eps=1e-3, l2=0.01)
    settings = FitSettings(folder=tmp_path, checkpoint_steps=1, device="cpu", progress=False)

    def trained(at, own):
        model = problem.network()
        fit(model, problem.objective, problem.batches(), schedule, hooks=[Stop(at)], settings=own)
        return model.state_dict()

    expected = trained(-1, QUIET)
    with pytest.raises(InterruptedError):
        trained(9, settings)
    found = trained(-1, settings)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_rmsprop_has_epsilon_inside_the_root():
    schedule = Schedule(
        lr=0.1, optimizer="rmsprop", eps=0.25, momentum=0.5, weight_decay=0.0, optimizer_options={"alpha": 0.8}
    )
    own, value, average, buffer = weight(), 1.0, 1.0, 0.0
    optimizer = make_optimizer([own], schedule)
    for gradient in (0.3, -0.7):
        own.grad = torch.full_like(own, gradient)
        optimizer.step()
        average = 0.8 * average + 0.2 * gradient**2  # which TensorFlow begins at 1
        buffer = 0.5 * buffer + 0.1 * gradient / math.sqrt(average + 0.25)
        value -= buffer
        torch.testing.assert_close(own.detach(), torch.full_like(own, value), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("name", ["lamb", "nadamw", "muon", "adafactor"])
def test_optimizers_of_timm_train(name):
    model, schedule = problem.network(), Schedule(epochs=1, lr=0.01, optimizer=name)
    before = [value.clone() for value in model.parameters()]
    fit(model, problem.objective, problem.batches(), schedule, settings=QUIET)
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"eps": 0.1}, "eps: optimizer 'sgd' has no such argument"),
        ({"optimizer": "rmsprop", "optimizer_options": {"alhpa": 0.9}}, "optimizer_options.alhpa.*mean 'alpha'"),
        ({"optimizer": "adam", "betas": (0.9, 0.99, 0.999)}, "betas: optimizer 'adam' takes 2"),
        ({"optimizer_options": {"lr": 0.9}}, "lr is decided by the schedule's own field; set lr instead"),
        ({"optimizer_options": {"dampening": "much"}}, "'sgd' refuses its settings"),
        ({"optimizer": "adahessian"}, "needs second derivatives"),
        ({"optimizer": "adagrad", "curve": OneCycle()}, "'one_cycle' changes the momentum.*momentum_range: null"),
    ],
)
def test_what_an_optimizer_does_not_take_is_refused(given, text):
    with pytest.raises(SettingsError, match=text):
        check_optimizer(Schedule(**given))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"optimizer": "lamp"}, "did you mean 'lamb'?.*Known: adam, adamw, rmsprop, sgd"),
        ({"curve": "one_cycel"}, "did you mean 'one_cycle'"),
        ({"curve": {"name": "exponential", "evry": 2}}, "curve has no setting 'evry'; did you mean 'every'"),
        (
            {"curve": "constant", "warmup": 0.1},
            r"warmup is of schedules.*curve: \{name: constant, warmup: ...\}",
        ),
        ({"curve": OneCycle(), "drops": (0.5,)}, "drops is of schedules without.*remove it"),
        ({"curve": 3}, "curve must be a learning-rate curve"),
        ({"l2": -1.0}, "l2 must be at least 0"),
    ],
)
def test_what_is_no_schedule_is_refused(given, text):
    with pytest.raises(EdakariError, match=text):
        Schedule(**given)


def test_a_curve_of_ones_own():
    class Saw(Curve):
        def rate(self, lr, step, steps, epochs):
            return lr * (1 - step % 2 / 2)

    schedule = Schedule(epochs=1, lr=0.25, curve=Saw())
    history = fit(problem.network(), problem.objective, problem.batches(), schedule, settings=QUIET)
    assert history.epochs[-1]["lr"] == 0.125


def with_term(model, batch):
    """The loss with the penalty in it, by hand: weights of the convolution, and all of the last layer."""
    weights = (model[0].weight, model[-1].weight, model[-1].bias)
    return {**problem.objective(model, batch), "l2": 0.05 * sum(each.square().sum() for each in weights)}


@pytest.mark.parametrize("loop", [fit, fit_by(loops.plain), fit_by(loops.closure)], ids=["own", "plain", "closure"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_the_penalty_is_a_term_of_the_loss(loop, optimizer):
    schedule = Schedule(epochs=2, lr=0.01, optimizer=optimizer, eps=None if optimizer == "sgd" else 1e-3, accumulate=2)
    expected, found = problem.network().double(), problem.network().double()
    exact = [(images.double(), labels) for images, labels in problem.batches()]
    fit(expected, with_term, exact, schedule, settings=QUIET)
    loop(found, problem.objective, exact, dc.replace(schedule, l2=0.1), settings=QUIET)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-9, atol=1e-11)


def test_the_penalty_takes_the_weights_that_other_hooks_put_there():
    class Restored(Hook):
        """Weights are others while the optimizer takes its step, as those of a masked training."""

        def before_step(self, state):
            weight = state.model[0].weight

            def restore():
                weight.data.fill_(3.0)
                weight.grad.zero_()

            with_gradients(state.optimizer, restore)

    model = problem.network()
    schedule = Schedule(epochs=1, lr=1.0, curve=Constant(warmup=0.0), momentum=0.0, weight_decay=0.0, l2=0.25)
    fit(model, problem.objective, problem.batches(8), schedule, hooks=[Restored()], settings=QUIET)
    assert torch.equal(model[0].weight, torch.full_like(model[0].weight, 3.0 - 0.75))


def test_the_penalty_counts_weights_once_and_no_norms():
    shared = nn.Linear(4, 4)
    attention = nn.MultiheadAttention(4, 1)
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 1))
    model = nn.ModuleList([normed, nn.BatchNorm2d(2), nn.Embedding(3, 4), attention, shared, shared, nn.LayerNorm(4)])
    found = {name for name, param in model.named_parameters() if any(param is each for each in penalised(model))}
    assert found == {
        "0.parametrizations.weight.original0",
        "0.parametrizations.weight.original1",
        "3.in_proj_weight",
        "3.out_proj.weight",
        "4.weight",
        "4.bias",
    }
    assert len(list(penalised(model))) == 6
    assert WeightPenalty(0.1).state_dict() == {}
