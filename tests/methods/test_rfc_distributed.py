"""Two processes score and prune as one does."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.methods import rfc_worker
from tests.together import together


def test_two_processes_score_and_prune_alike_and_as_one_does(tmp_path: Path) -> None:
    together(rfc_worker.main, tmp_path)
    written = {path.stem: path.read_text() for path in tmp_path.glob("*.json")}
    assert json.loads(written["scores-0"]) == json.loads(written["scores-1"]) == rfc_worker.scored()
    assert written["cut-0"] == written["cut-1"] == rfc_worker.pruned(None, 0).plan.to_json()
    # batch normalisation over half a batch trains another network, the same one on both processes
    assert written["trained-0"] == written["trained-1"]
    first, second = (load_file(tmp_path / f"trained-{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
