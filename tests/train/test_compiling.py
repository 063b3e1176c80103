"""A compiled network trains as the network itself does, also where the compiler fails."""

import shutil
import warnings

import pytest
import torch
from torch import nn

from edakari.core.processes import ALONE
from edakari.core.protocols import Schedule
from edakari.errors import EdakariWarning, RecipeError
from edakari.pipeline.preflight import check_pruning, check_training
from edakari.pipeline.recipe import recipe_from
from edakari.train import FitSettings, fit
from tests.train.problem import SCHEDULE, Noise, batches, network, objective

COMPILE = torch.compile


def trained(how="none", folder=None, stop=None, count=60, hooks=(), **changes):
    """The weights after a training of two epochs whose last batch is smaller."""
    model = network(norm=True)
    model[4] = nn.Identity()  # compilers draw other random numbers
    settings = FitSettings(compile=how, device="cpu", folder=folder, progress=False)
    schedule = Schedule(epochs=2, lr=0.05, **changes)
    fit(model, stop or objective, batches(count), schedule, settings=settings, hooks=hooks)
    return model.state_dict()


@pytest.fixture
def traced(monkeypatch):
    """torch.compile without the generation of code, which takes minutes; yields the modes that were asked for."""
    modes = []

    def compile(model, *, mode, dynamic):
        modes.append(mode)
        return COMPILE(model, backend="aot_eager", dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", compile)
    return modes


def test_a_compiled_network_trains_as_itself(traced):
    torch.testing.assert_close(trained("reduce-overhead"), trained(), rtol=1e-5, atol=1e-6)
    assert traced == ["reduce-overhead"]


def test_a_compiled_training_resumes(traced, tmp_path):
    calls = []

    def failing(model, batch):
        calls.append(0)
        if len(calls) > 12:
            raise KeyboardInterrupt
        return objective(model, batch)

    with pytest.raises(KeyboardInterrupt):
        trained("default", tmp_path, failing)
    torch.testing.assert_close(trained("default", tmp_path), trained(), rtol=1e-5, atol=1e-6)


class Failing(nn.Module):
    """A network that changes its statistics, as compiled ones do, before the compiler gives up."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        self.model(images)
        raise RuntimeError("no compiler found\nin any folder")


def test_without_a_compiler_the_training_is_the_one_without(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **kwargs: Failing(model))
    with pytest.warns(EdakariWarning, match="without torch.compile: RuntimeError: no compiler found in any folder"):
        found = trained("default", hooks=[Noise()])
    expected = trained(hooks=[Noise()])
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_error_of_the_objective_is_told_as_it_is(traced):
    def wrong(model, batch):
        raise ZeroDivisionError("of the user")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdakariWarning)
        with pytest.raises(ZeroDivisionError, match="of the user"):
            trained("default", stop=wrong)


def test_another_training_loop_cannot_be_told_to_compile():
    content = {"model": "edakari:resnet20", "method": "magnitude", "budget": "macs<=50%", "compile": "default"}
    both = recipe_from({**content, "train": {"epochs": 1}, "fit": "timm"}, "here")
    with pytest.raises(RecipeError, match="compile: is of edakari's own training loop, but fit names 'timm'"):
        check_pruning(both, ALONE, lambda stage: False)
    with pytest.raises(RecipeError, match="fit names 'timm', found 'default'"):
        check_training(both, ALONE)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_real_compilation_trains_as_the_network_itself():
    with warnings.catch_warnings():
        warnings.simplefilter("error", EdakariWarning)
        found = trained("default", accumulate=SCHEDULE.accumulate)
    torch.testing.assert_close(found, trained(accumulate=SCHEDULE.accumulate), rtol=1e-4, atol=1e-5)
