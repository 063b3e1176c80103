"""Formats the problems of a recipe as one message."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping, Sequence

__all__ = ["Problem", "message"]


@dc.dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong at one place of a recipe."""

    key: str
    text: str


def message(problems: Sequence[Problem], where: str, lines: Mapping[str, int]) -> str:
    """List all problems, each once, with the key and, if known, the line.

    Args:
        problems: at least one problem.
        where: name of the recipe, such as the path of its file.
        lines: line of each dotted key.
    """

    def location(problem: Problem) -> str:
        line = lines.get(problem.key.partition("[")[0])
        return f"{where}:{line}: {problem.key}" if line else f"{where}: {problem.key}"

    texts = list(dict.fromkeys(f"{location(problem)}: {problem.text}" for problem in problems))
    return texts[0] if len(texts) == 1 else f"{where} has {len(texts)} problems:\n  " + "\n  ".join(texts)
