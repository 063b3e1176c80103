import pytest
import torch

from edakari.train.curvature import Curvature, curvature


def test_the_spectrum_of_a_quadratic():
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))[0]
    values = torch.tensor([-2.0, -0.5, 0.0, 0.1, 1.0, 3.0, 5.0, 10.0], dtype=torch.float64)
    matrix = turn @ torch.diag(values) @ turn.T
    params = [torch.zeros(3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    params.append(torch.zeros(2, dtype=torch.float64, requires_grad=True))

    def half() -> torch.Tensor:
        x = torch.cat(params)
        return 0.25 * x @ matrix @ x

    found = curvature([half, half], params)
    assert found.smallest == pytest.approx(-2.0, abs=1e-8)
    assert found.largest == pytest.approx(10.0, abs=1e-8)
    assert found.condition == pytest.approx(0.2)


def test_a_spectrum_that_is_one_value_ends_at_once():
    x = torch.ones(5, dtype=torch.float64, requires_grad=True)
    calls = []

    def loss() -> torch.Tensor:
        calls.append(1)
        return 1.5 * x.square().sum()

    found = curvature([loss], [x])
    assert (found.smallest, found.largest) == pytest.approx((3.0, 3.0))
    assert len(calls) <= 2


def test_condition_of_a_flat_loss():
    assert Curvature(0.0, 0.0).condition == 0.0
