from pathlib import Path

import numpy as np
from PIL import Image

from tests.tasks import listing_worker
from tests.together import together


def test_one_process_lists_files_for_all(tmp_path: Path) -> None:
    for name in ("cat/a.png", "cat/b.png", "cat/c.png", "dog/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(tmp_path / name)
    together(listing_worker.main, tmp_path)
