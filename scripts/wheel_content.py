"""Whether a wheel holds what the package needs beside its Python: `python scripts/wheel_content.py FILE`."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = {"__pycache__"}


def main() -> None:
    """Compare the files of the wheel with those of the checkout's package."""
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        names = {name for name in wheel.namelist() if name.startswith("edakari/")}
    here = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "edakari").rglob("*")
        if path.is_file() and not LEFT_OUT & set(path.parts)
    }
    missing, extra = sorted(here - names), sorted(names - here)
    if missing or extra:
        sys.exit(f"the wheel lacks {missing}, and has {extra} that the checkout has not")
    size = Path(sys.argv[1]).stat().st_size / 2**20
    print(f"{len(names)} files, {size:.1f} MiB; typed: {'edakari/py.typed' in names}")


if __name__ == "__main__":
    main()
