"""Two processes train one predictor, one explainer and one set of gates."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.methods import isp_worker
from tests.together import together


def test_two_processes_find_the_same_plan(tmp_path: Path) -> None:
    together(isp_worker.main, tmp_path)
    first, second = ((tmp_path / f"plan-{rank}.json").read_text() for rank in range(2))
    assert first == second
    for name in ("explainer", "predictor"):
        here, there = (load_file(tmp_path / f"kept-{rank}" / f"{name}.safetensors") for rank in range(2))
        assert all(torch.equal(value, there[key]) for key, value in here.items())
