"""The script that times ONNX files on another device, and what it shares with timing on this one.

Its modules need onnxruntime and numpy alone and run on Python 3.9. `script_text` joins them to the one file that can be
copied to a device.
"""

from __future__ import annotations

import ast
from pathlib import Path

__all__ = ["PARTS", "script_text"]

PARTS = ("bench", "loops", "sessions")
"""Modules of the script; the first one has its docstring and its main function."""


def script_text() -> str:
    """Return the script: its modules in one file, without their imports of each other."""
    folder = Path(__file__).parent
    main, *others = ((folder / f"{name}.py").read_text(encoding="utf-8") for name in PARTS)
    head = ast.get_docstring(ast.parse(main), clean=False)
    bodies = [_body(text) for text in (*others, main)]
    start = f'#!/usr/bin/env python3\n"""{head}"""\n\nfrom __future__ import annotations\n'
    return "\n\n".join([start, *bodies, 'if __name__ == "__main__":\n    sys.exit(main())\n'])


def _body(text: str) -> str:
    """A module without its docstring, its `__all__`, and its imports from edakari and `__future__`."""
    lines, dropped = text.splitlines(), set()
    for index, node in enumerate(ast.parse(text).body):
        named = isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in ("edakari", "__future__")
        public = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        public = public and node.targets[0].id == "__all__"  # type: ignore[attr-defined]
        if index == 0 or named or public:
            dropped |= set(range(node.lineno - 1, node.end_lineno or node.lineno))
    return "\n".join(line for index, line in enumerate(lines) if index not in dropped).strip()
