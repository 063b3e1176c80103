"""Two versions of edakari in one run: each commit is unpacked into a folder, and runs in a process of its own."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from core import NETWORKS, environment
from records import write_record

__all__ = ["Worker", "alternately", "arguments_of", "commit", "record", "unpack"]

ROOT = Path(__file__).resolve().parents[1]


class Worker:
    """A process that times the version of edakari in a folder.

    The script must print the folder of the package first, and then one line of JSON for each line of its input.
    """

    def __init__(self, folder: Path, name: str, script: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(script), "--worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        )
        found = self._line()
        if Path(found) != folder.resolve():
            raise SystemExit(f"the process of {folder} imported edakari from {found!r}")

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def time(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self._line())
        return found

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def alternately(name: str, folders: Mapping[str, Path], script: Path, repeats: int) -> list[dict[str, Any]]:
    """What the versions answer in each round; they take turns in beginning."""
    workers = {version: Worker(folder, name, script) for version, folder in folders.items()}
    rounds = []
    for index in range(repeats):
        order = list(workers)[:: 1 if index % 2 else -1]
        found = {version: workers[version].time() for version in order}
        rounds.append({version: found[version] for version in workers})
    for worker in workers.values():
        worker.close()
    return rounds


def arguments_of(description: str | None, repeats: int, networks: Sequence[str]) -> argparse.Namespace:
    """The command line of a script that compares two commits."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="the earlier commit")
    parser.add_argument("--after", default="HEAD", help="the commit that is compared with it")
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--networks", nargs="+", default=list(networks), choices=list(NETWORKS))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.before is None and not arguments.worker:
        parser.error("--before names the earlier commit")
    return arguments


def record(arguments: argparse.Namespace, compare: Callable[[str, Mapping[str, Path]], dict[str, Any]]) -> None:
    """Compare the two commits on each network, and write what was found."""
    torch.set_num_threads(1)
    results: dict[str, Any] = {"environment": environment(["python", *sys.argv]), "repeats": arguments.repeats}
    results["commits"] = {"before": commit(arguments.before), "after": commit(arguments.after)}
    with unpacked(arguments.before, arguments.after) as folders:
        results["networks"] = {name: compare(name, folders) for name in arguments.networks}
    if arguments.output:
        write_record(arguments.output, results)


@contextlib.contextmanager
def unpacked(before: str, after: str) -> Iterator[dict[str, Path]]:
    """Folders with the package as it was at two commits."""
    with tempfile.TemporaryDirectory() as folder:
        folders = {version: Path(folder) / version for version in ("before", "after")}
        unpack(before, folders["before"])
        unpack(after, folders["after"])
        yield folders


def commit(name: str) -> str:
    return subprocess.run(["git", "rev-parse", name], cwd=ROOT, capture_output=True, text=True, check=True).stdout[:12]


def unpack(name: str, folder: Path) -> None:
    """Write the package as it was at a commit into a new folder."""
    folder.mkdir()
    packed = subprocess.run(["git", "archive", name, "edakari"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed, check=True)
