"""Results are written here, and name no folder of the machine on which they were measured.

python benchmarks/records.py benchmarks/results/FILE.json    # the same for a file that something else wrote
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from edakari.core.files import write_text

ROOTS = "build|data|home|media|mnt|opt|private|root|scratch|srv|tmp|usr|Users|var|work|workspace"
"""First folders of absolute paths; names in ONNX graphs also begin with a slash, and stay."""

ABSOLUTE = re.compile(rf"(?<![\w./:~-])(?:/(?:{ROOTS})/|[A-Za-z]:[\\/])[^\s\"'`,;:()]*")
TELLING = re.compile(
    r".*?(?:(?:site-packages|dist-packages|lib/python3\.\d+)[\\/]|(?=(?:benchmarks|edakari|recipes|tests)[\\/]))"
)


def neutral(content: Any) -> Any:
    """JSON values in which every absolute path is cut to what it says to others.

    That is the part from a package, or from a folder of this repository, on; else the last name.
    """
    if isinstance(content, dict):
        return {neutral(key): neutral(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [neutral(value) for value in content]
    if isinstance(content, str):
        return ABSOLUTE.sub(lambda found: _tail(found[0].rstrip("/\\")), content)
    return content


def _tail(path: str) -> str:
    known = TELLING.match(path)
    return path[known.end() :] if known else re.split(r"[\\/]", path)[-1]


def write_record(path: Path, content: Any, indent: int = 2) -> None:
    """Write results as JSON, whole or not at all, without the paths of this machine."""
    write_text(path, json.dumps(neutral(content), indent=indent, ensure_ascii=False) + "\n")


def main() -> None:
    for name in sys.argv[1:]:
        text = Path(name).read_text(encoding="utf-8")
        content = json.loads(text)
        if neutral(content) != content:
            write_record(Path(name), content, indent=len(text.splitlines()[1]) - len(text.splitlines()[1].lstrip()))
            print(f"{name}: paths cut")


if __name__ == "__main__":
    main()
