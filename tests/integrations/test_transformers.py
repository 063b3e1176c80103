"""Training by transformers' Trainer against edakari's own loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import edakari
from edakari.core.protocols import Schedule
from edakari.errors import SettingsError, WrongArgument
from edakari.testing import check_fit
from edakari.train import fit as own_loop
from edakari.train import fit_by
from edakari.train.optim import make_optimizer
from tests.integrations.oracle import QUIET as OURS
from tests.integrations.oracle import SCHEDULES, Record, check_same

hf = pytest.importorskip("transformers")

from edakari.integrations.transformers import HookCallback, fit  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
QUIET: dict[str, Any] = {"use_cpu": True, "disable_tqdm": True}


@pytest.mark.parametrize("name", SCHEDULES)
def test_it_trains_as_the_own_loop_does(name: str) -> None:
    check_same(fit(**QUIET), SCHEDULES[name])


def test_it_keeps_the_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_fit(fit(**QUIET))
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def segformer() -> Any:
    torch.manual_seed(0)
    config = hf.SegformerConfig(
        num_channels=3,
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[3, 3],
        strides=[2, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        num_labels=3,
        hidden_dropout_prob=0.0,
        drop_path_rate=0.0,
        classifier_dropout_prob=0.0,
    )
    return hf.SegformerForSemanticSegmentation(config).double()


def examples() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(12, 3, 16, 16, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (12, 16, 16), generator=generator)
    return [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]


def batches() -> list[dict[str, torch.Tensor]]:
    groups = [examples()[at : at + 4] for at in range(0, 12, 4)]
    return [{key: torch.stack([each[key] for each in group]) for key in group[0]} for group in groups]


def objective(model: Any, batch: Any) -> Any:
    return {"loss": model(**batch).loss}


def test_a_trainer_of_ones_own_calls_the_hooks(tmp_path: Path) -> None:
    def mine(model: Any, objective: Any, schedule: Any, *, hooks: Any, params: Any, batches: Any) -> None:
        arguments = hf.TrainingArguments(
            str(tmp_path),
            num_train_epochs=schedule.epochs,
            per_device_train_batch_size=4,
            max_grad_norm=0.0,
            save_strategy="no",
            report_to="none",
            **QUIET,
        )
        optimizer = make_optimizer(list(model.parameters()), schedule)
        steady = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

        class Ordered(hf.Trainer):
            def _get_train_sampler(self, *given: Any) -> Any:
                return torch.utils.data.SequentialSampler(self.train_dataset)

        trainer = Ordered(
            model,
            arguments,
            train_dataset=examples(),
            callbacks=[HookCallback(model, hooks)],
            optimizers=(optimizer, steady),
        )
        trainer.train()

    schedule = Schedule(epochs=2, lr=0.01, warmup=0.0, final_lr=1.0)
    found, wanted, ours, theirs = segformer(), segformer(), Record(), Record()
    fit_by(mine)(found, objective, batches(), schedule, hooks=[ours], settings=OURS)
    own_loop(wanted, objective, batches(), schedule, hooks=[theirs], settings=OURS)
    assert ours.calls == theirs.calls
    torch.testing.assert_close(ours.losses, theirs.losses, rtol=1e-9, atol=1e-12)
    for name, value in wanted.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-7, atol=1e-9)


def test_a_network_of_transformers_is_pruned_and_trained_on_by_its_trainer() -> None:
    seen = batches()
    task = edakari.Task.of(
        seen[0]["pixel_values"][:1],
        train=seen,
        val=seen,
        loss=lambda model, batch: model(**batch).loss,
        evaluate=lambda model, given: {"minus_loss": -sum(float(model(**batch).loss) for batch in given)},
    )
    how: Any = {"finetune": Schedule(epochs=2, lr=0.01), "device": "cpu"}
    found = edakari.prune(segformer(), task, "macs<=80%", "taylor", fit=fit(**QUIET), **how)
    wanted = edakari.prune(segformer(), task, "macs<=80%", "taylor", **how)
    assert found.plan.edits == wanted.plan.edits
    for name, value in wanted.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], value, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"learning_rate": 3e-4}, SettingsError, "learning_rate is decided by the schedule.*set lr there"),
        ({"bf16": True}, SettingsError, "bf16 is decided by the schedule.*set precision there"),
    ],
)
def test_what_the_schedule_decides_is_refused(settings: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        fit(**settings)


def test_arguments_that_transformers_does_not_know_are_told() -> None:
    with pytest.raises(WrongArgument, match=r"refuses its arguments: .*logging_step"):
        check_fit(fit(logging_step=3))
