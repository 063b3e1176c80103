"""Wrong tasks: each is one clear error before anything that takes long, and a good task is left as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import edakari
import edakari.pipeline.stages as stages
from edakari.core.protocols import Schedule
from edakari.errors import DataError, EdakariError, ModelError, RecipeError, WrongArgument
from edakari.pipeline.one_batch import described
from edakari.pipeline.settings import FinetuneSettings
from edakari.tasks.own import Task

X, Y = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 4
BATCHES = list(zip(X.split(8), Y.split(8), strict=True))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    )


def cross_entropy(model: nn.Module, batch: Any) -> torch.Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def accuracy(model: nn.Module, batches: Any) -> dict[str, float]:
    return {"accuracy": sum(float((model(x).argmax(1) == y).float().mean()) for x, y in batches)}


def tasked(**changes: Any) -> Task:
    parts = {"train": BATCHES, "val": BATCHES[:2], "loss": cross_entropy, "evaluate": accuracy}
    return Task.of(X[:1], **{**parts, **changes})


def replaced(index: int, value: Any) -> list[Any]:
    return [tuple(value if place == index else entry for place, entry in enumerate(batch)) for batch in BATCHES]


class Empty(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


class Broken(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        raise KeyError("label")


WRONG: list[tuple[dict[str, Any], type[EdakariError], str]] = [
    # what comes from the data
    ({"train": replaced(0, torch.zeros(8, 1, 8, 8))}, DataError,
     r"the network, run on the first batch of 'calibration', fails: RuntimeError: .*The batch is \(float32 "
     r"\[8, 1, 8, 8\], int64 \[8\]\); the example is float32 \[1, 3, 8, 8\]"),
    ({"train": replaced(0, X[:8].numpy())}, DataError, r"fails: .*The batch is \(a ndarray, int64 \[8\]\)"),
    ({"train": replaced(0, X[:8].byte())}, DataError, r"The batch is \(uint8 \[8, 3, 8, 8\]"),
    ({"train": [{"img": 1, "y": 2}]}, DataError, r"keys 'img', 'y', of which the network takes none .* inputs="),
    ({"train": ["text"]}, DataError, "a batch is a str"),
    ({"train": [()]}, DataError, "a batch is empty"),
    ({"train": replaced(1, torch.full((8,), 9))}, DataError, "the loss of the first training batch fails: IndexError"),
    ({"train": replaced(1, None)}, DataError, r"the loss of the first training batch fails: .*, None\)"),
    ({"train": DataLoader(Broken(), batch_size=4)}, DataError, "the first batch of 'calibration' fails: KeyError"),
    ({"train": DataLoader(TensorDataset(X, Y), 99, drop_last=True)}, DataError, "no batches in the split 'calib"),
    ({"train": [], "calibration": BATCHES}, DataError, "no batches in the split 'train'"),
    ({"val": []}, DataError, "no batches in the split 'val'"),
    ({"val": DataLoader(Empty(), batch_size=None)}, DataError, "no batches in the split 'val'"),
    ({"val": replaced(0, torch.zeros(8, 1, 8, 8))}, DataError, "the network, run on the first batch of 'val', fails"),
    # what comes from the loss
    ({"loss": lambda net, batch: 0.5}, WrongArgument, r"'loss' must be a tensor with one value, but is 0\.5"),
    ({"loss": lambda net, batch: None}, WrongArgument, "'loss' must be a tensor with one value, but is None"),
    ({"loss": lambda net, batch: {}}, WrongArgument, "a dict without a loss"),
    ({"loss": lambda net, batch: {"a": 1.0}}, WrongArgument, "loss 'a' must be a tensor with one value, but is 1.0"),
    ({"loss": lambda net, batch: net(batch[0])}, WrongArgument, r"'loss' must be a tensor .* shape \[8, 4\]"),
    ({"loss": lambda net, batch: cross_entropy(net, batch).detach()}, WrongArgument, "has a gradient; it computes"),
    ({"loss": lambda net, batch: torch.ones((), requires_grad=True) * 2}, ModelError, "no parameter of the network"),
    ({"loss": lambda net, batch: {"ce": cross_entropy(net, batch), "log": net(batch[0]).sum().mul(0).log()}},
     ModelError, "the loss 'log' of the first training batch is -inf"),
    ({"loss": lambda net, batch: (net(batch[0]) * 0).square().sum().sqrt()}, ModelError,
     r"is finite \(loss 0\), but its gradient in '0\.weight' is not"),
    ({"loss": lambda net, batch: cross_entropy(net.module, batch)}, DataError, "AttributeError: .* attribute 'module'"),
    # what comes from the evaluation
    ({"evaluate": lambda net, batches: None}, WrongArgument, "gives a dict of named numbers, but gave None"),
    ({"evaluate": lambda net, batches: {}}, WrongArgument, "gives a dict of named numbers"),
    ({"evaluate": lambda net, batches: {"accuracy": "good"}}, WrongArgument, "gives a dict of named numbers"),
    ({"evaluate": lambda net, batches: [net(x) for x in batches]}, DataError, r"evaluate\(network, batches\) fails: T"),
    # what comes from a teacher
    ({"teacher": nn.Flatten()}, DataError, r"the output is \[8, 4\] for the network and \[8, 192\] for its teacher"),
    ({"teacher": lambda batch: batch[2]}, DataError, "the loss of the first training batch fails: IndexError"),
    ({"teacher": network(), "distill": lambda one, other, batch: None}, WrongArgument, "gives a tensor with one value"),
    ({"loss": None, "teacher": "dense"}, DataError, "which is 0 where a network is its own teacher"),
    ({"loss": None}, DataError, "this task has no loss"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "error", "said"), WRONG, ids=lambda value: value[:40] if isinstance(value, str) else ""
)
def test_wrong_tasks_are_told_before_anything_is_measured(
    changes: Any, error: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "measured_latencies", lambda run: pytest.fail("it is too late now"))
    monkeypatch.setattr(stages, "prune_with_fixed", lambda *args: pytest.fail("it is too late now"))
    with pytest.raises(error, match=f"(?s){said}"):
        edakari.prune(network(), tasked(**changes), "latency<=90%", method="taylor", finetune=Schedule(epochs=1))


class Plain:
    """A task that is no `Task.of`: it keeps the protocol, and counts the batches on which it is evaluated."""

    def __init__(self, figures: Any, metric: str = "accuracy", *, whole: bool = False) -> None:
        self.figures, self.metric, self.whole, self.asked = figures, metric, whole, list[int]()

    def example(self) -> Any:
        return X[:1]

    def batches(self, split: str) -> Any:
        return BATCHES

    def outputs(self, model: nn.Module, batch: Any) -> Any:
        return model(batch[0])

    def loss(self, outputs: Any, batch: Any) -> Any:
        return {"loss": functional.cross_entropy(outputs, batch[1])}

    def evaluate(self, model: nn.Module, split: str = "val") -> Any:
        batches = list(self.batches(split))
        self.asked.append(len(batches))
        if self.whole and len(batches) < 3:
            raise ValueError("not enough batches")
        return self.figures


class Slotted(Plain):
    """No attribute can be set on it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if "asked" in vars(self):
            raise AttributeError(name)
        object.__setattr__(self, name, value)


