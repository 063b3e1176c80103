"""Processes end together: real ones are killed, and the others say who it was."""

from __future__ import annotations

import re
import socket
import threading
from pathlib import Path

import pytest
import torch.distributed as dist

from edakari.core import connections
from edakari.core.connections import Line, accepted, connected, listening
from edakari.core.processes import TIMEOUT, time_limit
from edakari.errors import ProcessError, SettingsError
from tests.core import failing
from tests.together import ends

DIED = r"process {} of 2 \(pid \d+ on .+\) has ended without a word"


@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
@pytest.mark.parametrize(
    ("case", "bad", "said"),
    [
        ("in a collective", 1, f"ProcessError: {DIED.format(1)}"),
        pytest.param("waiting", 1, f"ProcessError: {DIED.format(1)}", marks=pytest.mark.slow),
        pytest.param("main works", 1, f"Error: {DIED.format(1)}.*all processes end", marks=pytest.mark.slow),
        pytest.param("main", 0, f"ProcessError: {DIED.format(0)}", marks=pytest.mark.slow),
        pytest.param("raised", 1, r"Error: process 1 .* failed: DataError: no such image;", marks=pytest.mark.slow),
    ],
)
def test_if_one_process_ends_all_do_and_its_name_is_told(case: str, bad: int, said: str, tmp_path: Path) -> None:
    found = ends(failing.job, case, str(tmp_path))
    assert found[bad][0] == (1 if case == "raised" else -9)
    assert found[1 - bad][0] == 1
    assert max(seconds for _, seconds in found) < 60
    assert re.search(said, (tmp_path / str(1 - bad)).read_text(encoding="utf-8"))


def test_strangers_and_silent_connections_are_no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HELLO", 0.2)
    with listening(2) as (server, offer):
        address = ("127.0.0.1", offer.port)
        with socket.create_connection(address), socket.create_connection(address) as rude:
            rude.sendall(b"GET / HTTP/1.1\n")
            mine: list[Line] = []
            joining = threading.Thread(target=lambda: mine.append(connected(offer, 1, "the second")))
            joining.start()
            lines, names = accepted(server, offer, [1])
            joining.join()
    assert names == {1: "the second"}
    lines[1].send("go", 1)
    assert next(mine[0].messages()) == ["go", 1]
    lines[1].close()
    assert list(mine[0].messages()) == []
    mine[0].close()


def test_a_process_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECT", 0.2)
    missing = pytest.raises(ProcessError, match=r"processes \[1, 2\] have not connected")
    with listening(3) as (server, offer), missing:
        accepted(server, offer, [1, 2])
    with pytest.raises(ProcessError, match=r"cannot be reached.*set MASTER_ADDR"):
        connected(offer, 1, "the second")


def test_the_time_limit_is_hours_and_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TIMEOUT, raising=False)
    assert time_limit().total_seconds() == 12 * 3600
    monkeypatch.setenv(TIMEOUT, "0.5")
    assert time_limit().total_seconds() == 1800
    for wrong in ("soon", "-1", "nan", "1e9"):
        monkeypatch.setenv(TIMEOUT, wrong)
        with pytest.raises(SettingsError, match=f"{TIMEOUT}.*{wrong}"):
            time_limit()
