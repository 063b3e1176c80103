"""A network that lets nothing pass is noticed, and the module that stops it is named."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import edakari
from edakari.errors import EdakariWarning
from edakari.pipeline.passing import blocked_at, warn_if_blocked
from edakari.testing import ToyTask, toy_cnn


def layers(model: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize("path", layers(toy_cnn()))
def test_a_layer_of_zeros_is_named_if_everything_passes_it(path: str) -> None:
    torch.manual_seed(0)
    task, dense = ToyTask(), toy_cnn()
    batch, pruned = next(iter(task.batches("calibration"))), toy_cnn()
    pruned.load_state_dict(dense.state_dict())
    with torch.no_grad():
        pruned.get_submodule(path).weight.zero_()
    outputs = pruned.eval()(batch[0])
    blocked = bool((outputs == outputs[:1]).all())
    assert blocked_at(dense, task, batch) is None
    assert blocked_at(pruned, task, batch) == (path if blocked else None)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warn_if_blocked(dense, pruned, task)
    assert [path in str(each.message) for each in told] == [True] * blocked


def test_a_run_tells_it_before_the_fine_tuning() -> None:
    method = {"name": "gradual_magnitude", "epochs": 1, "interval": 1, "step": 1.0, "linear": True}
    with pytest.warns(EdakariWarning, match="the same outputs for every input"):
        edakari.prune(toy_cnn(), ToyTask(), "sparsity>=99.9%", method=method)


def test_a_task_without_outputs_of_its_own_is_not_compared() -> None:
    class Other(ToyTask):
        def outputs(self, model: nn.Module, batch: object) -> object:
            raise TypeError("this task has a loss alone")

    task = Other()
    assert blocked_at(toy_cnn(), task, next(iter(task.batches("calibration")))) is None
