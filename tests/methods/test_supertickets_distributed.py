"""Two processes cut the same units, choose the same masks, and end with the same network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.methods import supertickets_worker
from tests.together import together


@pytest.mark.slow
def test_two_processes_draw_the_same_ticket(tmp_path: Path) -> None:
    together(supertickets_worker.main, tmp_path)
    first, second = ((tmp_path / f"{rank}.json").read_text() for rank in range(2))
    assert first == second
    assert "KeepChannels" in first
    assert "MaskWeights" in first
    one, other = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(value, other[key]) for key, value in one.items())
