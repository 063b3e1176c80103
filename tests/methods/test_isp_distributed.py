"""Two processes train one predictor, one explainer and one set of gates."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("isp_worker.py")


def test_two_processes_find_the_same_plan(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = []
    for rank in range(2):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1"}
        environment |= {key: str(value) for key, value in variables.items()}
        command = [sys.executable, str(WORKER), str(tmp_path)]
        workers.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for worker in workers:
        _, errors = worker.communicate(timeout=150)
        assert worker.returncode == 0, errors
    first, second = ((tmp_path / f"plan-{rank}.json").read_text() for rank in range(2))
    assert first == second
    for name in ("explainer", "predictor"):
        here, there = (load_file(tmp_path / f"kept-{rank}" / f"{name}.safetensors") for rank in range(2))
        assert all(torch.equal(value, there[key]) for key, value in here.items())
