"""The memory bank: the figures of the specification, and what becomes of a bank that is not the right one."""

from __future__ import annotations

import dataclasses as dc
import json

import numpy as np
import pytest
import torch

from edakari.errors import DataError, RunFolderError
from edakari.testing import ToyTask, toy_cnn
from edakari.train import Bank, BankTeaching, bank_in, batch_statistics
from edakari.train.bank import divergence
from edakari.train.statistics import recalibrate_

TEACHERS = [[2.0, 0.0], [0.0, 0.0]]


class Given(torch.nn.Module):
    """Gives the logits that it holds."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [N, C]."""
        return self.logits


def taught(student: list[list[float]], teachers: list[list[float]], **settings):
    """Terms, gradient and objective for views of one example with label 0."""
    model = Given(torch.tensor(student))
    bank = Bank(np.array([teachers], dtype=np.float16))
    objective = BankTeaching(ToyTask(), bank, **settings)
    views = len(student)
    numbers = torch.zeros(views, dtype=torch.int64)
    terms = objective(model, (torch.zeros(views, 1), numbers, numbers))
    sum(terms.values()).backward()
    return {name: term.detach() for name, term in terms.items()}, model.logits.grad, objective


@pytest.mark.parametrize(
    ("student", "used", "label", "distance"),
    [((1.0, 0.0), 1, 0.313262, 0.029909), ((-2.0, 0.0), 2, 2.126928, 0.279080), ((2.0, 0.0), 1, 0.126928, 0.0)],
)
def test_teachers_are_mixed_as_the_specification_says(student, used, label, distance):
    terms, _, objective = taught([list(student)] * 2, TEACHERS)
    assert float(terms["cross_entropy"]) == pytest.approx(label, abs=1e-6)
    assert float(terms["bank"]) == pytest.approx(distance, abs=1e-6)
    assert objective.used == used
    assert objective.temperature == 4.0


def test_the_distances_that_decide():
    best, other = torch.tensor(TEACHERS)
    assert float(divergence(best, torch.tensor([1.0, 0.0]), 4.0)) == pytest.approx(0.029909, abs=1e-6)
    assert float(divergence(best, torch.tensor([-2.0, 0.0]), 4.0)) == pytest.approx(0.489837, abs=1e-6)
    assert float(divergence(best, other, 4.0)) == pytest.approx(0.121199, abs=1e-6)


def test_teachers_that_are_the_same_are_as_one():
    student = [[0.5, -1.0]] * 2
    one, many = taught(student, TEACHERS[:1]), taught(student, TEACHERS[:1] * 3)
    assert float(one[0]["bank"]) == pytest.approx(float(many[0]["bank"]))
    torch.testing.assert_close(one[1], many[1])


def test_views():
    same, single = taught([[1.0, 0.0]] * 2, TEACHERS), taught([[1.0, 0.0]], TEACHERS)
    for name in same[0]:
        assert float(same[0][name]) == pytest.approx(float(single[0][name]))
    torch.testing.assert_close(same[1].sum(0), single[1][0])
    ahead, back = taught([[1.0, 0.0], [0.0, 3.0]], TEACHERS), taught([[0.0, 3.0], [1.0, 0.0]], TEACHERS)
    for name in ahead[0]:
        assert float(ahead[0][name]) == pytest.approx(float(back[0][name]))
    torch.testing.assert_close(ahead[1], back[1].flip(0))


@pytest.mark.parametrize("student", [(1.0, 0.0), (-2.0, 0.0)])
def test_no_gradient_reaches_the_teachers_or_their_choice(student):
    """The gradient is that of a fixed target: softmax(z) - label, and softmax(z/T) - softmax(t/T)."""
    student = torch.tensor([list(student)])
    terms, gradient, _ = taught(student.tolist(), TEACHERS)
    target = torch.tensor([[2.0, 0.0]]) if student[0, 0] == 1 else torch.tensor([[1.0, 0.0]])
    wanted = student.softmax(1) - torch.tensor([[1.0, 0.0]]) + (student / 4).softmax(1) - (target / 4).softmax(1)
    torch.testing.assert_close(gradient, wanted)
    assert set(terms) == {"cross_entropy", "bank"}
    bank = Bank(np.array([TEACHERS], dtype=np.float16))
    before = bank.logits.copy()
    rows = bank.rows(torch.zeros(1, dtype=torch.int64))
    assert not rows.requires_grad
    rows.zero_()
    assert np.array_equal(bank.logits, before)


@pytest.mark.parametrize(("student", "used"), [((-3.0, 0.0), 2), ((1.0, 0.0), 1), ((4.0, 0.0), 1)])
def test_the_gate_by_loss_is_never_empty(student, used):
    assert taught([list(student)], TEACHERS, gate="loss")[2].used == used


