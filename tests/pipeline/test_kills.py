"""A small version of benchmarks/kills.py: real processes end by SIGKILL, and their runs go on to the same result."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

import pytest

from tests.together import apart

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def benchmark(folder: Path, *arguments: str) -> None:
    """Run the benchmark as from the command line."""
    os.chdir(folder)
    sys.path.insert(0, str(BENCHMARKS))
    sys.argv = ["kills.py", *arguments, "--output", str(folder / "kills.json")]
    importlib.import_module("kills").main()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_runs_that_are_killed_end_as_others_do(tmp_path: Path) -> None:
    ended, said = apart(benchmark, tmp_path, "--methods", "smcp", "--boundaries", "3", "--random", "1")
    assert ended == 0, said
    kills = json.loads((tmp_path / "kills.json").read_text())["kills"]
    assert [kill["boundary"] for kill in kills[:3]] == [0, kills[0]["of"] // 3, kills[0]["of"] * 2 // 3]
    assert all(kill["killed"] for kill in kills)
    assert all(kill["same"] for kill in kills)
