"""Taylor scores on two processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from edakari.criteria import Taylor
from edakari.graph import trace
from edakari.testing import ToyTask, toy_cnn


def score_as(rank: int, folder: str) -> None:
    """What one of the two processes does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    task, model = ToyTask(), toy_cnn()
    own = list(task.batches("search"))[rank::2]
    scores = Taylor().score(model, trace(model, task.example()), own, task)
    Path(folder, str(rank)).write_text(json.dumps({name: score.tolist() for name, score in scores.items()}))
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
def test_taylor_is_equal_on_all_ranks_and_equal_to_one_process(tmp_path: Path) -> None:
    # processes of their own: a forked one inherits the threads that autograd has started here
    workers = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    first, second = (json.loads((tmp_path / str(rank)).read_text()) for rank in range(2))
    assert first == second
    task, model = ToyTask(), toy_cnn()
    alone = Taylor().score(model, trace(model, task.example()), task.batches("search"), task)
    for name, score in alone.items():
        torch.testing.assert_close(torch.tensor(first[name], dtype=torch.float64), score, rtol=1e-5, atol=1e-9)


if __name__ == "__main__":
    score_as(int(sys.argv[1]), sys.argv[2])
