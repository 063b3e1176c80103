"""Jobs of several processes in which one fails or dies, each with another state of the others."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from edakari.core.processes import Processes
from edakari.errors import DataError, InfeasibleBudget, ProcessError


def job(case: str, folder: str) -> None:
    """What each process does; it writes what it prints and ends with to a file."""
    dist.init_process_group("gloo")
    here = Processes.here()
    with open(Path(folder) / str(here.rank), "w", encoding="utf-8") as told:
        sys.stderr = told
        try:
            with here.ending_together():
                CASES[case](here)
        except BaseException as error:
            told.write(f"{type(error).__name__}: {error}\n")
            raise


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise(error: Exception) -> None:
    raise error


def _killed_in_a_collective(here: Processes) -> None:
    with pytest.raises(DataError, match="no table"):
        here.from_main(lambda: _raise(DataError("no table")))
    with pytest.raises(Exception, match="no size"):  # whose class takes more than a text
        here.from_main(lambda: _raise(InfeasibleBudget("no size", {"macs": 1.0})))
    with pytest.raises(ProcessError if here.rank else OSError, match="no disk"):
        here.from_main(lambda: _raise(OSError("no disk")))
    assert here.from_main(lambda: here.rank) == 0
    if here.rank == 1:
        _die()
    here.reduced(torch.zeros(1))


def _killed_while_others_wait(here: Processes) -> None:
    if here.rank == 1:
        _die()
    here.wait()


def _killed_while_main_works(here: Processes) -> None:
    if here.rank == 1:
        _die()
    here.from_main(lambda: time.sleep(100))


def _main_killed(here: Processes) -> None:
    here.from_main(_die)


def _raised(here: Processes) -> None:
    here.wait()  # the main process is past its own look for faults
    if here.rank == 1:
        raise DataError("no such image\nand more about it")
    time.sleep(100)  # as in a call that nothing interrupts


CASES = {
    "in a collective": _killed_in_a_collective,
    "waiting": _killed_while_others_wait,
    "main works": _killed_while_main_works,
    "main": _main_killed,
    "raised": _raised,
}
