import math

import pytest
import torch
from torch import nn

from edakari.train import distillation, task_objective


class Toy:
    """Logits are the network's output; the loss is the mean."""

    def outputs(self, model, batch):
        return model(batch)

    def loss(self, outputs, batch):
        return {"mean": outputs.mean()}


def linear(values):
    layer = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    layer.weight.data = torch.tensor(values, dtype=torch.float64)
    return layer


def test_distillation_is_the_formula_of_the_paper():
    student, teacher = linear([[1.0, 0.0], [0.0, 2.0]]), linear([[3.0, 1.0], [0.0, 1.0]])
    batch, temperature = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64), 3.0
    terms = distillation(Toy(), teacher, weight=0.7, temperature=temperature)(student, batch)
    expected = 0.0
    for row in batch.tolist():
        logits = [
            [sum(w * x for w, x in zip(ws, row, strict=True)) / temperature for ws in net.weight.tolist()]
            for net in (student, teacher)
        ]
        p, q = ([math.exp(v) / sum(map(math.exp, values)) for v in values] for values in logits)
        expected += sum(t * math.log(t / s) for s, t in zip(p, q, strict=True)) / 2
    assert terms["distillation"].item() == pytest.approx(0.7 * temperature**2 * expected, rel=1e-5)
    assert terms["mean"].item() == pytest.approx(0.3 * student(batch).mean().item())
    assert task_objective(Toy())(student, batch)["mean"].item() == student(batch).mean().item()


def test_only_the_student_gets_gradients_and_the_teacher_stays_in_evaluation():
    student, teacher = linear([[1.0, 0.0], [0.0, 2.0]]), nn.Sequential(linear([[3.0, 1.0], [0.0, 1.0]]), nn.Dropout())
    teacher.train()
    terms = distillation(Toy(), teacher)(student, torch.ones(1, 2, dtype=torch.float64))
    sum(terms.values()).backward()
    assert student.weight.grad is not None
    assert teacher[0].weight.grad is None
    assert not teacher.training


def test_a_network_does_not_differ_from_itself():
    net = linear([[3.0, 1.0], [0.0, 1.0]])
    assert distillation(Toy(), net)(net, torch.ones(3, 2, dtype=torch.float64))["distillation"].item() == pytest.approx(
        0
    )


@pytest.mark.parametrize("wrong", [{"weight": 1.5}, {"temperature": 0.0}])
def test_settings_outside_their_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        distillation(Toy(), nn.Linear(1, 1), **wrong)
