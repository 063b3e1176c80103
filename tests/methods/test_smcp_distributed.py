"""Two processes choose the same masks, and those that one would choose."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.methods import smcp_worker
from tests.together import together


def test_two_processes_choose_the_same_masks(tmp_path: Path) -> None:
    together(smcp_worker.main, tmp_path, "vit", "cnn")
    smcp_worker.main(tmp_path, "vit")
    plans = {path.stem: path.read_text() for path in tmp_path.glob("*.json")}
    assert plans["cnn-2-0"] == plans["cnn-2-1"]
    assert plans["vit-2-0"] == plans["vit-2-1"]
    # batch normalisation over half a batch is another network; without it the halves add up to the whole
    assert plans["vit-2-0"] == plans["vit-1-0"]
    for name in ("cnn", "vit"):
        first, second = (load_file(tmp_path / f"{name}-2-{rank}.safetensors") for rank in range(2))
        assert all(torch.equal(value, second[key]) for key, value in first.items())
    alone, shared = (load_file(tmp_path / f"vit-{world}-0.safetensors") for world in (1, 2))
    for key, value in alone.items():
        torch.testing.assert_close(shared[key], value, atol=1e-4, rtol=1e-2)
