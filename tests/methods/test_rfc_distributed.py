"""Two processes prune by DLRFC as one does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("rfc_worker.py")


def launch(folder: Path, world: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = []
    for rank in range(world):
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        if world > 1:
            variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
            environment |= {"MASTER_ADDR": "127.0.0.1", **{key: str(value) for key, value in variables.items()}}
        command = [sys.executable, str(WORKER), str(folder)]
        workers.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for worker in workers:
        _, errors = worker.communicate(timeout=150)
        assert worker.returncode == 0, errors


def test_two_processes_prune_alike_and_as_one_does(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    (tmp_path / "one").mkdir()
    launch(tmp_path / "two", 2)
    launch(tmp_path / "one", 1)
    plans = {path.stem: path.read_text() for path in tmp_path.rglob("*-?.json")}
    assert plans["cut-2-0"] == plans["cut-2-1"] == plans["cut-1-0"]
    # batch normalisation over half a batch trains another network, the same one on both processes
    assert plans["trained-2-0"] == plans["trained-2-1"]
    first, second = (load_file(tmp_path / "two" / f"trained-2-{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
