"""What a device answers: times in ms, as edakari's script prints them, or as a script of the user's does."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edakari.core.far_side.bench import RESULTS_FORMAT
from edakari.core.reading import Unreadable, parse_json
from edakari.errors import MeasurementError

__all__ = ["Answer", "Device", "Turns", "answer_in", "require_all", "turns_in"]

Turns = Sequence[Sequence[float]]
"""Times of the calls of each turn, ms."""

KEYS = frozenset({"format", "times", "progress", "failed", "on_cpu", "seconds", "device", "versions", "calls"})
MOST_CALLS = 10_000_000


@dc.dataclass(frozen=True)
class Device:
    """Who timed.

    Args:
        hardware: the device in words.
        versions: versions of its runtime.
    """

    hardware: Mapping[str, str]
    versions: Mapping[str, str]


@dc.dataclass(frozen=True)
class Answer:
    """A part of what a device answers.

    Args:
        times: times by name.
        device: who timed; None if it is not told.
        failed: why a file does not run there, by name.
        on_cpu: nodes that run on the CPU instead of the provider that was asked for, by name.
        seconds: how long the device timed; None if it is not told.
        request: digest of the request that is answered; None if it is not told.
        progress: number of finished rounds and of all rounds; None if it is not told.
        calls: how calls followed each other; None if it is not told.
    """

    times: Mapping[str, Turns] = dc.field(default_factory=dict)
    device: Device | None = None
    failed: Mapping[str, str] = dc.field(default_factory=dict)
    on_cpu: Mapping[str, Sequence[str]] = dc.field(default_factory=dict)
    seconds: float | None = None
    request: str | None = None
    progress: tuple[int, int] | None = None
    calls: str | None = None


def answer_in(text: str, names: Sequence[str]) -> Answer | None:
    """Read an answer; None if the text is no JSON object.

    Args:
        text: a line of a command's output, or the whole output.
        names: names of the files to time.

    Raises:
        MeasurementError: it is an answer that makes no sense; says why.
    """
    stripped = text.strip()
    if not stripped.startswith("{"):
        return None
    try:
        found = parse_json(stripped, brackets=MOST_CALLS)
    except Unreadable:
        return None
    return answer_of(found if KEYS & found.keys() else {"times": found}, names)


def answer_of(found: Mapping[str, Any], names: Sequence[str]) -> Answer:
    """Make an answer of the content of a JSON object; see `answer_in`."""
    device = None
    if isinstance(found.get("device"), Mapping) and isinstance(found.get("versions"), Mapping):
        device = Device(_texts(found["device"]), _texts(found["versions"]))
    seconds = found.get("seconds")
    return Answer(
        turns_in(found.get("times", {}), names),
        device,
        _texts(found.get("failed", {})),
        {str(name): [str(each) for each in nodes] for name, nodes in dict(found.get("on_cpu", {})).items()},
        float(seconds) if isinstance(seconds, int | float) and math.isfinite(seconds) else None,
        str(found["manifest"]) if found.get("format") == RESULTS_FORMAT else None,
        _progress(found.get("progress")),
        str(found["calls"]) if "calls" in found else None,
    )


def _progress(told: Any) -> tuple[int, int] | None:
    """Numbers of finished rounds and of all rounds; a program of the user's may say other things by this word."""
    if isinstance(told, list) and len(told) == 2 and all(type(each) is int for each in told):
        return told[0], told[1]
    return None


def turns_in(times: Any, names: Sequence[str]) -> dict[str, Turns]:
    """Read times: for each name a number, the times of its calls, or those of the calls of each turn, in ms.

    Args:
        times: content of the answer.
        names: names of the files to time; they may end in `.onnx` in the answer.

    Raises:
        MeasurementError: a name is unknown, or a time is no number of milliseconds.
    """
    if not isinstance(times, Mapping):
        raise MeasurementError(f"times must be a JSON object from names to times in ms, found {_short(times)}")
    found: dict[str, Turns] = {}
    for given, value in times.items():
        name = given if given in names else str(given).removesuffix(".onnx")
        if name not in names:
            raise MeasurementError(f"it gives a time of {given!r}, but no such file was to be timed")
        found[name] = _turns(name, value)
    return found


def _turns(name: str, value: Any) -> Turns:
    if isinstance(value, int | float):
        value = [[value]]
    if isinstance(value, list) and value and not any(isinstance(each, list) for each in value):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(turn, list) and turn for turn in value):
        raise MeasurementError(f"the times of {name!r} must be a number or a list of numbers, found {_short(value)}")
    for turn in value:
        for each in turn:
            if isinstance(each, bool) or not isinstance(each, int | float) or not 0 <= each < math.inf:
                raise MeasurementError(f"a time of {name!r} must be a number of ms from 0 on, found {_short(each)}")
    return value


def require_all(names: Sequence[str], timed: Mapping[str, Any], where: str) -> None:
    """Refuse answers that leave files out.

    Args:
        names: names of the files to time.
        timed: what was timed, by name.
        where: name of the device.

    Raises:
        MeasurementError: a file was not timed.
    """
    missing = [name for name in names if name not in timed]
    if missing:
        some = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise MeasurementError(
            f"{where} timed {len(names) - len(missing)} of {len(names)} files; missing: {some}. What it timed is kept "
            "where it is a layer; see that the command times every file in the manifest, and run again"
        )


def each_answer(lines: Iterator[str], names: Sequence[str]) -> Iterator[Answer]:
    """Read answers as they come; if no line alone is one, the whole text is read as one.

    Args:
        lines: lines of a command's output.
        names: names of the files to time.

    Raises:
        MeasurementError: there is no answer, or one makes no sense.
    """
    others: list[str] = []
    length, any_answer = 0, False
    for line in lines:
        answer = answer_in(line, names)
        if answer is not None:
            any_answer = True
            yield answer
        elif length < MOST_CALLS:
            others.append(line)
            length += len(line)
    if not any_answer:
        whole = answer_in("".join(others), names)
        if whole is None:
            text = " ".join("".join(others).split())
            said = f"its output begins with {text[:100]!r}" if text else "it printed nothing"
            raise MeasurementError(
                f'it printed no times: print JSON such as {{"{names[0] if names else "dense"}": 12.3}}, in ms; {said}'
            )
        yield whole


def _texts(value: Any) -> dict[str, str]:
    return {str(key): str(each) for key, each in value.items()} if isinstance(value, Mapping) else {}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
