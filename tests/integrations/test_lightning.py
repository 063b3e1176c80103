"""Training by Lightning against edakari's own loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from edakari.errors import SettingsError, WrongArgument
from edakari.testing import check_fit
from edakari.train.optim import learning_rate, make_optimizer
from tests.integrations.oracle import SCHEDULES, check_same
from tests.integrations.test_methods import expected, pruned

L = pytest.importorskip("lightning")

from edakari.integrations.lightning import HookCallback, fit  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
QUIET: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}


class Mine(L.LightningModule):
    """A module of a user's own around the network, with a loss, an optimizer and a schedule of its own."""

    def __init__(self, model: Any, objective: Any, schedule: Any, params: Any, steps: int) -> None:
        super().__init__()
        self.model, self.objective, self.schedule, self.given, self.steps = model, objective, schedule, params, steps

    def configure_optimizers(self) -> Any:
        chosen = [each for each in self.model.parameters() if each.requires_grad] if self.given is None else self.given
        optimizer = make_optimizer(chosen, self.schedule)

        def factor(step: int) -> float:
            return learning_rate(self.schedule, step, self.steps) / self.schedule.lr

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": sum(self.objective(self.model, batch).values())}


def mine(
    model: Any, objective: Any, schedule: Any, *, hooks: Any = (), params: Any = None, batches: Any = None
) -> None:
    """What a user writes who keeps his module: steps of one batch."""
    module = Mine(model, objective, schedule, params, len(batches) * schedule.epochs)
    trainer = L.Trainer(
        **QUIET,
        max_epochs=schedule.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        gradient_clip_val=schedule.clip or None,
        callbacks=[HookCallback(model, hooks)],
    )
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))  # a list would be several loaders


@pytest.mark.parametrize("name", SCHEDULES)
def test_it_trains_as_the_own_loop_does(name: str) -> None:
    check_same(fit(**QUIET), SCHEDULES[name])


def test_it_keeps_the_promises() -> None:
    check_fit(fit(**QUIET))


@pytest.mark.parametrize("name", ["plain"])
def test_a_module_of_ones_own_calls_the_hooks(name: str) -> None:
    check_same(mine, SCHEDULES[name])


def test_a_network_is_pruned_while_a_module_of_ones_own_trains_it() -> None:
    found, wanted = pruned("smcp", mine), expected("smcp")
    assert found.plan.edits == wanted.plan.edits
    for name, value in wanted.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"max_epochs": 3}, SettingsError, "max_epochs is decided by the schedule.*set epochs there"),
        ({"precision": 16}, SettingsError, "precision is decided by the schedule"),
    ],
)
def test_what_the_schedule_decides_is_refused(settings: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        fit(**settings)


def test_arguments_that_lightning_does_not_know_are_told() -> None:
    with pytest.raises(WrongArgument, match=r"refuses its arguments: .*acelerator"):
        check_fit(fit(acelerator="cpu"))
