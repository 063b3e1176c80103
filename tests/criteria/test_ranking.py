"""Rankings that are merged batch by batch equal a ranking of everything."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edakari.criteria import ranking
from edakari.criteria.ranking import Ranking
from edakari.errors import ModelError


def expected(responses_NF: torch.Tensor, top: int) -> tuple[torch.Tensor, torch.Tensor]:
    """By a stable sort: of equal responses the image that comes first."""
    order = torch.sort(responses_NF.T, dim=1, descending=True, stable=True)
    return order.values[:, :top], order.indices[:, :top]


VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3e38, -3e38, 1e-40])


@given(st.lists(st.lists(VALUES, min_size=3, max_size=3), min_size=1, max_size=40), st.integers(1, 12), st.data())
def test_any_split_into_batches_gives_the_same(rows: list[list[float]], top: int, data: st.DataObject) -> None:
    responses_NF = torch.tensor(rows)
    found = Ranking(3, top, torch.device("cpu"))
    first = 0
    while first < len(rows):
        size = data.draw(st.integers(1, len(rows) - first))
        found.add(responses_NF[first : first + size], first)
        first += size
    found.gather()
    strongest = found.strongest(top)
    values, ids = expected(responses_NF + 0.0, top)
    assert torch.equal(strongest.responses, values)
    assert torch.equal(strongest.ids, ids)
    assert torch.equal(strongest.dead, responses_NF.amin(0) == responses_NF.amax(0))
    size = float(responses_NF.abs().max())
    torch.testing.assert_close(strongest.mean, responses_NF.double().mean(0), rtol=1e-6, atol=1e-6 * (1 + size))


def test_more_images_and_filters_than_are_merged_at_a_time() -> None:
    generator = torch.Generator().manual_seed(0)
    filters, images = ranking.ROWS + 7, 3 * ranking.BLOCK + 5
    responses_NF = torch.randint(0, 50, (images, filters), generator=generator).float()
    labels_NF = torch.randint(0, 9, (images, filters), generator=generator)
    found = Ranking(filters, 20, torch.device("cpu"), placed=True)
    for first in range(0, images, 50):
        found.add(responses_NF[first : first + 50], first, labels_NF[first : first + 50])
    found.gather()
    strongest = found.strongest(20)
    values, ids = expected(responses_NF, 20)
    assert torch.equal(strongest.responses, values)
    assert torch.equal(strongest.ids, ids)
    assert torch.equal(strongest.labels, labels_NF.T.gather(1, ids))


def test_an_entry_takes_six_bytes_and_eight_where_there_are_many_images() -> None:
    found = Ranking(1000, 640, torch.device("cpu"))
    for first in range(0, 1300, 100):
        found.add(torch.rand(100, 1000), first)
    assert found.keys.shape == (1000, 640)
    assert found.values.nbytes + found.ids.nbytes == 1000 * 640 * 6
    found.add(torch.rand(100, 1000), ranking.SHORT)
    assert found.values.nbytes + found.ids.nbytes == 1000 * 640 * 8


def test_numbers_of_more_images_than_16_bits_hold() -> None:
    count, step = 2 * ranking.SHORT + 300, 1000
    responses_NF = torch.rand(count, 2, generator=torch.Generator().manual_seed(0)).mul(500).round()
    found = Ranking(2, 900, torch.device("cpu"))
    for first in range(0, count, step):
        found.add(responses_NF[first : first + step], first)
    found.gather()
    values, ids = expected(responses_NF, 900)
    assert torch.equal(found.strongest(900).responses, values)
    assert torch.equal(found.strongest(900).ids, ids)
    assert int(ids.max()) > ranking.SHORT


def test_what_is_not_finite_is_an_error() -> None:
    found = Ranking(2, 1, torch.device("cpu"))
    found.add(torch.tensor([[1.0, float("nan")]]), 0)
    with pytest.raises(ModelError, match="not finite"):
        found.gather()
