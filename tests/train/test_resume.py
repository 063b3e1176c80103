"""A training that is stopped at any point goes on to the result that it would have had."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from tests.together import apart
from tests.train import problem


def run(folder, kill_at=-1, how="SIGKILL"):
    """Train in a process of its own: how it ended, and what was raised in it."""
    return apart(problem.main, folder, kill_at, how)


def result(folder):
    return load_file(folder / "final.safetensors"), json.loads((folder / "final.json").read_text())


def same(one, other):
    assert one[1] == other[1]
    assert one[0].keys() == other[0].keys()
    for name, tensor in one[0].items():
        assert torch.equal(tensor, other[0][name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    ended, said = run(folder)
    assert ended == 0, said
    return result(folder)


def test_a_killed_training_ends_bit_for_bit_as_one_that_ran_through(whole, tmp_path):
    # Step 5 of 12 is in the middle of the second epoch, one step after a checkpoint.
    killed, _ = run(tmp_path, 5)
    assert killed == -signal.SIGKILL
    assert not (tmp_path / "final.safetensors").exists()
    assert (tmp_path / "checkpoint.safetensors").exists()
    again, said = run(tmp_path)
    assert again == 0, said
    same(whole, result(tmp_path))


def test_control_c_writes_a_checkpoint_and_ends(whole, tmp_path):
    stopped, said = run(tmp_path, 5, "SIGINT")
    assert stopped != 0
    assert "KeyboardInterrupt" in said
    history = json.loads((tmp_path / "history.json").read_text())
    assert (history["steps"], history["done"]) == (6, False)
    again, said = run(tmp_path)
    assert again == 0, said
    same(whole, result(tmp_path))
