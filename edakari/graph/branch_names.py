"""Names of residual branches and parallel paths, from the modules that they consist of."""

from __future__ import annotations

import collections
import dataclasses as dc
from collections.abc import Callable, Iterable, Sequence

from edakari.core.graph import Branch

__all__ = ["named_by_exit", "named_by_home"]


def named_by_home(branches: Sequence[Branch], numel: Callable[[str], int]) -> tuple[Branch, ...]:
    """Name residual branches by the module that holds them, else by the one with the most parameters, else by the last.

    Each branch takes the first of these names that no other branch has; if all are taken, a number is added.

    Args:
        branches: branches without names.
        numel: function that returns a parameter's number of weights.
    """
    names = [_home(branch) for branch in branches]
    for other in (lambda branch: _heaviest(branch, numel), lambda branch: branch.exit):
        counts = collections.Counter(names)
        names = [
            name if name and counts[name] == 1 else other(branch) for name, branch in zip(names, branches, strict=True)
        ]
    return _numbered(branches, names, "branch")


def named_by_exit(paths: Sequence[Branch]) -> tuple[Branch, ...]:
    """Name paths by their last module, which returns zeros if they are dropped."""
    return _numbered(paths, [path.exit for path in paths], "path")


def _numbered(branches: Iterable[Branch], names: Iterable[str], suffix: str) -> tuple[Branch, ...]:
    """Give branches these names, and numbers to those with the same name."""
    taken: collections.Counter[str] = collections.Counter()
    named = []
    for branch, name in zip(branches, names, strict=True):
        taken[name] += 1
        number = f"#{taken[name]}" if taken[name] > 1 else ""
        named.append(dc.replace(branch, name=f"{name}{number}:{suffix}"))
    return tuple(named)


def _heaviest(branch: Branch, numel: Callable[[str], int]) -> str:
    return max(
        (*branch.modules, branch.exit),
        key=lambda path: sum(numel(name) for name in branch.parameters if name.startswith(path + ".")),
    )


def _home(branch: Branch) -> str:
    paths = [path.split(".") for path in (*branch.modules, branch.exit)]
    if len(paths) == 1:
        return branch.exit
    shared = 0
    while all(len(path) > shared + 1 and path[shared] == paths[0][shared] for path in paths):
        shared += 1
    return ".".join(paths[0][:shared])
