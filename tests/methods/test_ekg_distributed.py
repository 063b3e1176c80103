"""Two processes go the same way as one, whether there are more batches than processes or fewer."""

from __future__ import annotations

import json
from pathlib import Path

from tests.methods import ekg_worker
from tests.together import together


def test_two_processes_go_the_way_of_one(tmp_path: Path) -> None:
    together(ekg_worker.main, tmp_path, 8, 32)
    ekg_worker.main(tmp_path, 8, 32)
    for size in (8, 32):
        first, second, alone = (
            json.loads((tmp_path / f"{size}-{name}.json").read_text()) for name in ("2-0", "2-1", "1-0")
        )
        assert first == second
        assert first == alone
