"""What two processes tell each other."""

from __future__ import annotations

import dataclasses as dc

import pytest
import torch
import torch.distributed as dist

from edakari.core.budget import Budget
from edakari.core.processes import ALONE, Processes
from edakari.errors import PlanError
from edakari.methods.score import ScorePruning
from edakari.pipeline import FinetuneSettings, PruneSettings, run_given, stages
from edakari.testing import ToyTask, toy_cnn
from tests.together import together


def tell() -> None:
    """What each of the two does."""
    dist.init_process_group("gloo")
    here = Processes.here()
    rank = dist.get_rank()
    assert (here.rank, here.world, here.main) == (rank, 2, rank == 0)
    here.wait()
    assert here.from_main(lambda: f"from {rank}") == "from 0"
    assert here.agreed(rank) == 0
    assert here.reduced(torch.tensor([1, rank])).tolist() == [2, 1]
    assert here.reduced(torch.tensor([rank - 5.0]), dist.ReduceOp.MIN).tolist() == [-5.0]
    assert [each.tolist() for each in here.gathered(torch.tensor([rank]))] == [[0], [1]]
    assert here.gathered_objects({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]) * (rank + 1))
    here.equalise_([weight, torch.tensor(rank)])
    assert weight.tolist() == [1.0, 2.0]
    assert list(here.share(5)) == [[0, 1, 2], [3, 4]][rank]


def prune() -> None:
    """A run in memory on both."""
    settings = PruneSettings(
        method=ScorePruning(),
        budget=Budget.parse("macs<=60%"),
        finetune=FinetuneSettings(epochs=1),
        device="cpu",
    )
    checks: list[int] = []
    compare = stages.check_exact

    def counted(run, plan):
        checks.append(1)
        return compare(run, plan)

    stages.check_exact = counted
    found = run_given(toy_cnn(), ToyTask(), settings)
    here = Processes.here()
    assert here.world == 2
    assert len(checks) == (1 if here.main else 0)
    assert here.gathered_objects(found.results)[0] == found.results
    flat = torch.cat([value.detach().flatten() for value in found.model.parameters()])
    first, second = here.gathered(flat)
    assert torch.equal(first, second)
    stages.check_exact = failing
    with pytest.raises(PlanError, match=r"differ by 0\.3"):
        run_given(toy_cnn(), ToyTask(), dc.replace(settings, finetune=None))


def failing(run, plan):
    raise PlanError("the cut network and its masked twin differ by 0.3")


@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
@pytest.mark.parametrize("function", [tell, prune])
def test_two_processes_come_to_the_same(function) -> None:
    together(function)


def test_one_process_keeps_what_it_has():
    tensor = torch.tensor([1.0])
    assert ALONE.reduced(tensor) is tensor
    assert ALONE.gathered(tensor) == [tensor]
    assert ALONE.gathered_objects(3) == [3]
    assert ALONE.from_main(lambda: 4) == 4
    assert list(ALONE.share(3)) == [0, 1, 2]
    ALONE.equalise_([tensor])
    ALONE.wait()
    assert Processes.here() == ALONE
