"""Two processes on the CPU train as one does on the same global batches."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("worker.py")


def launch(folder, world, *modes):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = []
    for rank in range(world):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        environment = {**os.environ, **{key: str(value) for key, value in variables.items()}}
        environment |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
        if world == 1:
            environment = {
                key: value for key, value in environment.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
            }
        command = [sys.executable, str(WORKER), str(folder), *modes]
        workers.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for worker in workers:
        _, errors = worker.communicate(timeout=150)
        assert worker.returncode == 0, errors
    return {mode: [load_file(folder / f"{mode}-{world}-{rank}.safetensors") for rank in range(world)] for mode in modes}


def test_two_processes(tmp_path):
    """One training after the other in the same processes, in fp32 and then in bf16 with batch normalisation."""
    found = launch(tmp_path, 2, "plain", "norm")
    for first, second in found.values():
        assert all(torch.equal(first[name], second[name]) for name in first)
    (alone,) = launch(tmp_path, 1, "plain")["plain"]
    shared, _ = found["plain"]
    assert alone.keys() == shared.keys()
    for name in alone:
        torch.testing.assert_close(shared[name], alone[name], atol=1e-6, rtol=1e-4)
