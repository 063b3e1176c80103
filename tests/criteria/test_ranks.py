"""Two processes share out the calibration batches, and find what one process finds."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from edakari.core.processes import ALONE, Processes
from edakari.methods.isp import InterpretationSteeredPruning
from edakari.testing import toy_cnn, toy_job
from tests.criteria import shared_worker
from tests.together import together

DATA = {"rfc", "sensitivity", "taylor", "snip", "grasp"}


@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
def test_processes_share_out_calibration_batches_and_find_what_one_finds(tmp_path: Path) -> None:
    job = dc.replace(toy_job(toy_cnn()), artifacts=tmp_path / "explainer")
    InterpretationSteeredPruning(predictor_epochs=1, explainer_epochs=1, gate_epochs=1).prune(job)
    together(shared_worker.main, tmp_path)
    shared_worker.main(tmp_path)
    alone = torch.load(tmp_path / "found-1-0.pt")
    first, second = (torch.load(tmp_path / f"found-2-{rank}.pt") for rank in range(2))
    assert alone.keys() == first.keys() == second.keys()
    for name, value in alone.items():
        if name.startswith("images"):
            assert first[name] + second[name] == value, name
            if name == "images loaded":
                assert [int(each[name]) for each in (first, second, alone)] == [30, 20, 50]
                continue
            assert (second[name] > 0) == (name.split()[1] in DATA and name.endswith(" 20")), name
            continue
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(
            first[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("world", range(1, 65))
def test_every_batch_belongs_to_one_process_and_shares_are_even(world: int) -> None:
    for count in (0, 1, 7, 64, 100):
        here = [Processes(rank, world) for rank in range(world)]
        for batches in (range(count), Stream(count)):
            parts = [list(each.numbered(batches)) for each in here]
            assert sorted(pair for part in parts for pair in part) == list(zip(range(count), range(count), strict=True))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
        parts = [list(each.share(count)) for each in here]
        assert [job for part in parts for job in part] == list(range(count))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


class Stream:
    """Batches without a length."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))


def test_batches_that_are_divided_already_stay_whole() -> None:
    class Divided(list[int]):
        divided = True

    assert list(Processes(1, 2).own(Divided([1, 2, 3]))) == [1, 2, 3]
    assert list(Processes(1, 2).own(Divided([1, 2, 3]), 2)) == [1, 2]
    assert list(Processes(1, 2).own([1, 2, 3, 4], 3)) == [3]
    assert list(Processes(1, 2).own(Stream(9), 4)) == [1, 3]
    assert ALONE.joined({1: 4, 0: 3}) == [3, 4]
