"""Scores of feature discrimination on two processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from edakari.criteria import FeatureDiscrimination, Listening
from edakari.graph import trace
from edakari.testing import ToyTask, toy_cnn

CRITERION = FeatureDiscrimination(listening=Listening(top=11))
TASK = ToyTask(batch=24)  # three batches: one process has two of them


def scores() -> dict[str, list[float]]:
    model = toy_cnn()
    found = CRITERION.score(model, trace(model, TASK.example()), TASK.batches("search"), TASK)
    return {name: score.tolist() for name, score in found.items()}


def score_as(rank: int, folder: str) -> None:
    """What one of the two processes does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    Path(folder, str(rank)).write_text(json.dumps(scores()))
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
def test_scores_are_equal_on_all_ranks_and_to_those_of_one_process(tmp_path: Path) -> None:
    workers = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    first, second = (json.loads((tmp_path / str(rank)).read_text()) for rank in range(2))
    assert first == second == scores()


if __name__ == "__main__":
    score_as(int(sys.argv[1]), sys.argv[2])
