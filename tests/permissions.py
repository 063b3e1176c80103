"""Tests of permissions, which hold for the superuser too while it has laid down its right to pass over them."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

VERSION = 0x20080522
PASS_OVER = 0b110
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of Linux."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Permissions of files hold inside the block, whoever runs the tests."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "capget"):
        pytest.skip("the superuser passes over permissions here")
    header, data = _Header(VERSION, 0), (_Data * 2)()
    assert libc.capget(ctypes.byref(header), data) == 0
    before = data[0].effective
    data[0].effective = before & ~PASS_OVER
    assert libc.capset(ctypes.byref(header), data) == 0
    try:
        yield
    finally:
        data[0].effective = before
        assert libc.capset(ctypes.byref(header), data) == 0


@contextlib.contextmanager
def locked(folder: Path, mode: int = 0o555) -> Iterator[None]:
    """A folder and all that is in it cannot be written to inside the block."""
    paths = [folder, *folder.rglob("*")] if folder.is_dir() else [folder]
    modes = [(path, path.stat().st_mode) for path in paths]
    for path in paths[::-1]:
        path.chmod(mode if path.is_dir() else mode & ~0o111)
    try:
        with held():
            yield
    finally:
        for path, was in modes:
            path.chmod(was)
