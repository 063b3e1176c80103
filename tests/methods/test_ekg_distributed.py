"""Two processes go the same way as one, whether there are more batches than processes or fewer."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

WORKER = Path(__file__).with_name("ekg_worker.py")


def launch(folder: Path, world: int, *sizes: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = []
    for rank in range(world):
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        if world > 1:
            variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
            environment |= {"MASTER_ADDR": "127.0.0.1", **{key: str(value) for key, value in variables.items()}}
        command = [sys.executable, str(WORKER), str(folder), *sizes]
        workers.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for worker in workers:
        _, errors = worker.communicate(timeout=150)
        assert worker.returncode == 0, errors


def test_two_processes_go_the_way_of_one(tmp_path: Path) -> None:
    launch(tmp_path, 2, "8", "32")
    launch(tmp_path, 1, "8", "32")
    for size in ("8", "32"):
        first, second, alone = (
            json.loads((tmp_path / f"{size}-{name}.json").read_text()) for name in ("2-0", "2-1", "1-0")
        )
        for found in (first, second, alone):
            found.pop("seconds")
        assert first == second
        assert first == alone
