"""Training by timm's parts against edakari's own loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from edakari.core.protocols import Schedule
from edakari.errors import SettingsError
from edakari.integrations import timm
from edakari.testing import check_fit
from tests.integrations.oracle import SCHEDULES, check_same, trained


@pytest.mark.parametrize("name", SCHEDULES)
def test_it_trains_as_the_own_loop_does(name: str) -> None:
    check_same(timm.fit(), SCHEDULES[name])


def test_it_keeps_the_promises() -> None:
    check_fit(timm.fit())


def test_timms_optimizers_and_schedulers_are_there() -> None:
    schedule = Schedule(epochs=3, lr=0.02, warmup=0.0)
    _, record, _ = trained(
        timm.fit(optimizer={"opt": "lamb"}, scheduler={"sched": "step", "decay_epochs": 1}), schedule
    )
    torch.testing.assert_close(record.rates, [0.02] * 5 + [0.002] * 5 + [0.0002] * 5)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"optimizer": {"lr": 0.1}}, "optimizer: lr is decided by the schedule.*set lr there"),
        ({"scheduler": {"num_epochs": 3}}, "scheduler: num_epochs is decided.*set epochs there"),
        ({"clip_mode": "nrom"}, "clip_mode must be one of 'norm'"),
    ],
)
def test_what_the_schedule_decides_is_refused(settings: Any, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        timm.fit(**settings)
