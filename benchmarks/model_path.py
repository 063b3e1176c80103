"""Which packages a network passes through in `edakari.prune`: every call that hands it on, by package.

    python benchmarks/model_path.py

A call counts if an argument of it is a network and both caller and callee are code of edakari; a caller is the nearest
frame of edakari below the call, so that calls through torch count too. Calls from a package to one on a higher level of
`tests/test_architecture.py` are returns to a higher package, such as callbacks.
"""

from __future__ import annotations

import ast
import collections
import dataclasses as dc
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

import edakari
from edakari.testing.toys import ToyTask, toy_cnn, toy_vit

ROOT = Path(edakari.__file__).parent


@dc.dataclass
class Calls:
    """Calls that hand on a network; a profile function of `sys.setprofile`.

    Args:
        counts: number of calls by the files of caller and callee.
    """

    counts: collections.Counter[tuple[str, str]] = dc.field(default_factory=collections.Counter)

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """See `sys.setprofile`."""
        callee = _file(frame) if event == "call" else None
        if callee is None or not _hands_on(frame):
            return
        above = frame.f_back
        while above is not None and _file(above) is None:
            above = above.f_back
        caller = _file(above) if above is not None else None
        if caller is not None and caller != callee:
            self.counts[caller, callee] += 1


def _file(frame: FrameType) -> str | None:
    """Path of a frame's file in the package; None is other code, to which the toys count: they stand for a user's."""
    name = frame.f_code.co_filename
    return name.removeprefix(f"{ROOT}/") if name.startswith(f"{ROOT}/") and "/testing/" not in name else None


def _hands_on(frame: FrameType) -> bool:
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return any(isinstance(frame.f_locals.get(name), nn.Module) for name in names if name != "self")


def package(file: str) -> str:
    """The package of a file; the root is one too."""
    return file.partition("/")[0] if "/" in file else "edakari"


def levels() -> Mapping[str, int]:
    """Level of each package, from the test that holds them."""
    tree = ast.parse((ROOT.parent / "tests" / "test_architecture.py").read_text(encoding="utf-8"))
    assigned = {
        node.targets[0].id: node.value  # type: ignore[attr-defined]
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    ordered: Sequence[set[str]] = ast.literal_eval(assigned["LEVELS"])
    found = {name: level for level, names in enumerate(ordered) for name in names}
    return {**found, "edakari": len(ordered)}


def figures(call: Callable[[], object]) -> dict[str, Any]:
    """What a call hands its network through."""
    calls, level = Calls(), levels()
    before = sys.getprofile()
    sys.setprofile(calls)
    try:
        call()
    finally:
        sys.setprofile(before)
    edges = {(package(first), package(second)) for first, second in calls.counts}
    upward = {
        f"{first} -> {second}": count
        for (first, second), count in sorted(calls.counts.items())
        if level.get(package(first), 99) < level.get(package(second), 99)
    }
    return {
        "packages": sorted({name for edge in edges for name in edge}),
        "files": len({file for edge in calls.counts for file in edge}),
        "package_edges": sorted(" -> ".join(edge) for edge in edges if edge[0] != edge[1]),
        "to_a_higher_package": upward,
    }


def main() -> None:
    """Print the figures of a method that prunes channels and of one that prunes tokens."""
    torch.manual_seed(0)
    found = {}
    task = ToyTask()
    runs = {"taylor": (toy_cnn, task), "spvit": (toy_vit, task), "spvit without data": (toy_vit, task.example())}
    for name, (make, given) in runs.items():
        method = name.partition(" ")[0]
        found[name] = figures(partial(edakari.prune, make().eval(), given, "macs<=80%", method, device="cpu"))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
