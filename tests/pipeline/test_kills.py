"""A small version of benchmarks/kills.py: real processes end by SIGKILL, and their runs go on to the same result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_runs_that_are_killed_end_as_others_do(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "kills.py"), "--methods", "smcp", "--boundaries", "3"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--random", "1", "--output", str(tmp_path / "kills.json")],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kills = json.loads((tmp_path / "kills.json").read_text())["kills"]
    assert [kill["boundary"] for kill in kills[:3]] == [0, kills[0]["of"] // 3, kills[0]["of"] * 2 // 3]
    assert all(kill["killed"] for kill in kills)
    assert all(kill["same"] for kill in kills)
