"""Nothing that is kept names a folder of anybody's machine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OF_A_MACHINE = re.compile(r"(?<![\w./:~<>-])(?:/(?:home|root|Users|work)/\w|[A-Za-z]:[\\\\/]{1,2}(?:Users|home)\b)")
PASSING = re.compile(r"(?<![\w./:~<>-])/(?!data/local/tmp\b)(?:data|media|mnt|private|scratch|tmp|var|workspace)/\w")
"""Fine in tests, which may make up paths; /data/local/tmp is the same folder on every Android phone."""


def tracked() -> list[Path]:
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a checkout of git")
    names = [name for name in done.stdout.split("\0") if name]
    return [ROOT / name for name in names if Path(name).suffix not in (".png", ".safetensors", ".npz")]


def test_no_file_names_a_folder_of_a_machine() -> None:
    found = []
    for path in tracked():
        if path == Path(__file__) or not path.is_file():
            continue
        text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT)
        patterns = (OF_A_MACHINE,) if name.parts[0] == "tests" else (OF_A_MACHINE, PASSING)
        for number, line in enumerate(text.splitlines(), 1):
            if match := next(filter(None, (pattern.search(line) for pattern in patterns)), None):
                found.append(f"{name}:{number}: {line[match.start() :][:60]}")
    assert not found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("python x.py /work/tmp/data --output /home/me/a/b.json", "python x.py data --output b.json"),
        ("--set model.weights=/tmp/dense.safetensors", "--set model.weights=dense.safetensors"),
        (
            'File "/home/me/venv/lib/python3.11/site-packages/torch/nn/x.py", line 3',
            'File "site-packages/torch/nn/x.py", line 3',
        ),
        ("/work/clone/benchmarks/peers.py", "benchmarks/peers.py"),
        (r"C:\Users\me\data", "data"),
        ("recipes/a.yaml and/or runs/demo, 3 / 4, /blocks/0/attn/MatMul", None),
        ("https://example.org/work/tmp", None),
    ],
)
def test_records_keep_no_folder_of_a_machine(text: str, expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from records import neutral

    assert neutral({"a": [text, 1, None]}) == {"a": [expected or text, 1, None]}
    sys.modules.pop("records", None)