@pytest.mark.parametrize(("figures", "said"), [
    (None, "gives a dict of named numbers, but gave None"),
    (0.5, "gives a dict of named numbers, but gave 0.5"),
    ({"accuracy": "good"}, "gives a dict of named numbers, but 'accuracy' is the text 'good'"),
    ({"accuracy": [0.5]}, "gives a dict of named numbers, but 'accuracy' is a list"),
    ({"accuracy": torch.ones(2)}, "gives a dict of named numbers, but 'accuracy' is a Tensor"),
    ({"precision": 0.5, "recall": 1}, "its metric 'accuracy' is none of the numbers .*: precision, recall"),
])  # fmt: skip
@pytest.mark.parametrize("kind", [Plain, Slotted])
def test_a_task_that_gives_no_numbers_is_told_on_one_batch(
    kind: type[Plain], figures: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "measured_latencies", lambda run: pytest.fail("it is too late now"))
    task = kind(figures)
    with pytest.raises(WrongArgument, match=f"(?s)^task {kind.__name__}: .*{said}"):
        edakari.prune(network(), task, "latency<=90%")
    assert task.asked == [1]


def test_a_task_whose_evaluation_fails_is_told_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "measured_latencies", lambda run: pytest.fail("it is too late now"))
    task = Plain({"accuracy": 1.0}, whole=True)
    monkeypatch.setattr(task, "batches", lambda split: BATCHES[:2])
    with pytest.raises(DataError, match=r"task Plain: evaluate\(network\) fails: ValueError: not enough batches"):
        edakari.prune(network(), task, "latency<=90%")


