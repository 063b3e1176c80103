"""Runs the notebooks of the documentation and stores what their cells print.

    python scripts/notebooks.py                             # all of docs/notebooks
    python scripts/notebooks.py docs/notebooks/graph.ipynb

No Jupyter is needed: cells run one after the other in one namespace, as a notebook runs them. A cell's output is what
it prints and the value of its last expression.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "notebooks"


def executed(notebook: dict[str, Any], name: str) -> dict[str, Any]:
    """The notebook with new outputs; its cells run in the current folder."""
    module = ModuleType(f"notebook_{name}")
    sys.modules[module.__name__] = module  # torch and dataclasses look up the module of a class
    cells, count = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            outputs = outputs_of("".join(cell["source"]), module, f"{name}, cell {count}")
            cell = {**cell, "execution_count": count, "outputs": outputs}
        cells.append(cell)
    return {**notebook, "cells": cells}


def outputs_of(source: str, module: ModuleType, where: str) -> list[dict[str, Any]]:
    """Run a cell; what it printed, and its last expression."""
    tree = ast.parse(source, where)
    last = ast.Expression(tree.body.pop().value) if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, where, "exec"), module.__dict__)
        if last is not None:
            value = eval(compile(last, where, "eval"), module.__dict__)
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
    if value is not None:
        data = {"text/plain": repr(value).splitlines(keepends=True)}
        if html := getattr(value, "_repr_html_", lambda: None)():
            data["text/html"] = html.splitlines(keepends=True)
        outputs.append({"output_type": "execute_result", "execution_count": None, "data": data, "metadata": {}})
    return outputs


def main() -> None:
    """Run notebooks in a temporary folder and write them back."""
    for path in map(Path, sys.argv[1:] or sorted(map(str, FOLDER.glob("*.ipynb")))):
        path = path.resolve()
        notebook, here = json.loads(path.read_text(encoding="utf-8")), Path.cwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                notebook = executed(notebook, path.stem)
            finally:
                os.chdir(here)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
