"""Two processes choose the same masks, and those that one would choose."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("smcp_worker.py")


def launch(folder: Path, world: int, *names: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = []
    for rank in range(world):
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        if world > 1:
            variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
            environment |= {"MASTER_ADDR": "127.0.0.1", **{key: str(value) for key, value in variables.items()}}
        command = [sys.executable, str(WORKER), str(folder), *names]
        workers.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for worker in workers:
        _, errors = worker.communicate(timeout=150)
        assert worker.returncode == 0, errors


def test_two_processes_choose_the_same_masks(tmp_path: Path) -> None:
    launch(tmp_path, 2, "vit", "cnn")
    launch(tmp_path, 1, "vit")
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
