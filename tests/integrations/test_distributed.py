"""Two processes on the CPU train by an integration as one does on the same global batches."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.integrations import distributed_worker
from tests.together import together


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    together(distributed_worker.main, str(tmp_path))
    distributed_worker.main(str(tmp_path))
    alone = load_file(tmp_path / "1-0.safetensors")
    figures = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1")]
    assert figures[1] == figures[2]
    for one, other in zip(figures[0], figures[1], strict=True):
        torch.testing.assert_close(one["loss"], other["loss"], rtol=1e-5, atol=1e-6)
    for rank in range(2):
        for name, value in load_file(tmp_path / f"2-{rank}.safetensors").items():
            torch.testing.assert_close(value, alone[name], rtol=1e-5, atol=1e-7)
