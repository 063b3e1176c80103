"""Several processes go the same way as one, whether there are more batches than processes or fewer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.methods import ekg_worker
from tests.together import together


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_go_the_way_of_one(world: int, tmp_path: Path) -> None:
    together(ekg_worker.main, tmp_path, 8, 32, world=world)
    ekg_worker.main(tmp_path, 8, 32)
    for size in (8, 32):
        alone = json.loads((tmp_path / f"{size}-1-0.json").read_text())
        for rank in range(world):
            assert json.loads((tmp_path / f"{size}-{world}-{rank}.json").read_text()) == alone, rank
