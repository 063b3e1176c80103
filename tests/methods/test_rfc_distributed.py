"""Two processes score and prune as one does."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("rfc_worker.py")


def alone() -> Any:
    """The worker's own functions, in this process."""
    found = importlib.util.spec_from_file_location("rfc_worker", WORKER)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def launch(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = []
    for rank in range(2):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
        environment |= {key: str(value) for key, value in variables.items()}
        command = [sys.executable, str(WORKER), str(folder)]
        workers.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for worker in workers:
        _, errors = worker.communicate(timeout=150)
        assert worker.returncode == 0, errors


def test_two_processes_score_and_prune_alike_and_as_one_does(tmp_path: Path) -> None:
    launch(tmp_path)
    written = {path.stem: path.read_text() for path in tmp_path.glob("*.json")}
    one = alone()
    assert json.loads(written["scores-0"]) == json.loads(written["scores-1"]) == one.scored()
    assert written["cut-0"] == written["cut-1"] == one.pruned(None, 0).plan.to_json()
    # batch normalisation over half a batch trains another network, the same one on both processes
    assert written["trained-0"] == written["trained-1"]
    first, second = (load_file(tmp_path / f"trained-{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
