"""Taylor scores on two processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from edakari.criteria import Taylor
from edakari.graph import trace
from edakari.testing import ToyTask, toy_cnn
from tests.together import together


def score_as(folder: Path) -> None:
    """What one of the two processes does."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    task, model = ToyTask(), toy_cnn()
    own = list(task.batches("calibration"))[rank::2]
    scores = Taylor().score(model, trace(model, task.example()), own, task)
    (folder / str(rank)).write_text(json.dumps({name: score.tolist() for name, score in scores.items()}))


@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
def test_taylor_is_equal_on_all_ranks_and_equal_to_one_process(tmp_path: Path) -> None:
    together(score_as, tmp_path)
    first, second = (json.loads((tmp_path / str(rank)).read_text()) for rank in range(2))
    assert first == second
    task, model = ToyTask(), toy_cnn()
    alone = Taylor().score(model, trace(model, task.example()), task.batches("calibration"), task)
    for name, score in alone.items():
        torch.testing.assert_close(torch.tensor(first[name], dtype=torch.float64), score, rtol=1e-5, atol=1e-9)
