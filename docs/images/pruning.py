"""Draws docs/images/pruning.png from the report of a run.

edakari demo --output runs/demo && python docs/images/pruning.py runs/demo/report.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edakari.report.picture import draw

if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(__file__).with_suffix(".png"))
