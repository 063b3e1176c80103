"""ONNX Runtime, or any other program, on another device: reached by a command of the user's, or by a person."""

from __future__ import annotations

import dataclasses as dc
import math
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from edakari.core.far_side.sessions import PROVIDERS, How
from edakari.core.optional import require_packages
from edakari.core.watching import Steps
from edakari.errors import EdakariWarning, MeasurementError
from edakari.export.int8 import quantized_for_timing
from edakari.export.sized_onnx import NetworkFiles
from edakari.latency.layers import Layer
from edakari.latency.onnx_layers import onnx_layer
from edakari.latency.remote.answers import Answer, Device, Turns, each_answer, require_all
from edakari.latency.remote.folder import Quantize, Repeats, Request, layers_request, networks_request
from edakari.latency.remote.transport import Carried, Command, Transport
from edakari.latency.timing import RunSettings, Timing, timings_of

__all__ = ["OtherDevice", "carry_runtime", "command_runtime"]

Point = tuple[Layer, tuple[int, ...]]

MOST_LAYERS = 480
"""Largest number of layers in one folder: few round trips, and little is lost where a command answers at the end."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PROBE = "probe"


def command_runtime(
    command: str | None = None,
    device_name: str | None = None,
    timeout: float = 600.0,
    provider: str = "cpu",
    provider_options: Mapping[str, Any] | None = None,
) -> OtherDevice:
    """Return the runtime behind a command; for the arguments see `edakari.latency.options.RuntimeOptions`."""
    transport = Command(command or "", timeout)
    return OtherDevice(transport, device_name or "", "command", provider, dict(provider_options or {}))


def carry_runtime(
    folder: str | None = None,
    device_name: str | None = None,
    provider: str = "cpu",
    provider_options: Mapping[str, Any] | None = None,
) -> OtherDevice:
    """Return the runtime behind a folder; for the arguments see `edakari.latency.options.RuntimeOptions`."""
    transport = Carried(Path(folder or ""))
    return OtherDevice(transport, device_name or "", "folder", provider, dict(provider_options or {}))


@dc.dataclass
class OtherDevice:
    """A runtime on another device; a `RemoteRuntime`.

    Args:
        transport: way to the device.
        device_name: name of the device.
        option: name of the option that says the way, for errors.
        provider: execution provider that the device's ONNX Runtime is to use.
        provider_options: options of the provider.
        seen: what a table's key says of the device; None before it was asked.
        answered: what the device said of itself in its answers so far; None if it said nothing.
        written: ONNX models of the networks that it was given.
    """

    transport: Transport
    device_name: str
    option: str = "command"
    provider: str = "cpu"
    provider_options: Mapping[str, Any] = dc.field(default_factory=dict)
    seen: Device | None = None
    answered: Device | None = None
    kernels_only: bool = True
    precisions: tuple[str, ...] = ("fp32", "int8")
    written: NetworkFiles = dc.field(default_factory=NetworkFiles)

    @property
    def name(self) -> str:
        """See `Runtime.name`."""
        return self.device_name or self.option

    @property
    def layers(self) -> bool:
        """See `RemoteRuntime.layers`: only ONNX Runtime's own kernels on the CPU have times in its profile."""
        return self.provider == "cpu"

    def own_settings(self) -> dict[str, Any]:
        """Settings that determine its times, for the key of a table."""
        return {"provider": self.provider, "provider_options": dict(self.provider_options)}

    def check(self, settings: RunSettings) -> None:
        """See `Runtime.check`; the device itself is not asked."""
        require_packages("onnx", "timing on another device", "onnx", "onnxscript")
        found = [f"{self.option} {text}" for text in self.transport.faults()]
        if not NAME.fullmatch(self.device_name):
            found.append(
                "device_name must name the device in letters, digits, '.', '_' and '-', such as pi4, found "
                f"{self.device_name!r}"
            )
        asked = (settings.precision, settings.memory_format, settings.device)
        if asked[0] not in self.precisions or asked[1:] != ("contiguous", "cpu"):
            found.append(
                "another device gets networks in fp32 or int8, and `provider` says what runs them there, but was asked "
                f"for precision {asked[0]!r}, memory format {asked[1]!r}, device {asked[2]!r}; leave these as they are"
            )
        if found:
            raise MeasurementError("; ".join(found))

    def versions(self) -> Mapping[str, str]:
        """See `Runtime.versions`."""
        return self._device().versions

    def hardware(self) -> Mapping[str, str]:
        """See `RemoteRuntime.hardware`."""
        return {"device": self.device_name, **self._device().hardware}

    def _device(self) -> Device:
        """What the device says of itself when it times a tiny file; a device to which a person goes is not asked."""
        if self.seen is None:
            self.check(RunSettings())
            if isinstance(self.transport, Command):
                with tempfile.TemporaryDirectory() as folder:
                    point = {PROBE: (Layer("chain"), (8,))}
                    request = layers_request(point, self._how(RunSettings()), Repeats(0, 1), Path(folder))
                    list(self._answers(request))
            self.seen = self.answered or Device({}, {})
        return self.seen

    def time_networks(
        self, networks: Mapping[str, nn.Module], example: Any, settings: RunSettings, repeats: int, tolerance: float
    ) -> dict[str, Timing]:
        """See `RemoteRuntime.time_networks`."""
        self._device()
        files = {name if NAME.fullmatch(name) else f"network-{at}": name for at, name in enumerate(networks)}
        wanted = Repeats(settings.warmup, repeats, tolerance if math.isfinite(tolerance) else None, settings.calls)
        turns: dict[str, Turns] = {}
        with tempfile.TemporaryDirectory() as folder:
            sent = {file: networks[name] for file, name in files.items()}
            request = networks_request(
                sent, example, self._how(settings), wanted, Path(folder), self._quantize(settings), self.written
            )
            steps = Steps(f"timing on {self.device_name}", 1)
            for answer in self._answers(request):
                turns.update(answer.times)
                self._warn(answer)
                if answer.progress is not None:
                    done, steps.whole = answer.progress
                    steps.at(done)
        zero = [name for name, each in turns.items() if not min(map(min, each)) > 0]
        if zero:
            raise MeasurementError(
                f"{self.name} says that the network {zero[0]!r} takes 0 ms, so nothing was timed there"
            )
        timings = timings_of(_alike({file: turns[file] for file in files}))
        return {name: timings[file] for file, name in files.items()}

    def time_layers(
        self, points: Sequence[Point], settings: RunSettings, repeats: int
    ) -> Iterator[Mapping[Point, Sequence[float]]]:
        """See `RemoteRuntime.time_layers`."""
        self._device()
        most = MOST_LAYERS if isinstance(self.transport, Command) else max(len(points), 1)
        for first in range(0, len(points), most):
            for times, _ in self._layers(points[first : first + most], settings, repeats):
                if times:
                    yield times

    def layer_seconds(self, points: Sequence[Point], settings: RunSettings, repeats: int) -> float:
        """See `RemoteRuntime.layer_seconds`; 0 where nobody knows, as for a folder that a person carries."""
        if not isinstance(self.transport, Command):
            return 0.0
        return sum(seconds or 0.0 for _, seconds in self._layers(points, settings, repeats))

    def _layers(
        self, points: Sequence[Point], settings: RunSettings, repeats: int
    ) -> Iterator[tuple[Mapping[Point, Sequence[float]], float | None]]:
        """Yield the times of the calls of layers as they come, and how long the device took, s, if it says it."""
        named = {f"layer-{at:04}": point for at, point in enumerate(points)}
        empty = {name for name, (layer, widths) in named.items() if not onnx_layer(layer, widths).model}
        if empty:  # ONNX has no operator for them
            yield {named[name]: [0.0] for name in empty}, 0.0
        sent = {name: point for name, point in named.items() if name not in empty}
        if not sent:
            return
        with tempfile.TemporaryDirectory() as folder:
            request = layers_request(
                sent,
                self._how(settings),
                Repeats(settings.warmup, repeats),
                Path(folder),
                self._quantize(settings, layer=True),
            )
            for answer in self._answers(request):
                times = {named[name]: [each for turn in found for each in turn] for name, found in answer.times.items()}
                if times or answer.seconds:
                    yield times, answer.seconds

    def _answers(self, request: Request) -> Iterator[Answer]:
        """Yield the answers to a request; all of it is timed, by the device that was seen first.

        Raises:
            MeasurementError: it is not; says what is wrong.
        """
        timed: set[str] = set()
        failed: dict[str, str] = {}
        calls = "steady"
        try:
            for answer in each_answer(self.transport.lines(request), request.names):
                if answer.request not in (None, request.id):
                    raise MeasurementError(f"these are results of another folder, {answer.request}; delete them")
                self._require_same(answer.device)
                calls = answer.calls or calls
                timed |= set(answer.times)
                failed.update(answer.failed)
                yield answer
        except MeasurementError as error:
            if type(error) is not MeasurementError:  # it says all by itself
                raise
            if not failed:
                raise MeasurementError(f"{self.option} of {self.device_name}: {error}. {_kept(timed)}") from error
        if failed:
            name, why = next(iter(failed.items()))
            raise MeasurementError(f"{name}.onnx does not run on {self.device_name}: {why}. {_kept(timed)}")
        require_all(request.names, dict.fromkeys(timed), self.device_name)
        if calls != request.calls:
            raise MeasurementError(
                f"{self.device_name} timed {calls} calls, but was asked for {request.calls} ones; let the command run "
                'the bench.py of the folder, or print {"calls": "' + request.calls + '"} if it times such calls'
            )

    def _require_same(self, device: Device | None) -> None:
        if device is not None and self.answered is not None and device != self.answered:
            raise MeasurementError(
                f"another device than before answers: {_told(device)}, not {_told(self.answered)}; times of two "
                "devices are not mixed, so give each a device_name of its own"
            )
        self.answered = device or self.answered

    def _how(self, settings: RunSettings) -> How:
        return How(settings.threads, self.provider, dict(self.provider_options))

    def _quantize(self, settings: RunSettings, layer: bool = False) -> Quantize:
        """A function that quantises models as the precision asks for it, like those that are exported here."""
        if settings.precision != "int8":
            return bytes
        full = PROVIDERS.get(self.provider.lower(), self.provider)
        excluded = () if layer else settings.exclude
        return lambda model: quantized_for_timing(model, excluded, full, layer=layer)

    def _warn(self, answer: Answer) -> None:
        for name, nodes in answer.on_cpu.items():
            warnings.warn(
                f"{len(nodes)} nodes of the network {name!r} run on the CPU of {self.name} instead of "
                f"{self.provider}: {', '.join(nodes[:5])}{', …' if len(nodes) > 5 else ''}",
                EdakariWarning,
                stacklevel=4,
            )


def _alike(turns: Mapping[str, Turns]) -> Mapping[str, Turns]:
    """The turns; one turn for each network if a program of the user's has timed one more often than another."""
    if len({len(each) for each in turns.values()}) == 1:
        return turns
    return {name: [[time for turn in each for time in turn]] for name, each in turns.items()}


def _told(device: Device) -> str:
    return ", ".join(f"{key} {value}" for key, value in {**device.hardware, **device.versions}.items())


def _kept(timed: set[str]) -> str:
    return (
        f"The {len(timed)} times that came before are kept if they are of layers; run again to continue"
        if timed
        else ("Run again when this is mended")
    )