@pytest.mark.parametrize("figures", [{}, {"accuracy": torch.tensor(0.5)}, {"accuracy": X.numpy().mean()}])
def test_figures_of_any_number_are_taken(figures: Any, tmp_path: Any) -> None:
    result = edakari.prune(network(), Plain(figures, whole=True), "macs<=60%", output=tmp_path / "run")
    found = result.report["networks"][1]["metrics"]
    assert found == {name: float(value) for name, value in figures.items()}


def test_what_a_run_does_not_need_is_not_asked_for() -> None:
    task = Task.of(X[:1], train=BATCHES, loss=lambda net, batch: None)
    assert edakari.prune(network(), task, "macs<=60%").model(X).shape == (24, 4)


@pytest.mark.parametrize("asked", [{"teacher": "bank"}, {"views": 2}], ids=str)
def test_a_bank_and_views_need_indices_before_anything_is_measured(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "measured_latencies", lambda run: pytest.fail("it is too late now"))
    task = tasked(teacher="dense", distill="mse")
    with pytest.raises(RecipeError, match=r"finetune\.views and finetune\.teacher=bank need .* not a Task; leave them"):
        edakari.prune(network(), task, "latency<=90%", finetune=FinetuneSettings(epochs=1, **asked))


def test_nothing_is_changed_by_the_trial() -> None:
    """A training after it is the one that it would have been: loaders, random states and statistics."""
    found = []
    for tried in (False, True):
        loader = DataLoader(TensorDataset(X, Y), 8, shuffle=True, generator=torch.Generator().manual_seed(3))
        torch.manual_seed(7)
        model, task = network(), tasked(train=loader, calibration=BATCHES)
        if tried:
            from edakari.pipeline.context import GivenSubject, Run
            from edakari.pipeline.settings import PruneSettings
            from edakari.pipeline.store import MemoryStore
            from edakari.pipeline.trial import try_task

            settings = PruneSettings(
                method=edakari.core.method.method_named("taylor")(),
                budget=edakari.Budget.parse("macs<=50%"), finetune=FinetuneSettings(epochs=1), device="cpu",
            )  # fmt: skip
            run = Run(settings, GivenSubject(model, task), MemoryStore())
            before = {name: value.clone() for name, value in run.dense.state_dict().items()}
            try_task(run)
            assert all(torch.equal(value, before[name]) for name, value in run.dense.state_dict().items())
            assert not run.dense.training
            assert all(parameter.grad is None for parameter in run.dense.parameters())
        torch.manual_seed(7)
        found.append([torch.rand(1), *(labels for _, labels in loader)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_an_evaluation_that_needs_all_batches_is_not_refused() -> None:
    def whole(model: nn.Module, batches: Any) -> dict[str, float]:
        first, second = batches
        return accuracy(model, [first, second])

    result = edakari.prune(network(), tasked(evaluate=whole), "macs<=60%")
    assert result.report["metric"] == "accuracy"


def test_batches_are_described_by_the_forms_of_their_tensors() -> None:
    batch = {
        "x": torch.zeros(2, 3),
        "list": [torch.zeros(1, dtype=torch.int64)] * 9,
        "n": 3,
        "text": "a",
        "deep": [[[[1]]]],
    }
    assert described(batch) == (
        "{'x': float32 [2, 3], 'list': [int64 [1], int64 [1], int64 [1], int64 [1], int64 [1], int64 [1], …], 'n': 3, "
        "'text': a str, 'deep': [[a list]]}"
    )
