"""How a request comes to a device, and its answer back: by a command of the user's, or carried by hand."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import os
import queue
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from edakari.core.far_side.bench import RESULTS
from edakari.core.file_errors import file_errors
from edakari.core.reading import Unreadable, read_text
from edakari.errors import MeasurementError
from edakari.latency.remote.folder import SCRIPT, Request

__all__ = ["Carried", "Command", "Transport", "WaitsForResults"]

FOLDER = "{folder}"
LINE_BYTES = 256 * 2**20


class WaitsForResults(MeasurementError):
    """A folder waits to be carried to the device; the message says where it is, and what to do."""


class Transport(Protocol):
    """Takes a request to a device."""

    def faults(self) -> list[str]:
        """Find what is wrong with it before anything is sent."""

    def lines(self, request: Request) -> Iterator[str]:
        """Yield the lines of the answer as they come.

        Raises:
            MeasurementError: there is no answer; says why.
        """


@dc.dataclass(frozen=True)
class Command:
    """A command line that gets the folder.

    Args:
        text: the command line; it is split as a shell does it, but no shell runs it. `{folder}` stands for the folder.
        timeout: largest time without a line of output, s.
    """

    text: str
    timeout: float

    def faults(self) -> list[str]:
        """See `Transport`."""
        try:
            words = shlex.split(self.text)
        except ValueError as error:
            return [f"cannot be split into words: {error}, in {self.text!r}"]
        if not words:
            return ['is missing; it is a command line such as "./on_pi.sh {folder}"']
        found = []
        if FOLDER not in self.text:
            found.append(f"does not say where the folder goes; write {FOLDER} into it, found {self.text!r}")
        if shutil.which(words[0]) is None:
            found.append(f"begins with {words[0]!r}, but there is no such program here")
        return found

    def lines(self, request: Request) -> Iterator[str]:
        """See `Transport`."""
        words = [word.replace(FOLDER, str(request.folder)) for word in shlex.split(self.text)]
        with tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
                )
            except OSError as error:
                raise MeasurementError(f"it cannot be started: {error}") from error
            answered = False
            try:
                for line in self._read(process):
                    answered = answered or line.lstrip().startswith("{")
                    yield line
            finally:
                _end(process)
            if process.returncode:
                raise MeasurementError(f"it failed with exit status {process.returncode}: {_last_line(errors)}")
        written = request.folder / RESULTS
        if not answered and written.is_file():
            yield _content(written)

    def _read(self, process: subprocess.Popen[bytes]) -> Iterator[str]:
        lines: queue.Queue[bytes] = queue.Queue()
        assert process.stdout is not None
        threading.Thread(target=_forward, args=(process.stdout, lines), daemon=True).start()
        while True:
            try:
                line = lines.get(timeout=self.timeout)
            except queue.Empty:
                raise MeasurementError(
                    f"it printed nothing for {self.timeout:g} s and was stopped; see whether the device answers, or "
                    "raise latency.timeout"
                ) from None
            if not line:
                break
            yield line.decode("utf-8", errors="replace")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.timeout)


@dc.dataclass(frozen=True)
class Carried:
    """A folder that a person carries to the device, and back with the results.

    Args:
        folder: folder on this machine; each request becomes a folder inside of it.
    """

    folder: Path

    def faults(self) -> list[str]:
        """See `Transport`."""
        if self.folder.exists() and not self.folder.is_dir():
            return [f"is {str(self.folder)!r}, which is no folder; name another one"]
        return []

    def lines(self, request: Request) -> Iterator[str]:
        """See `Transport`."""
        there = self.folder / request.id
        results = there / RESULTS
        if results.is_file():
            yield _content(results)
            return
        with file_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not there.exists():
                shutil.copytree(request.folder, there)
            shutil.copyfile(there / SCRIPT, self.folder / SCRIPT)
        raise WaitsForResults(
            f"{self.folder} waits to be timed. Copy it to the device, run `python3 {SCRIPT} .` in it there, copy "
            f"{request.id}/{RESULTS} back to {results}, and give the same command again."
        )


def _content(path: Path) -> str:
    try:
        return read_text(path, LINE_BYTES).replace("\n", " ")
    except (Unreadable, OSError) as error:
        raise MeasurementError(f"{path} cannot be read: {error}; delete it and time again") from error


def _forward(stream: IO[bytes], lines: queue.Queue[bytes]) -> None:
    """Put lines into a queue, and an empty one at the end."""
    with contextlib.suppress(ValueError, OSError), stream:
        while line := stream.readline(LINE_BYTES):
            lines.put(line)
    lines.put(b"")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command with the programs that it has started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        process.wait()


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - 4096))
    lines = [line for line in errors.read().decode("utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it printed no error"
