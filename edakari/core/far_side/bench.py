"""Times ONNX files on the device on which it runs.

    python bench.py FOLDER

This file needs Python 3.9 or newer, onnxruntime and numpy alone, so that it can be copied to any device. FOLDER holds
ONNX files and `manifest.json`, which says how they are to be timed; edakari writes both. Times are printed as they
come, one JSON object a line, and are stored in `results.json` in the folder. A second run continues where the first one
stopped. edakari times networks by the same functions on its own machine.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edakari.core.far_side.loops import BATCH, CallClock, alternated, before_calls, steady_samples
from edakari.core.far_side.sessions import How, KernelClock, Unusable, call_of, nodes_on_cpu, open_session

__all__ = ["FORMAT", "MANIFEST", "RESULTS", "RESULTS_FORMAT", "VERSION", "main"]

FORMAT, RESULTS_FORMAT, VERSION = "edakari bench", "edakari bench results", 1
MANIFEST, RESULTS = "manifest.json", "results.json"
DIGITS = 6
"""Digits of a time in ms after the point: nanoseconds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the files of a folder; return the exit status.

    Args:
        arguments: command line; None takes that of the process.
    """
    parser = argparse.ArgumentParser(description="Times the ONNX files that edakari wrote into a folder.")
    parser.add_argument("folder", help="folder with manifest.json and ONNX files, or a folder of such folders")
    parser.add_argument("--again", action="store_true", help="time what was timed before, too")
    given = parser.parse_args(arguments)
    try:
        return max(Bench(folder, given.again).run() for folder in folders(given.folder))
    except (Unusable, OSError, ValueError, KeyError, ImportError) as error:
        text = f"it lacks the key {error}" if isinstance(error, KeyError) else str(error)
        sys.stderr.write(f"Error: {given.folder}: {text}\n")
        return 1


def folders(path: str) -> list[str]:
    """Return the folder, or the folders in it that have a manifest.

    Raises:
        Unusable: there is none.
    """
    if os.path.isfile(os.path.join(path, MANIFEST)):
        return [path]
    inner = [os.path.join(path, name) for name in sorted(os.listdir(path))]
    found = [folder for folder in inner if os.path.isfile(os.path.join(folder, MANIFEST))]
    if not found:
        raise Unusable(f"it has no {MANIFEST}; name a folder that edakari wrote")
    return found


class Bench:
    """Times the files of a folder.

    Args:
        path: the folder.
        again: whether to time again what was timed before.
    """

    def __init__(self, path: str, again: bool) -> None:
        self.path = path
        self.manifest = _read(os.path.join(path, MANIFEST))
        if (self.manifest.get("format"), self.manifest.get("version")) != (FORMAT, VERSION):
            raise Unusable(f"{MANIFEST} is not of {FORMAT!r}, version {VERSION}; use the bench.py that edakari wrote")
        given = self.manifest
        self.how = How(given["threads"], given.get("provider", "cpu"), given.get("provider_options", {}))
        self.bar = Bar(len(given["files"]))
        self.found: dict[str, Any] = {
            "format": RESULTS_FORMAT, "version": VERSION, "manifest": given["id"], "device": device(),
            "versions": versions(), "calls": given.get("calls", "steady"),
            "times": {}, "on_cpu": {}, "failed": {}, "seconds": 0.0,
        }  # fmt: skip
        if not again:
            self._resume()

    def _resume(self) -> None:
        file = os.path.join(self.path, RESULTS)
        if os.path.exists(file):
            there = _read(file)
            if all(there.get(key) == self.found[key] for key in ("manifest", "device", "versions")):
                self.found.update({key: there[key] for key in ("times", "on_cpu", "seconds")})

    def run(self) -> int:
        """Time all files that were not timed before; return the exit status."""
        _tell({key: self.found[key] for key in ("format", "version", "manifest", "device", "versions", "calls")})
        for key in ("times", "on_cpu"):
            if self.found[key]:
                _tell({key: self.found[key]})
        files = [file for file in self.manifest["files"] if file["name"] not in self.found["times"]]
        networks = [file for file in self.manifest["files"] if file["kind"] == "network"]
        layers = [file for file in files if file["kind"] == "layer"]
        for first in range(0, len(layers), BATCH):
            self._timed(layers[first : first + BATCH], self._layers)
        if any(file in files for file in networks):  # they are compared with each other, so all are timed together
            self._timed(networks, self._networks)
        self.bar.close()
        _tell({"seconds": round(self.found["seconds"], 3)})
        for name, why in self.found["failed"].items():
            sys.stderr.write(f"Error: {name} does not run here: {why}\n")
        return 1 if self.found["failed"] else 0

    def _timed(
        self, files: Sequence[Mapping[str, Any]], timed: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    ) -> None:
        start, opened, before = time.perf_counter(), {}, len(self.found["failed"])
        for file in files:
            try:
                opened[file["name"]] = self._opened(file)
            except Unusable:
                raise
            except Exception as error:
                self.found["failed"][file["name"]] = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if len(self.found["failed"]) > before:
            _tell({"failed": self.found["failed"]})
        times = timed(opened)
        self.found["times"].update(times)
        self.found["seconds"] += time.perf_counter() - start
        _write(os.path.join(self.path, RESULTS), self.found)
        _tell({"times": times})
        self.bar.at(len(self.found["times"]))

    def _opened(self, file: Mapping[str, Any]) -> tuple[Mapping[str, Any], str, dict[str, Any], Any]:
        """A file, its path, its inputs and a session, which has run once."""
        path, rng = os.path.join(self.path, file["file"]), np.random.default_rng(0)
        session = open_session(path, self.how)
        taken = {given.name for given in session.get_inputs()}
        feeds = {each["name"]: tensor(each, rng) for each in file["inputs"]}
        feeds = {name: value for name, value in feeds.items() if name in taken}
        session.run(None, feeds)
        return file, path, feeds, session

    def _networks(self, opened: Mapping[str, Any]) -> Mapping[str, Any]:
        calls = {}
        for name, (_, path, feeds, session) in opened.items():
            on_cpu = nodes_on_cpu(path, feeds, self.how)
            if on_cpu:
                self.found["on_cpu"][name] = on_cpu
                _tell({"on_cpu": {name: on_cpu}})
            calls[name] = call_of(session, feeds, self.how)
        given, repeats = self.manifest, max((file["repeats"] for file, *_ in opened.values()), default=0)
        tolerance = given["tolerance"] if given.get("tolerance") is not None else float("inf")
        turns = alternated(
            calls,
            given["warmup"],
            repeats,
            tolerance,
            told=lambda *done: _tell({"progress": done}),
            before=before_calls(self.found["calls"]),
        )
        return {name: [[round(each, DIGITS) for each in turn] for turn in found] for name, found in turns.items()}

    def _layers(self, opened: Mapping[str, Any]) -> Mapping[str, Any]:
        def clock(name: str) -> Any:
            file, path, feeds, session = opened[name]
            if file["times"] == "kernels":
                return KernelClock(lambda profile: open_session(path, self.how, profile), feeds)
            return CallClock(call_of(session, feeds, self.how))

        repeats = max((file["repeats"] for file, *_ in opened.values()), default=0)
        found = steady_samples(list(opened), clock, self.manifest["warmup"], repeats)
        return {name: [round(each, DIGITS) for each in times] for name, times in found.items()}


class Bar:
    """A progress bar, if a person looks at it.

    Args:
        whole: number of files.
    """

    def __init__(self, whole: int) -> None:
        self.whole, self.shown = whole, sys.stderr.isatty()

    def at(self, done: int) -> None:
        """Show how many files are done."""
        if self.shown:
            filled = 40 * done // max(self.whole, 1)
            sys.stderr.write(f"\r[{'#' * filled}{'.' * (40 - filled)}] {done} of {self.whole}")
            sys.stderr.flush()

    def close(self) -> None:
        """End the line."""
        if self.shown:
            sys.stderr.write("\n")


def tensor(given: Mapping[str, Any], rng: Any) -> Any:
    """Make an input: its values if the manifest has them, random ones of a floating-point type, or zeros.

    Args:
        given: name, shape and dtype of the input, and perhaps its values in one list.
        rng: generator of random numbers.
    """
    shape, dtype = tuple(given["shape"]), np.dtype(given["dtype"])
    if "values" in given:
        return np.array(given["values"], dtype).reshape(shape)
    return rng.standard_normal(shape).astype(dtype) if dtype.kind == "f" else np.zeros(shape, dtype)


def device() -> dict[str, str]:
    """Describe this device."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "machine": platform.machine(),
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    """Versions that determine the times."""
    return {"onnxruntime": str(importlib.import_module("onnxruntime").__version__)}


def _processor() -> str:
    found: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                key, _, value = line.partition(":")
                found.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    named = (found.get(key) for key in ("model name", "Hardware", "Model", "CPU part"))
    return next((name for name in named if name), platform.processor() or platform.machine())


def _read(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    if not isinstance(content, dict):
        raise Unusable(f"{os.path.basename(path)} holds no JSON object")
    return content


def _write(path: str, content: Mapping[str, Any]) -> None:
    """Write a file whole or not at all."""
    handle, name = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=".results.", suffix=".part")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(content, file)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.chmod(name, 0o644)
    os.replace(name, path)


def _tell(content: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()