def test_many_classes_are_softened_more():
    assert BankTeaching(ToyTask(), Bank(np.zeros((1, 1, 1000), np.float16))).temperature == 10.0


def test_the_loss_of_a_task_is_its_own_objective():
    class Taught(ToyTask):
        def objective(self, model, batch):
            return {**self.loss(self.outputs(model, batch), batch), "distillation": torch.tensor(3.0)}

    bank = Bank(np.zeros((1, 1, 2), np.float16))
    label = torch.zeros(1, dtype=torch.int64)
    model, batch = Given(torch.zeros(1, 2)), (torch.zeros(1, 2), label, label)
    own, taught = (BankTeaching(task, bank)(model, batch) for task in (ToyTask(), Taught()))
    assert taught == {**own, "distillation": 3.0}


def test_batches_without_numbers_are_refused():
    objective = BankTeaching(ToyTask(), Bank(np.zeros((1, 1, 2), np.float16)))
    with pytest.raises(DataError, match="indices; train on"):
        objective(Given(torch.zeros(1, 2)), (torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)))


def teachers():
    return [toy_cnn(0), toy_cnn(1)]


def test_a_bank_holds_what_the_teachers_say_in_the_order_of_the_examples(tmp_path):
    bank = bank_in(tmp_path / "bank", ToyTask(images=300), {"plan": "x"}, teachers)
    assert bank.logits.shape == (300, 2, 4)
    assert not isinstance(bank.logits, np.ndarray) or isinstance(bank.logits, np.memmap)
    order = np.random.default_rng(0).permutation(300)
    (images, _, numbers), _ = ToyTask(images=300).batches_at("train", np.array_split(order, 2))
    model = toy_cnn(1)
    with torch.no_grad(), batch_statistics(model):
        torch.testing.assert_close(bank.rows(numbers)[:, 1], model(images), atol=1e-2, rtol=1e-2)


def test_a_bank_is_made_once_and_refused_for_others(tmp_path):
    folder, calls = tmp_path / "bank", []

    def counted():
        calls.append(1)
        return teachers()

    first = bank_in(folder, ToyTask(), {"plan": "x"}, counted)
    again = bank_in(folder, ToyTask(), {"plan": "x"}, counted)
    assert len(calls) == 1
    assert np.array_equal(first.logits, again.logits)
    with pytest.raises(RunFolderError, match="plan is 'x' there and 'y' here"):
        bank_in(folder, ToyTask(), {"plan": "y"}, counted)
    with pytest.raises(RunFolderError, match="examples is 'toy 64 0' there and 'toy 64 1' here"):
        bank_in(folder, dc.replace(ToyTask(), seed=1), {"plan": "x"}, counted)
    (folder / "logits.npy").write_bytes((folder / "logits.npy").read_bytes()[:200])
    with pytest.raises(RunFolderError, match="delete it"):
        bank_in(folder, ToyTask(), {"plan": "x"}, counted)


def test_an_interrupted_bank_is_made_again(tmp_path):
    folder = tmp_path / "bank"

    class Killed(Exception):
        pass

    class Breaking(ToyTask):
        def outputs(self, model, batch):
            raise Killed

    with pytest.raises(Killed):
        bank_in(folder, Breaking(), {"plan": "x"}, teachers)
    assert not list(folder.glob("*"))
    # killed after the logits and before the identity: what is there is not trusted
    folder.mkdir(exist_ok=True)
    np.save(folder / "logits.npy", np.full((64, 2, 4), 7, np.float16))
    bank = bank_in(folder, ToyTask(), {"plan": "x"}, teachers)
    assert not (bank.logits == 7).any()
    assert json.loads((folder / "bank.json").read_text())["count"] == 64


def test_statistics_of_the_batch_leave_everything_as_it_was():
    model = toy_cnn().train()
    model.stem.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    images = torch.randn(8, 3, 16, 16)
    with torch.no_grad(), batch_statistics(model):
        own = model(images)
        shifted = model(images * 3 + 1)
    assert not torch.allclose(own, shifted)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad(), batch_statistics(model, wanted=False):
        running = model(images)
    torch.testing.assert_close(running, model.eval()(images))


def test_running_statistics_taken_anew_are_means_over_batches():
    model, task = toy_cnn(), ToyTask()
    batches = list(task.batches("train"))
    recalibrate_(model, task.outputs, batches)
    means = torch.stack([model.stem[0](images).mean((0, 2, 3)) for images, _ in batches]).mean(0)
    torch.testing.assert_close(model.stem[1].running_mean, means)
    assert not model.training
    assert model.stem[1].momentum == 0.1
