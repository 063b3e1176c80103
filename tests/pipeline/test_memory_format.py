"""The memory format of a run: chosen by layers, trial and time, told, and the same in a resumed run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import edakari
from edakari.core.memory_format import memory_format_of, set_memory_format_
from edakari.errors import WrongArgument
from edakari.pipeline import memory_format
from edakari.pipeline.memory_format import chosen_format
from edakari.train import distillation


class Convolutions(nn.Module):
    """Ends in `flatten`, which every format allows, or in what only contiguous feature maps allow."""

    def __init__(self, end: str = "flatten", linear: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.end = end
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3))
        self.rest = nn.Sequential(*(nn.Linear(4, 4) for _ in range(linear - 1)))
        self.head = nn.Linear(4 * 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.rest(self.body(x).transpose(1, 3)).transpose(1, 3) if len(self.rest) else self.body(x)
        if self.end == "view" or (self.end == "view in training" and self.training):
            return self.head(x.view(len(x), -1))
        if self.end == "as_strided":
            return self.head(x.as_strided((len(x), 64), (64, 1)))
        return self.head(x.flatten(1))


EXAMPLE = torch.zeros(1, 1, 6, 6)


def task(**others: Any) -> edakari.Task:
    torch.manual_seed(2)
    labels = torch.arange(24) % 3
    images = torch.randn(24, 1, 6, 6) + labels[:, None, None, None]
    batches = [(images[part], labels[part]) for part in torch.arange(24).split(8)]
    found: dict[str, Any] = {
        "train": batches,
        "val": batches,
        "loss": lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        "evaluate": lambda model, data: {
            "top1": sum((model(x).argmax(1) == y).float().mean().item() for x, y in data) / 3
        },
    }
    return edakari.Task.of(EXAMPLE, **{**found, **others})


@pytest.mark.parametrize(
    ("model", "form", "why"),
    [
        (Convolutions(), "channels_last", "67 % of its layers"),
        (Convolutions("view"), "contiguous", "RuntimeError"),
        (Convolutions("view in training"), "contiguous", "RuntimeError"),
        (Convolutions("as_strided"), "contiguous", "outputs differ"),
        (nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), "contiguous", "few or no 2-D"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Unflatten(1, (1, 2)), nn.Conv3d(1, 1, 1)), "contiguous", "3-D"),
        (Convolutions().double(), "contiguous", "float64"),
    ],
    ids=str,
)
def test_the_format_follows_from_layers_and_a_trial(model: nn.Module, form: str, why: str) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    example = EXAMPLE.to(next(model.parameters()).dtype)
    found = chosen_format(model.eval(), task(), example)
    assert (found.form, why in found.why) == (form, True), found
    assert not any(module.training for module in model.modules())
    assert all(param.grad is None for param in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("ratio", "form"), [(0.9, "channels_last"), (0.97, "contiguous")])
def test_a_network_of_both_kinds_is_timed(ratio: float, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def seconds(step: Any) -> float:
        step()
        clock[0] += 1
        return ratio if clock[0] % 2 == 0 else 1.0  # contiguous comes first

    monkeypatch.setattr(memory_format, "_seconds", seconds)
    found = chosen_format(Convolutions(linear=6).eval(), task(), EXAMPLE)
    assert found.form == form
    assert f"{ratio:.2f} of the time" in found.why
    assert clock[0] == 2 * (memory_format.ROUNDS + 1)


def test_a_network_that_is_channels_last_already_stays_so() -> None:
    model = Convolutions(linear=6)
    set_memory_format_(model, "channels_last")
    assert chosen_format(model.eval(), task(), EXAMPLE).form == "channels_last"


def run(folder: Path | None, model: nn.Module, subject: edakari.Task, **others: Any) -> Any:
    return edakari.prune(
        model.eval(), subject, "macs<=60%", finetune=edakari.Schedule(epochs=1), output=folder, device="cpu", **others
    )


def test_a_run_trains_and_evaluates_in_the_format_tells_it_and_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {"loss": set(), "evaluate": set()}
    told: list[str] = []
    plain = task()

    def noted(kind: str, function: Any) -> Any:
        def call(model: nn.Module, data: Any) -> Any:
            seen[kind].add(memory_format_of(model))
            return function(model, data)

        return call

    given = task(loss=noted("loss", plain.loss_of), evaluate=noted("evaluate", plain.judge))

    def tell(stage: str, state: str, found: Any) -> None:
        if state == "log":
            told.append(str(found["stage"]))

    model = Convolutions()
    result = run(tmp_path / "run", model, given, notify=tell)
    assert seen == {"loss": {"channels_last"}, "evaluate": {"channels_last"}}
    assert any("memory format channels_last: 67 %" in line for line in told)
    assert memory_format_of(model) == memory_format_of(result.model) == "contiguous"
    (tmp_path / "run" / "stages" / "finetune.json").unlink()
    stored = json.loads((tmp_path / "run" / "stages" / "trace.json").read_text(encoding="utf-8"))
    assert stored["memory_format"] == "channels_last"
    monkeypatch.setattr(memory_format, "_refusal", lambda *_: "not asked again")
    seen["evaluate"].clear()
    run(tmp_path / "run", model, given)
    assert seen["evaluate"] == {"channels_last"}


def test_a_task_that_fails_in_channels_last_is_left_contiguous() -> None:
    formats = set()

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        formats.add(memory_format_of(model))
        maps = model.body(batch[0])
        return maps.view(len(maps), -1).square().mean() + model(batch[0]).square().mean()

    result = run(None, Convolutions(), task(loss=loss))
    assert result.results.trace.memory_format == "contiguous"
    assert "its task does not allow channels_last" in result.results.trace.memory_format_reason
    assert formats == {"channels_last", "contiguous"}


def test_a_format_can_be_asked_for() -> None:
    result = run(None, Convolutions(), task(memory_format="contiguous"))
    assert result.results.trace.memory_format == "contiguous"
    with pytest.raises(WrongArgument, match="memory_format is one of auto, contiguous, channels_last, but got 'last'"):
        task(memory_format="last")


def test_the_dense_teacher_is_folded_and_laid_out_like_the_network(
    content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edakari.pipeline import distilling, recipe_from

    teachers = []

    def noting(subject: Any, teacher: nn.Module, *args: Any, **keywords: Any) -> Any:
        teachers.append(teacher)
        return distillation(subject, teacher, *args, **keywords)

    monkeypatch.setattr(distilling, "distillation", noting)
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "def tiny():\n"
        "    layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)]\n"
        "    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))\n"
    )
    result = edakari.run(recipe_from({**content, "measure": None}), tmp_path / "run")
    assert {memory_format_of(teacher) for teacher in teachers} == {"channels_last"}
    assert not any(isinstance(each, nn.BatchNorm2d) for teacher in teachers for each in teacher.modules())
    assert any(isinstance(each, nn.BatchNorm2d) for each in result.dense.modules())
