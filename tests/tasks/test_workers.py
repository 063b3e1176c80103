"""Workers stay from pass to pass, survive what passes do to them, and a device is a batch ahead."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

from edakari.errors import DataError
from edakari.tasks.ahead import ahead, side_stream
from edakari.tasks.workers import Workers


def double(request: int) -> tuple[int, int]:
    if request < 0:
        raise DataError(f"image {request} cannot be read")
    return 2 * request, os.getpid()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_passes_use_the_same_processes(count: int) -> None:
    workers = Workers(double, count)
    state = torch.get_rng_state()
    first, second = (list(workers.batches(range(start, start + 7))) for start in (0, 5))
    assert torch.equal(torch.get_rng_state(), state)
    assert [value for value, _ in first] == [0, 2, 4, 6, 8, 10, 12]
    assert [value for value, _ in second] == [10, 12, 14, 16, 18, 20, 22]
    pids = {pid for _, pid in first}
    assert pids == {pid for _, pid in second}
    assert len(pids) == max(1, count)
    assert (os.getpid() in pids) == (count == 0)
    assert list(workers.batches([])) == []


def test_a_pass_that_is_left_early_or_within_another_disturbs_no_other() -> None:
    workers = Workers(double, 2)
    for _ in range(3):
        assert next(workers.batches(range(50)))[0] == 0
    outer = workers.batches(range(4))
    pairs = [(one[0], [other[0] for other in workers.batches(range(10, 13))]) for one in outer]
    assert pairs == [(2 * number, [20, 22, 24]) for number in range(4)]
    pids = [{pid for _, pid in workers.batches(range(6))} for _ in range(2)]
    assert pids[0] == pids[1]


@pytest.mark.parametrize("count", [0, 2])
def test_after_an_error_the_next_pass_begins_again(count: int) -> None:
    workers = Workers(double, count)
    for _ in range(2):
        with pytest.raises(DataError, match=r"^image -1 cannot be read$"):
            list(workers.batches([3, -1, 4]))
        assert [value for value, _ in workers.batches([5, 6])] == [10, 12]
    again = pickle.loads(pickle.dumps(workers))
    assert (again.call, again.count, again.pin) == (double, count, False)
    assert [value for value, _ in again.batches([5])] == [10]


class Recorded:
    """Stands in for a stream: writes down what happens in which order."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []

    def ran(self, make: Callable[[], Any]) -> tuple[Any, Any]:
        made = make()
        self.log.append(("made", made))
        return made, f"mark of {made}"

    def handed_over(self, batch: Any, mark: Any) -> Any:
        assert mark == f"mark of {batch}"
        self.log.append(("handed over", batch))
        return batch


def test_each_batch_is_made_while_the_one_before_is_used() -> None:
    side = Recorded()
    for batch in ahead([1, 2, 3], lambda raw: 10 * raw, side):
        side.log.append(("used", batch))
    steps = [("made", 10)]
    for number in (20, 30):
        steps += [("made", number), ("handed over", number - 10), ("used", number - 10)]
    assert side.log == [*steps, ("handed over", 30), ("used", 30)]
    assert list(ahead([], str, side)) == []
    assert list(ahead([1, 2], str, None)) == ["1", "2"]
    assert side_stream(None) is None
    assert side_stream(torch.device("cpu")) is None
