"""A network goes down through the packages: what prunes tokens hardly ever hands it up again."""

import runpy
from functools import partial
from pathlib import Path

import pytest

import edakari
from edakari.methods.spvit import SoftTokenPruning
from edakari.methods.tokens.method import TokenTraining
from edakari.testing.toys import ToyTask, toy_vit

figures = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "model_path.py"))["figures"]


@pytest.mark.slow
@pytest.mark.parametrize("trained", [False, True])
def test_only_the_training_hands_a_network_up_to_the_loss_of_its_method(trained):
    task = ToyTask()
    method = SoftTokenPruning(training=TokenTraining(imitation_epochs=1, selector_epochs=1, joint_epochs=1))
    given = task if trained else task.example()
    found = figures(partial(edakari.prune, toy_vit(), given, "macs<=80%", method, device="cpu"))
    assert len(found["package_edges"]) > 5  # it sees calls at all
    expected = {"train/loop.py -> methods/tokens/training.py"} if trained else set()
    assert found["to_a_higher_package"].keys() == expected
