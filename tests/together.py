"""Functions in processes of their own: in several together, as a launcher would start them, or in one alone."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

import torch

SECONDS = 150
_METHODS = multiprocessing.get_all_start_methods()
# forked from a process that has imported much and computed nothing: a fork of this one would inherit autograd's threads
_CONTEXT: Any = multiprocessing.get_context("forkserver" if "forkserver" in _METHODS else "spawn")
if "forkserver" in _METHODS:
    _CONTEXT.set_forkserver_preload(["accelerate", "timm", "torchvision.ops", "edakari.testing", "edakari.train"])


def together(function: Callable[..., None], *arguments: Any, world: int = 2) -> None:
    """Run a function in each of several processes on the CPU, and wait for all of them.

    Args:
        function: of a module; that is imported anew in each process, after the process knows its rank.
        arguments: of the function.
        world: how many processes.

    Raises:
        AssertionError: one failed; with its traceback.
    """
    workers, pipes = _started(function, arguments, world)
    waiting = {found: rank for rank, (found, _) in enumerate(pipes)}
    try:
        while waiting:
            ready = wait(list(waiting), SECONDS)
            assert ready, f"processes {sorted(waiting.values())} take longer than {SECONDS} seconds"
            for found in ready:
                said = _said(found)
                assert not said, f"process {waiting[found]} failed:\n{said}"
                del waiting[found]
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def ends(function: Callable[..., None], *arguments: Any, world: int = 2) -> list[tuple[int, float]]:
    """Run a function in each of several processes on the CPU, of which some fail or are killed.

    Args:
        function: of a module; that is imported anew in each process, after the process knows its rank.
        arguments: of the function.
        world: how many processes.

    Returns:
        How each process ended, 0 or -9 where it was killed, and how many seconds after the first one, by rank.
    """
    workers, _ = _started(function, arguments, world)
    sentinels = {worker.sentinel: rank for rank, worker in enumerate(workers)}
    ended, found, until = list(sentinels), dict[int, float](), time.monotonic() + SECONDS
    while ended and sentinels:
        ended = wait(list(sentinels), max(0.0, until - time.monotonic()))
        found |= {sentinels.pop(each): time.monotonic() for each in ended}
    for rank in sentinels.values():
        workers[rank].kill()
    assert not sentinels, f"processes {sorted(sentinels.values())} take longer than {SECONDS} seconds"
    for worker in workers:
        worker.join()
    first = min(found.values())
    return [(int(worker.exitcode), found[rank] - first) for rank, worker in enumerate(workers)]


def _started(function: Callable[..., None], arguments: tuple[Any, ...], world: int) -> tuple[list[Any], list[Any]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes = [_CONTEXT.Pipe(duplex=False) for _ in range(world)]
    name = (function.__module__, function.__qualname__)
    workers = [
        _CONTEXT.Process(target=_call, args=(_variables(rank, world, port), name, arguments, pipe[1]), daemon=True)
        for rank, pipe in enumerate(pipes)
    ]
    for worker, (_, end) in zip(workers, pipes, strict=True):
        worker.start()
        end.close()  # so that a process that dies without a word is noticed
    return workers, pipes


def apart(function: Callable[..., None], *arguments: Any) -> tuple[int, str]:
    """Run a function in one process, which may be killed.

    Args:
        function: of a module.
        arguments: of the function.

    Returns:
        How the process ended, 0 or -9 where it was killed, and the traceback of what the function raised.
    """
    found, end = _CONTEXT.Pipe(duplex=False)
    name = (function.__module__, function.__qualname__)
    worker = _CONTEXT.Process(target=_call, args=(dict(os.environ), name, arguments, end), daemon=True)
    worker.start()
    end.close()
    said = _said(found) if found.poll(SECONDS) else None
    worker.join(SECONDS if said is not None else 0)
    if worker.is_alive():
        worker.kill()
        worker.join()
    assert said is not None, f"the process takes longer than {SECONDS} seconds"
    return int(worker.exitcode), said


def _said(found: Any) -> str:
    try:
        return str(found.recv())
    except EOFError:
        return "it ended without a word"


def _variables(rank: int, world: int, port: int) -> dict[str, str]:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    own = {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
    return {**os.environ, **own, **{key: str(value) for key, value in numbers.items()}}


def _call(variables: dict[str, str], name: tuple[str, str], arguments: tuple[Any, ...], end: Any) -> None:
    os.environ.clear()  # it has those that its own starter had when it was started
    os.environ.update(variables)
    torch.set_num_threads(1)
    try:
        getattr(importlib.import_module(name[0]), name[1])(*arguments)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    except BaseException:
        end.send(traceback.format_exc())
        raise
    end.send("")
