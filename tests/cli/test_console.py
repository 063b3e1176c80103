"""What any command prints fits into its lines, and its figures are for people."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from rich.cells import cell_len
from rich.text import Text
from typer.testing import CliRunner

from edakari.cli.layout import Column, Grid, hanging
from edakari.cli.main import app
from tests.conftest import tiny_recipe

NO_PLURALS = {"ms", "is", "has", "was", "as", "MACs", "FLOPs"}
"""Words with an s at the end that may follow a 1."""
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def faults(text: str, width: int) -> Iterator[str]:
    """What is wrong with what a command printed."""
    for line in text.splitlines():
        # a path or another single word is never broken
        if cell_len(line.rstrip()) > width and len(line.split()) > 1:
            yield f"wider than {width}: {line!r}"
        if re.search(r"\d…|…\d|[a-z]…(\s|$)", line):
            yield f"cut: {line!r}"
        words = [word for word in line.split() if "/" not in word]
        for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.])", " ".join(words)):
            digits = sum(map(str.isdigit, number.partition("e")[0]))
            if ("." in number and digits > 6) or "e+" in number:
                yield f"raw number {number}: {line!r}"
        for word in re.findall(r"(?<![\d.,])1 (\w+s)\b", line):
            if word not in NO_PLURALS:
                yield f"1 {word}: {line!r}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, a run of it, and weights."""
    path = tmp_path_factory.mktemp("console")
    content = tiny_recipe(path)
    # one epoch, one round, and a training of one epoch: what is one must not be many
    content |= {"finetune": {"epochs": 1, "lr": 0.05}, "train": {"epochs": 1, "lr": 0.05}, "export": ["onnx"]}
    (path / "my.yaml").write_text(yaml.safe_dump(content))
    found = call(path, "prune", "my.yaml", "-o", "run")
    assert found == 0
    return path


def call(folder: Path, *arguments: str) -> int:
    with contextlib.chdir(folder):
        return CliRunner().invoke(app, list(arguments)).exit_code


COMMANDS = (
    ("inspect", "edakari:fashion_cnn"),
    ("inspect", "edakari:fashion_vit", "--groups", "--all"),
    ("inspect", "run"),
    ("methods",),
    ("methods", "taylor"),
    ("methods", "smcp"),
    ("methods", "spvit"),
    ("prune", "my.yaml", "--check"),
    ("prune", "my.yaml", "-o", "again", "--overwrite"),
    ("prune", "my.yaml", "-o", "run", "--set", "budget=macs<=60%", "--set", "seed=1"),
    ("resume", "run"),
    ("report", "run"),
    ("measure", "run", "--runtime", "torch", "--repeats", "2", "--spread", "100"),
    ("train", "my.yaml", "-o", "new.safetensors", "--overwrite"),
    ("export", "run", "--to", "program", "-o", "exported", "--overwrite"),
    ("explain", "predictions", "run", "--images", "1"),
    ("convert", "new.safetensors", "other.safetensors", "--overwrite"),
    ("init", "another.yaml"),
    ("push", "run", "me/net", "-o", "card"),
)


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_lines_fit_and_figures_are_for_people(
    arguments: tuple[str, ...], width: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for name in ("another.yaml", "card"):  # which must not exist
        Path(name).rename(tmp_path / name) if Path(name).exists() else None
    found = CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(width)})
    assert "Traceback" not in found.output
    assert found.output.strip()
    wrong = list(faults(found.output, width))
    if arguments[0] == "methods":  # sentences and defaults of papers, which stay as they are
        wrong = [fault for fault in wrong if fault.startswith(("wider", "cut"))]
    assert not wrong


@contextlib.contextmanager
def terminal() -> Iterator[list[bytes]]:
    """Context in which output goes to a terminal; gives what it shows, at the end."""
    main, worker = os.openpty()
    shown: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):
            while piece := os.read(main, 65536):
                shown.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    with open(worker, "w", buffering=1, encoding="utf-8") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        patch.setenv("TERM", "xterm-256color")
        yield shown
    reader.join(10)
    os.close(main)


@pytest.mark.parametrize("width", [80, 60])
def test_a_terminal_shows_no_line_that_is_wider(width: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", str(width))
    # so that the line at the bottom is drawn in a run of a second, too
    monkeypatch.setattr("edakari.cli.watching.QUICK", 0.0)
    monkeypatch.setattr("edakari.core.watching.PAUSE", 0.0)
    with terminal() as shown, contextlib.suppress(SystemExit):
        app(["prune", "my.yaml", "-o", f"run{width}", "--overwrite"])
    text = ESCAPES.sub("", b"".join(shown).decode())
    assert "finetune" in text
    assert re.search(r"finetune .*epoch 1/1.*loss \d.*lr 0\.05", text)
    assert not list(faults(text.replace("\r", "\n"), width))


@pytest.mark.parametrize("width", range(24, 90, 7))
def test_a_text_keeps_its_words(width: int) -> None:
    text = "✓ trace    9 groups, 11.4 M MACs, size 702 kB, 92.85 %, 3.2 ms\n    a/path/" + "that/is/long/" * 9 + " ends"
    lines = hanging(Text(text), width, 6)
    assert [word for line in lines for word in line.plain.split()] == text.split()
    assert all(cell_len(line.plain) <= width or len(line.plain.split()) == 1 for line in lines)
    assert not any(re.match(r"\s*(%|ms|kB|M)\b", line.plain) for line in lines)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_a_table_keeps_its_cells(width: int) -> None:
    rows = [["a name of three words", "0.333 ± 0.02 ms", "92.85 %"], ["x" * 50, "1.234 M", "−0.70 points"]]
    columns = (Column("", figures=False), Column("dense"), Column("now"))
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        from edakari.cli.console import show

        show(Grid(columns, rows))
    printed = " ".join(stream.getvalue().split())
    for cell in ("0.333 ± 0.02 ms", "92.85 %", "1.234 M", "−0.70 points"):
        assert cell in printed
    assert not list(faults(stream.getvalue(), width))
