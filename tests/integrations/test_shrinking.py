"""In every training loop a hook may make the network smaller: it ends where edakari's own loop ends."""

from __future__ import annotations

import copy
import dataclasses as dc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import edakari as ek
from edakari.core.plan import Plan
from edakari.core.processes import Processes
from edakari.core.protocols import Fit, Hook, Schedule, StepState
from edakari.errors import ModelError
from edakari.testing import random_plan
from edakari.train import fit, fit_by
from tests.integrations import loops
from tests.integrations.oracle import QUIET, SCHEDULE, SCHEDULES, batches, network, objective

EXAMPLE = torch.zeros(1, 3, 4, 4, dtype=torch.float64)


class Cut(Hook):
    """Makes the network smaller after the first epoch."""

    def __init__(self) -> None:
        self.plan: Plan | None = None

    def end_epoch(self, state: StepState) -> None:
        if state.epoch == 0:
            self.plan = random_plan(ek.trace(state.model, EXAMPLE), 0.5)
            ek.shrink(state.model, self.plan, state.optimizer, *state.averages)

    def state_dict(self) -> Mapping[str, Any]:
        return {"plan": "" if self.plan is None else self.plan.to_json()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.plan = Plan.from_json(state["plan"]) if state["plan"] else None

    def reshape(self, model: nn.Module) -> None:
        if self.plan is not None:
            ek.shrink(model, self.plan)


def own_fit(name: str) -> Fit:
    if name == "by hand":
        return loops.plain  # type: ignore[no-any-return]
    pytest.importorskip(name)
    if name == "lightning":
        from edakari.integrations import lightning

        return lightning.fit(accelerator="cpu", enable_progress_bar=False)
    if name == "transformers":
        from edakari.integrations import transformers

        return transformers.fit(use_cpu=True, disable_tqdm=True)
    from edakari.integrations import timm

    return timm.fit()


def ends(own: Fit | None, schedule: Schedule, folder: Path | None = None) -> nn.Module:
    model = copy.deepcopy(network())
    loop = fit if own is None else fit_by(own)
    loop(model, objective, batches(), schedule, hooks=[Cut()], settings=dc.replace(QUIET, folder=folder))
    return model


@pytest.mark.parametrize("name", ["by hand", "timm", "lightning", "transformers"])
def test_it_ends_where_the_own_loop_ends(name: str, tmp_path: Path) -> None:
    own = own_fit(name)
    averaged = dc.replace(SCHEDULES["averaged"], clip=0.3, momentum=0.9)
    # a loop by hand clips the parameters that it has listed before
    for schedule in (SCHEDULE,) if name == "by hand" else (averaged, SCHEDULES["adamw"]):
        expected, found = ends(None, schedule), ends(own, schedule, tmp_path / schedule.optimizer)
        assert repr(found) == repr(expected)
        assert found[0].out_channels == 2  # type: ignore[index]
        for key, value in expected.state_dict().items():
            torch.testing.assert_close(found.state_dict()[key], value, rtol=1e-8, atol=1e-10)
        assert all(param.grad is None and param.requires_grad for param in found.parameters())
    again = ends(own, schedule, tmp_path / schedule.optimizer)  # it has finished: its weights are loaded
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in again.state_dict().items())


def test_several_processes_need_the_own_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Processes.here()
    monkeypatch.setattr(Processes, "here", lambda device=None: dc.replace(one, world=2))
    monkeypatch.setattr(Processes, "reduced", lambda self, tensor, how=None: tensor)
    with pytest.raises(ModelError, match=r"loops.*with several processes.*edakari's own fit"):
        ends(loops.plain, SCHEDULE)


def test_callbacks_of_other_trainers_are_not_copied_with_the_network() -> None:
    pytest.importorskip("transformers")
    from edakari.integrations.transformers import HookCallback

    model = network()
    callback = HookCallback(model, [])
    callback.on_train_begin(None, None, None, model=model)
    hooks = [*model._forward_hooks.values()]
    ek.shrink(model, random_plan(ek.trace(model, EXAMPLE), 0.5))
    assert [*model._forward_hooks.values()] == hooks
    assert copy.deepcopy(callback) is callback
    callback.on_train_end(None, None, None)
    assert not model._forward_hooks
