"""Teachers of tasks that are said in Python, and data without labels."""

from __future__ import annotations

import dataclasses as dc
import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import edakari
from edakari.core.comparing import captured, compare_outputs
from edakari.core.protocols import Schedule
from edakari.errors import DataError, ModelError, UnknownName, WrongArgument
from edakari.tasks.own import Task
from edakari.testing import ToyTask, toy_cnn

TOY = ToyTask()
IMAGES = [batch[0] for batch in TOY.batches("train")]


def student() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(*(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)), nn.Flatten(),
                         nn.Linear(6, 4)).double()  # fmt: skip


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(5, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def value(terms: Any) -> dict[str, float]:
    return {name: float(term.detach()) for name, term in terms.items()}


def test_outputs_of_any_form_are_compared() -> None:
    one, other = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    by_hand = 0.0
    for row, aim in zip(one / 4, other / 4, strict=True):
        share = aim.softmax(0)
        by_hand += float((share * (share.log() - row.log_softmax(0))).sum()) * 16 / 3
    assert float(compare_outputs(one, other)) == pytest.approx(by_hand)
    assert float(compare_outputs(one, one)) == pytest.approx(0, abs=1e-12)
    square = float(((one - other) ** 2).mean())
    assert float(compare_outputs(one, other, logits=False)) == pytest.approx(square)
    maps, aims = one.view(3, 1, 5), other.view(3, 1, 5)
    assert float(compare_outputs(maps, aims)) == pytest.approx(square)
    # numbers of one output are no logits
    assert float(compare_outputs(one[:, :1], other[:, :1])) == pytest.approx(
        float((one - other)[:, :1].square().mean())
    )
    many = [
        {"out": one, "aux": (maps, None), "index": torch.ones(3, dtype=torch.int64), "n": 3} for one in (one, other)
    ]
    many[1]["aux"], many[0]["only"] = (aims, None), maps
    assert float(compare_outputs(*many)) == pytest.approx(by_hand + square)


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ([{"boxes": torch.ones(2, 4)}] * 2, [{"boxes": torch.ones(1, 4)}] * 2, "one mapping for each image"),
        (torch.ones(2, 3), torch.ones(2, 4), r"the output is \[2, 3\] for the network and \[2, 4\]"),
        ({"a": torch.ones(1)}, {"b": torch.ones(1)}, r"the keys \['a'\]"),
        ((torch.ones(1),), (torch.ones(1),) * 2, "1 entries for the network and 2"),
        (torch.ones(2), {"a": torch.ones(2)}, "a Tensor for the network and a dict"),
        (object(), object(), "a object for the network"),
        (torch.ones(2, dtype=torch.int64), torch.ones(2, dtype=torch.int64), "no floating tensor"),
    ],
)
def test_outputs_that_cannot_be_compared_are_told(one: Any, other: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        compare_outputs(one, other)


def test_a_teacher_is_added_to_the_loss_and_replaces_labels() -> None:
    model, teacher, x = student(), student(), images()
    with torch.no_grad():
        teacher[4].weight.mul_(3)
    expected = float(compare_outputs(model(x), teacher(x)).detach())
    task = Task.of(x[:1], train=[x], teacher=teacher)
    assert value(task.objective(model, x)) == {"distillation": pytest.approx(expected)}
    assert value(task.loss(model(x), x)) == {"distillation": pytest.approx(expected)}
    labelled = Task.of(x[:1], train=[(x,)], teacher=lambda batch: teacher(batch[0]), distill="mse",
                       loss=lambda net, batch: net(batch[0]).square().mean())  # fmt: skip
    square = float((model(x) - teacher(x)).square().mean().detach())
    assert value(labelled.objective(model, (x,))) == {
        "loss": pytest.approx(float(model(x).square().mean().detach())),
        "distillation": pytest.approx(square),
    }
    own = Task.of(
        x[:1], train=[x], teacher=teacher, distill=lambda found, aims, batch: (found - aims + batch.mean()).sum()
    )
    assert value(own.objective(model, x))["distillation"] == pytest.approx(
        float((model(x) - teacher(x) + x.mean()).sum().detach())
    )


def test_features_alone_are_compared_in_the_forward_pass_of_the_loss() -> None:
    model, teacher, x = student(), student(), images()
    with torch.no_grad():
        teacher[0].weight.mul_(2)
    calls = []
    model.register_forward_hook(lambda *args: calls.append(1))
    loss = lambda net, batch: functional.mse_loss(net(batch), torch.zeros_like(batch[:, :1, 0, :4].flatten(1)))  # noqa: E731
    task = Task.of(x[:1], train=[x], loss=loss, teacher=teacher, features={"0": 2.0, "1": 0.5})
    found = value(task.objective(model, x))
    assert calls == [1]
    with torch.no_grad():
        one, other = model[0](x), teacher[0](x)
        assert found["features.0"] == pytest.approx(2 * float((one - other).square().mean()), rel=1e-5)
        assert found["features.1"] == pytest.approx(0.5 * float((one.relu() - other.relu()).square().mean()), rel=1e-5)
    assert set(found) == {"loss", "features.0", "features.1"}
    assert set(value(Task.of(x[:1], train=[x], teacher=teacher, features="4").objective(model, x))) == {"features.4"}
    assert not any(module._forward_hooks for module in teacher.modules()), "nothing is left behind"
    with pytest.raises(ModelError, match="a method has only outputs"):
        task.loss(model(x), x)


def test_a_teacher_gets_no_gradient_and_keeps_its_mode() -> None:
    model, teacher, x = student(), nn.Sequential(student(), nn.Dropout(0.5)).train(), images()
    task = Task.of(x[:1], train=[x], teacher=teacher)
    first, second = (value(task.objective(model, x)) for _ in range(2))
    assert first == second, "its dropout is off"
    sum(task.objective(model, x).values()).backward()
    assert teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert model[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("features", [(), {"features.0": 1.0}])
@pytest.mark.parametrize("output", [False, True])
def test_the_network_before_pruning_teaches_without_labels(tmp_path: Any, features: Any, output: bool) -> None:
    model = toy_cnn()
    features = (
        {name: 1.0 for name, module in model.named_modules() if isinstance(module, nn.Conv2d)} if features else ()
    )
    distill = "kl" if not features else None
    evaluate = lambda net, batches: {"away": sum(float(functional.mse_loss(net(x), model.eval()(x))) for x in batches)}  # noqa: E731
    task = Task.of(
        IMAGES[0][:1], train=IMAGES, val=IMAGES[:1], evaluate=evaluate, larger_is_better=False,
        teacher="dense", distill=distill, features=features,
    )  # fmt: skip
    folder = tmp_path / "run" if output else None
    result = edakari.prune(model, task, "macs<=60%", finetune=Schedule(epochs=4, lr=0.02), output=folder)
    pruned, tuned = result.results.check.metrics, result.results.finetune.metrics
    assert tuned["minus_away"] > pruned["minus_away"]
    epochs = result.results.finetune.epochs
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    assert {name for name in epochs[0] if name.startswith(("features", "distillation"))} == (
        {f"features.{name}" for name in features} or {"distillation"}
    )


def test_cut_features_are_compared_with_those_that_the_plan_kept() -> None:
    """Just after the cut, the first layer computes what the teacher's kept channels are."""
    from edakari.pipeline.distilling import kept_features

    model = toy_cnn().eval()
    graph = edakari.trace(model, TOY.example())
    plan = edakari.allocate(graph, edakari.criteria.Magnitude().score(model, graph), "macs<=50%")
    small = edakari.apply(model, plan)
    first = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    task = Task.of(TOY.example(), train=IMAGES, teacher=model, features=(first,))
    with pytest.raises(ModelError, match=rf"features of module '{first}' are .* the plan kept"):
        task.objective(small, IMAGES[0])
    narrow = task.narrowed(kept_features(graph, plan, [first]))
    assert value(narrow.objective(small, IMAGES[0]))[f"features.{first}"] == pytest.approx(0, abs=1e-10)
    wide = kept_features(graph, dc.replace(plan, edits=()), [first])
    with pytest.raises(ModelError):
        task.narrowed(wide).objective(small, IMAGES[0])


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"distill": "kl"}, DataError, "compare with a teacher; give one"),
        ({"features": ("0",)}, DataError, "compare with a teacher; give one"),
        ({"teacher": "best"}, WrongArgument, 'teacher takes a network, a function of a batch, or "dense"'),
        ({"teacher": 3}, WrongArgument, "teacher takes an object with __call__"),
        ({"teacher": nn.Linear}, WrongArgument, "teacher takes an object"),
        ({"teacher": "dense", "distill": "cosine"}, WrongArgument, '"kl" or "mse"'),
        ({"teacher": "dense", "distill": 3}, WrongArgument, "distill takes an object"),
        ({"teacher": "dense", "features": {"0": -1}}, WrongArgument, "weights above 0"),
        ({"teacher": "dense", "features": {"0": "much"}}, WrongArgument, "weights above 0"),
        ({"teacher": "dense", "features": {3: 1.0}}, WrongArgument, "names of modules"),
        ({"teacher": lambda batch: batch, "features": ("0",)}, ModelError, "need a teacher that is a network"),
        ({"teacher": student(), "features": ("layer",)}, UnknownName, "layer"),
        ({"techer": student()}, UnknownName, "teacher"),
        ({"inputs": 3}, WrongArgument, "inputs takes an object"),
        ({"classes": "cat"}, WrongArgument, "classes takes a list of names"),
        ({"preprocessing": {"mean": torch.ones(3)}}, WrongArgument, "preprocessing takes texts, numbers"),
    ],
)
def test_wrong_parts_are_told_at_once(changes: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        Task.of(images()[:1], train=[images()], **changes)


def test_wrong_teachers_are_told_when_they_teach() -> None:
    x = images()
    with pytest.raises(DataError, match=r"network before pruning, which edakari\.prune and edakari\.run know"):
        Task.of(x[:1], train=[x], teacher="dense").objective(student(), x)
    with pytest.raises(WrongArgument, match=r"distill\(.*\) gives a tensor with one value, but gave a tensor \[5, 4\]"):
        Task.of(x[:1], train=[x], teacher=student(), distill=lambda one, other, batch: one - other).objective(
            student(), x
        )
    with pytest.raises(DataError, match=r"the output is \[5, 4\] for the network and \[5, 1, 6, 6\]"):
        Task.of(x[:1], train=[x], teacher=nn.Identity()).objective(student(), x)
    with pytest.raises(UnknownName), captured(student(), ("nothing",)):
        pass


def test_classes_and_preprocessing_are_stored_in_the_run_folder(tmp_path: Any) -> None:
    about = {"mean": [0.5], "std": [0.25], "size": [8, 8]}
    task = Task.of(IMAGES[0][:1], classes=["cat", "dog"], preprocessing=about)
    edakari.prune(toy_cnn(), task, "macs<=60%", output=tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "task.json").read_text(encoding="utf-8"))
    assert stored["classes"] == ["cat", "dog"]
    assert stored["preprocessing"] == about
    assert stored["input"].startswith("float")
