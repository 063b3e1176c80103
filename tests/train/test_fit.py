import dataclasses as dc
import errno
import importlib.util
import itertools
import json
import math
import signal
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from edakari.core.protocols import Hook, Schedule
from edakari.errors import DataError, EdakariError, ModelError, RecipeError, RunFolderError, SettingsError
from edakari.models import build, spec_of
from edakari.train import FitSettings, fit, fitter, learning_rate


def _problem():
    spec = importlib.util.spec_from_file_location("fit_problem", Path(__file__).with_name("problem.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["fit_problem"] = module
    spec.loader.exec_module(module)
    return module


problem = _problem()
ONE = Schedule(epochs=1, lr=0.05)


class SearchStep(Exception):
    pass


class StopAt(Hook):
    def __init__(self, step):
        self.step = step

    def after_step(self, state):
        if state.step == self.step:
            raise SearchStep


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_plain_sgd_is_what_pytorch_does():
    """No warm-up, constant data, no extras: the same weights as a loop written by hand."""
    data = [(torch.randn(8, 1, 6, 6), torch.arange(8) % 3) for _ in range(4)]
    ours, theirs = problem.network(norm=False), problem.network(norm=False)
    schedule = Schedule(epochs=2, lr=0.1, warmup=0.0, final_lr=1.0, weight_decay=0.01)
    history = fit(ours, problem.objective, data, schedule)
    decayed = [param for param in theirs.parameters() if param.ndim > 1]
    rest = [param for param in theirs.parameters() if param.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, 0.1, momentum=0.9, nesterov=True)
    sums = []
    for _ in range(2):
        for batch in data:
            loss = sum(problem.objective(theirs, batch).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            sums.append(loss.item())
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, atol=1e-6, rtol=1e-5)
    assert history.steps == 8
    assert [figures["loss"] for figures in history.epochs] == pytest.approx([sum(sums[:4]) / 4, sum(sums[4:]) / 4])
    assert history.epochs[0]["ce"] + history.epochs[0]["size"] == pytest.approx(history.epochs[0]["loss"])


def test_accumulating_is_one_large_batch():
    images, labels = torch.randn(16, 1, 6, 6), torch.arange(16) % 3
    small = [(images[i : i + 4], labels[i : i + 4]) for i in range(0, 16, 4)]
    one, other = problem.network(norm=False), problem.network(norm=False)
    fit(one, problem.objective, small, dc.replace(ONE, accumulate=4))
    fit(other, problem.objective, [(images, labels)], ONE)
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(one.state_dict()[name], tensor, atol=1e-6, rtol=1e-5)


def test_the_same_call_gives_the_same_bits_and_leaves_the_random_state():
    def once():
        torch.manual_seed(int(torch.randint(1000, (1,))))
        model = problem.network()
        state = torch.get_rng_state()
        fit(model, problem.objective, problem.batches(), problem.SCHEDULE)
        assert torch.equal(torch.get_rng_state(), state)
        return weights(model)

    first = once()
    assert equal(first, once())
    other = problem.network()
    fit(other, problem.objective, problem.batches(), problem.SCHEDULE, settings=FitSettings(seed=1))
    assert not equal(first, weights(other))


def test_it_learns():
    model = problem.network()
    history = fit(model, problem.objective, problem.batches(), Schedule(epochs=6, lr=0.05))
    assert history.epochs[-1]["ce"] < 0.5 * history.epochs[0]["ce"]


def test_averaged_weights_are_handed_back_and_differ_from_the_last():
    class Last(Hook):
        def end_epoch(self, state):
            self.weights, self.buffers = weights(state.model), state.model[1].running_mean.clone()

    hook, model = Last(), problem.network()
    fit(model, problem.objective, problem.batches(), dc.replace(problem.SCHEDULE, ema=0.99), hooks=[hook])
    assert not torch.equal(hook.weights["0.weight"], model[0].weight)
    plain, hook = problem.network(), Last()
    fit(plain, problem.objective, problem.batches(), dc.replace(problem.SCHEDULE, ema=0.0), hooks=[hook])
    assert equal(hook.weights, weights(plain))


def test_params_limit_what_trains_and_frozen_norms_keep_their_statistics():
    model = problem.network()
    model.eval()
    model[0].train()
    model[0].bias.requires_grad_(False)
    before = weights(model)
    fit(model, problem.objective, problem.batches(), ONE, params=list(model[5].parameters()))
    after = weights(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"5.weight", "5.bias"}
    assert [module.training for module in model] == [True, False, False, False, False, False]
    assert not model.training
    assert [param.requires_grad for param in model.parameters()] == [True, False, True, True, True, True]
    assert all(param.grad is None for param in model.parameters())


def test_tensors_that_are_not_the_networks_can_be_trained_and_resumed(tmp_path):
    def attempt(stop):
        model, gate = problem.network(), torch.ones(1, requires_grad=True)

        def objective(network, batch):
            return {"ce": nn.functional.cross_entropy(gate * network(batch[0]), batch[1])}

        settings = FitSettings(folder=tmp_path, checkpoint_steps=1)
        fit(model, objective, problem.batches(), ONE, params=[gate], hooks=[StopAt(stop)], settings=settings)
        return gate

    with pytest.raises(SearchStep):
        attempt(4)
    gate = attempt(100)
    assert gate.item() != 1.0
    assert torch.equal(attempt(100), gate)


def test_hooks_are_called_around_every_step_in_order():
    calls = []

    class Note(Hook):
        def before_step(self, state):
            calls.append(("before", state.step, state.epoch))
            assert state.model is model

        def after_step(self, state):
            calls.append(("after", state.step, state.epoch))
            assert model[0].weight.grad is not None

        def end_epoch(self, state):
            calls.append(("end", state.step, state.epoch))

    model = problem.network()
    fit(model, problem.objective, problem.batches(16, 8), Schedule(epochs=2), hooks=[Note()])
    epoch = [
        [("before", 2 * e, e), ("after", 2 * e, e), ("before", 2 * e + 1, e), ("after", 2 * e + 1, e)] for e in (0, 1)
    ]
    assert calls == [*epoch[0], ("end", 2, 0), *epoch[1], ("end", 4, 1)]


def test_figures_of_each_epoch_come_from_the_evaluation_too(tmp_path):
    seen = []

    def evaluate(model):
        seen.append(model.training)
        return {"top1": 0.25 * len(seen)}

    settings = FitSettings(folder=tmp_path)
    history = fit(
        problem.network(), problem.objective, problem.batches(), problem.SCHEDULE, settings=settings, evaluate=evaluate
    )
    assert [figures["val_top1"] for figures in history.epochs] == [0.25, 0.5, 0.75]
    stored = json.loads((tmp_path / "history.json").read_text())
    assert stored["epochs"] == [dict(figures) for figures in history.epochs]
    assert stored["done"]


def test_a_finished_training_is_not_run_again(tmp_path):
    settings = FitSettings(folder=tmp_path)
    first, again = problem.network(), problem.network()
    history = fit(first, problem.objective, problem.batches(), problem.SCHEDULE, settings=settings)

    def never(model, batch):
        raise AssertionError

    repeated = fit(again, never, problem.batches(), problem.SCHEDULE, settings=settings)
    assert equal(weights(first), weights(again))
    assert repeated.epochs == history.epochs


@pytest.mark.parametrize(("step", "optimizer"), [(0, "sgd"), (3, "adamw"), (4, "adamw"), (7, "sgd"), (11, "adamw")])
def test_a_training_stopped_by_an_error_goes_on(tmp_path, step, optimizer):
    schedule = dc.replace(problem.SCHEDULE, optimizer=optimizer)
    settings = FitSettings(folder=tmp_path, checkpoint_steps=1)

    def attempt(stop, own):
        model = problem.network()
        history = fit(model, problem.objective, problem.batches(), schedule, hooks=[StopAt(stop)], settings=own)
        return weights(model), history.epochs

    whole = attempt(99, FitSettings())
    with pytest.raises(SearchStep):
        attempt(step, settings)
    cut = attempt(99, settings)
    assert equal(whole[0], cut[0])
    assert whole[1] == cut[1]


def test_a_checkpoint_of_another_training_is_refused_and_kept(tmp_path):
    settings = FitSettings(folder=tmp_path)
    fit(problem.network(), problem.objective, problem.batches(), ONE, settings=settings)
    content = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(RunFolderError, match=r"schedule\.lr is 0\.05 there and 0\.5 here"):
        fit(problem.network(), problem.objective, problem.batches(), dc.replace(ONE, lr=0.5), settings=settings)
    with pytest.raises(RunFolderError, match=r"model\.1\.weight"):
        fit(problem.network(norm=False), problem.objective, problem.batches(), ONE, settings=settings)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == content


def test_a_damaged_checkpoint_is_one_clear_error(tmp_path):
    settings = FitSettings(folder=tmp_path)
    fit(problem.network(), problem.objective, problem.batches(), ONE, settings=settings)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunFolderError, match="delete it"):
        fit(problem.network(), problem.objective, problem.batches(), ONE, settings=settings)


def test_a_full_disk_is_one_clear_error_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    from edakari.train import checkpoint

    settings, kept = FitSettings(folder=tmp_path, checkpoint_steps=1), []
    save = checkpoint.save_file

    def full(tensors, path, metadata):
        if len(kept) == 3:
            Path(path).write_bytes(b"part")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(tensors, path, metadata)
        kept.append(Path(path).read_bytes())

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(RunFolderError, match="disk is full"):
        fit(problem.network(), problem.objective, problem.batches(), ONE, settings=settings)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == kept[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.safetensors", "history.json"]


def test_the_real_message_of_a_full_disk_is_recognised():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    from edakari.core.files import disk_full

    with pytest.raises(OSError, match="No space left") as caught, open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")
    assert disk_full(caught.value)


def test_bf16_autocast_runs_on_the_cpu_and_leaves_fp32_weights():
    seen = []

    def objective(model, batch):
        logits = model(batch[0])
        seen.append(logits.dtype)
        return {"ce": nn.functional.cross_entropy(logits.float(), batch[1])}

    model = problem.network()
    fit(model, objective, problem.batches(), dc.replace(ONE, precision="bf16"))
    assert set(seen) == {torch.bfloat16}
    assert {param.dtype for param in model.parameters()} == {torch.float32}
    assert model(torch.zeros(1, 1, 6, 6)).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"precision": "fp16"}, RecipeError, "needs a GPU"),
        ({"optimizer": "adamww"}, SettingsError, "did you mean 'adamw'"),
        ({"accumulate": 0}, SettingsError, "accumulate must be at least 1, found 0"),
        ({"lr": 1e30}, ModelError, r"loss .*is"),
    ],
)
def test_schedules_that_cannot_be_run(change, error, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(error, match=words):
        fit(problem.network(), problem.objective, problem.batches(), dc.replace(ONE, **change))


def test_batches_that_are_none_or_have_no_length_or_a_wrong_one():
    class Liar(list):
        def __len__(self):
            return 5

    data = [(torch.zeros(4, 1, 6, 6), torch.zeros(4, dtype=torch.long))]
    for batches, words in (([], "no batches"), (iter(data), "no length"), (Liar(data), "gave 1 steps, its length 5")):
        with pytest.raises(DataError, match=words):
            fit(problem.network(), problem.objective, batches, ONE)
    with pytest.raises(ModelError, match="no parameter to train"):
        fit(problem.network(), problem.objective, data, ONE, params=[])


def test_no_epochs_change_nothing():
    model = problem.network()
    before = weights(model)
    assert fit(model, problem.objective, problem.batches(), Schedule(epochs=0)).steps == 0
    assert equal(before, weights(model))


def test_control_c_elsewhere_than_in_the_main_thread_is_left_alone():
    handler, errors = signal.getsignal(signal.SIGINT), []

    def target():
        try:
            fit(problem.network(), problem.objective, problem.batches(), ONE)
        except EdakariError as error:
            errors.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    assert not errors
    assert signal.getsignal(signal.SIGINT) is handler


def test_warm_up_and_cosine():
    schedule = Schedule(lr=1.0, warmup=0.1, final_lr=0.01)
    rates = [learning_rate(schedule, step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx((1 + 0.01) / 2)
    assert rates[100] == pytest.approx(0.01)


def test_the_rate_drops_where_it_is_told_to():
    schedule = Schedule(lr=0.01, warmup=0.0, drops=(0.3, 0.6, 0.8), drop=0.2)
    rates = [learning_rate(schedule, step, 100) for step in (0, 29, 30, 59, 60, 80, 99)]
    assert rates == pytest.approx([0.01, 0.01, 0.002, 0.002, 0.0004, 0.00008, 0.00008])


def test_a_method_gets_fit_bound_to_its_task_with_a_folder_for_each_call(tmp_path):
    class Toy:
        def batches(self, split):
            assert split == "train"
            return problem.batches()

    for _ in range(2):
        bound, models = fitter(Toy(), FitSettings(folder=tmp_path)), []
        for _ in range(2):
            models.append(problem.network())
            bound(models[-1], problem.objective, ONE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fit-1", "fit-2"]
    assert not equal(weights(models[0]), weights(models[1]))


def test_every_training_of_a_method_gets_hooks_of_its_own_after_those_of_the_method():
    class Toy:
        def batches(self, split):
            return problem.batches()

    class Note(Hook):
        def __init__(self, name):
            self.name = name

        def end_epoch(self, state):
            called.append(self.name)

    called, made = [], itertools.count(1)
    bound = fitter(Toy(), FitSettings(), lambda: [Note(f"own {next(made)}")])
    for _ in range(2):
        bound(problem.network(), problem.objective, ONE, hooks=[Note("the method's")])
    assert called == ["the method's", "own 1", "the method's", "own 2"]


def test_a_trained_network_still_knows_its_constructor():
    model = build("edakari:fashion_cnn", num_classes=3)
    data = [(torch.randn(4, 1, 28, 28), torch.arange(4) % 3)]
    fit(model, problem.objective, data, dc.replace(ONE, ema=0.5))
    assert spec_of(model).name == "edakari:fashion_cnn"
    assert "forward" not in model.__dict__


class Seen(Hook):
    """Notes the epochs that end."""

    def __init__(self):
        self.epochs = []

    def end_epoch(self, state):
        self.epochs.append(state.epoch)


def last_batch(scale):
    data = [(torch.randn(8, 1, 6, 6), torch.arange(8) % 3) for _ in range(3)]
    return [*data[:-1], (data[-1][0] * scale, data[-1][1])]


@pytest.mark.parametrize(
    ("schedule", "batches", "words"),
    [
        (Schedule(epochs=1, lr=0.05), last_batch(math.nan), r"the loss '\w+' is nan"),
        (
            Schedule(epochs=1, lr=1e37, weight_decay=1e4, warmup=0.0),
            last_batch(0.5)[-1:],
            r"'0\.weight' of the network",
        ),
        (Schedule(epochs=1, lr=1e-30), last_batch(1e20)[-1:], r"'1\.running_var' of the network"),
    ],
)
def test_a_training_whose_last_step_diverges_is_an_error(schedule, batches, words, tmp_path):
    model, hook = problem.network(), Seen()
    with pytest.raises(ModelError, match=rf"epoch 1: {words}.*lower the learning rate"):
        fit(model, problem.objective, batches, schedule, hooks=[hook], settings=FitSettings(folder=tmp_path))
    assert hook.epochs == []  # hooks look at nothing that is not finite
    assert not (tmp_path / "history.json").exists()


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_figures_of_the_evaluation_have_to_be_finite(ema):
    figures = iter([{"loss": 1.0}, {"top1": 0.1, "loss": math.nan}])
    schedule = Schedule(epochs=2, lr=0.01, ema=ema)
    with pytest.raises(ModelError, match="epoch 2: val_loss is nan"):
        fit(problem.network(), problem.objective, last_batch(0.5), schedule, evaluate=lambda model: next(figures))


def test_other_parameters_that_diverge_are_an_error():
    other = nn.Parameter(torch.ones(1))

    def objective(model, batch):
        return {**problem.objective(model, batch), "other": other.sum() * 1e3}

    model, one = problem.network(), last_batch(0.5)[-1:]
    with pytest.raises(ModelError, match="outside the network"):
        fit(model, objective, one, Schedule(epochs=1, lr=1e37, warmup=0.0), params=[other])
