"""A training that is stopped at any point goes on to the result that it would have had."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

PROBLEM = Path(__file__).with_name("problem.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(folder, kill_at=-1, how="SIGKILL"):
    command = [sys.executable, str(PROBLEM), str(folder), str(kill_at), how]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)


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
    ended = run(folder)
    assert ended.returncode == 0, ended.stderr
    return result(folder)


def test_a_killed_training_ends_bit_for_bit_as_one_that_ran_through(whole, tmp_path):
    # Step 5 of 12 is in the middle of the second epoch, one step after a checkpoint.
    killed = run(tmp_path, 5)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "final.safetensors").exists()
    assert (tmp_path / "checkpoint.safetensors").exists()
    again = run(tmp_path)
    assert again.returncode == 0, again.stderr
    same(whole, result(tmp_path))


def test_control_c_writes_a_checkpoint_and_ends(whole, tmp_path):
    stopped = run(tmp_path, 5, "SIGINT")
    assert stopped.returncode != 0
    assert "KeyboardInterrupt" in stopped.stderr
    history = json.loads((tmp_path / "history.json").read_text())
    assert (history["steps"], history["done"]) == (6, False)
    again = run(tmp_path)
    assert again.returncode == 0, again.stderr
    same(whole, result(tmp_path))
