"""The table of measured layers: a JSON file for each machine, runtime, version and settings, shared by all runs.

A file is trusted only if it says what it is, has the right structure, and was made on this machine.
"""

from __future__ import annotations

import dataclasses as dc
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Interval

from edakari.core.files import json_text, write_text
from edakari.core.graph import Graph
from edakari.core.reading import Unreadable, read_bytes
from edakari.errors import MeasurementError
from edakari.export.int8 import int8_instructions
from edakari.latency.cache import cache_folder
from edakari.latency.layers import AXES, Layer
from edakari.latency.timing import RemoteRuntime, RunSettings, Runtime

__all__ = [
    "Fit",
    "Key",
    "Point",
    "Sample",
    "Table",
    "extended",
    "hardware",
    "key_of",
    "network_key",
    "open_table",
]

FORMAT, VERSION = "edakari latency table", 1

Point = tuple[Layer, tuple[int, ...]]
"""A layer, and one width for each of its axes."""

Milliseconds = Annotated[float, Ge(0)]
Count = Annotated[int, Ge(1)]


@dc.dataclass(frozen=True, slots=True)
class Sample:
    """Latency of a layer at one point.

    Args:
        minimum_ms: time of the fastest call, ms.
        median_ms: median over the calls, ms.
        spread_ms: interquartile range, ms.
        repeats: number of timed calls.
    """

    minimum_ms: Milliseconds
    median_ms: Milliseconds
    spread_ms: Milliseconds
    repeats: Count


@dc.dataclass(frozen=True, slots=True)
class Fit:
    """Result of calibrating a network.

    Its latency is `constant_ms`, plus `scale` times the sum of its layers, plus `weights_ms` times its millions of
    weights: networks with many weights take longer than their layers together.

    The errors are those of networks that were left out of the fit, one at a time.

    Args:
        constant_ms: time of every call that does not depend on sizes, ms.
        scale: factor of the layers' times.
        networks: number of measured networks.
        median_error: median error of the predictions, as a fraction of the measured latency.
        worst_error: largest error, as a fraction of the measured latency.
        rank_correlation: Spearman's correlation between predicted and measured latencies.
        weights_ms: additional time per million weights, ms.
    """

    constant_ms: float
    scale: Annotated[float, Gt(0)]
    networks: Count
    median_error: Milliseconds
    worst_error: Milliseconds
    rank_correlation: Annotated[float, Interval(ge=-1, le=1)]
    weights_ms: Milliseconds = 0.0


@dc.dataclass(frozen=True)
class Key:
    """What determines the times in a table.

    Args:
        hardware: hardware that ran the layers.
        runtime: name of the runtime.
        versions: versions of the runtime.
        settings: settings of the runtime. The batch size is a part of each layer.
    """

    hardware: Mapping[str, str]
    runtime: str
    versions: Mapping[str, str]
    settings: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Short digest for the name of the file."""
        return hashlib.sha256(json.dumps(dc.asdict(self), sort_keys=True).encode()).hexdigest()[:12]


@dc.dataclass(frozen=True)
class Table:
    """Measured layers.

    Args:
        path: path of the file.
        key: what determines the times.
        samples: latency of each point.
        fits: results of calibrations, by `network_key`.
    """

    path: Path
    key: Key
    samples: Mapping[Point, Sample] = dc.field(default_factory=dict)
    fits: Mapping[str, Fit] = dc.field(default_factory=dict)


def hardware(device: str = "cpu") -> dict[str, str]:
    """Describe the hardware that runs layers here.

    Args:
        device: "cpu", or a CUDA device.
    """
    found = {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    if torch.device(device).type == "cuda":
        found["accelerator"] = torch.cuda.get_device_name(device)
    return found


def key_of(runtime: Runtime, settings: RunSettings) -> Key:
    """Return the key of a runtime's tables: on this machine, or on the device of a `RemoteRuntime`.

    A runtime with settings of its own that determine its times returns them as a mapping from `own_settings`.

    Raises:
        MeasurementError: the runtime is not installed, or its device does not answer.
    """
    there = dict(runtime.hardware() if isinstance(runtime, RemoteRuntime) else hardware(settings.device))
    own: Mapping[str, Any] = runtime.own_settings() if hasattr(runtime, "own_settings") else {}
    asked = dc.asdict(settings)
    excluded = asked.pop("exclude")
    if settings.calls == "steady":  # so that tables from before there was a choice stay
        del asked["calls"]
    if settings.precision == "int8":
        asked["exclude"] = list(excluded)
        if not isinstance(runtime, RemoteRuntime):
            there["int8"] = " ".join(int8_instructions())
    return Key(there, runtime.name, dict(runtime.versions()), {**asked, **own})


def open_table(key: Key, folder: Path | None = None) -> Table:
    """Read the table of a key; it is empty if there is no file yet.

    Args:
        key: what determines the times.
        folder: folder of latency tables; None selects `cache_folder()`.

    Raises:
        MeasurementError: the file is damaged, or was made on another machine.
    """
    path = (folder or cache_folder()) / f"{key.runtime}-{key.digest}.json"
    return _read(path, key) if path.exists() else Table(path, key)


def network_key(graph: Graph) -> str:
    """Key of a network's calibration: it is the same for equal networks on inputs of the same shape."""
    return hashlib.sha256(json.dumps([graph.fingerprint, graph.inputs]).encode()).hexdigest()[:16]


def extended(table: Table, samples: Mapping[Point, Sample], fits: Mapping[str, Fit] | None = None) -> Table:
    """Add entries to a table and its file; entries that other processes added in the meantime are kept.

    Args:
        table: table to extend; it does not change.
        samples: new points, or known points that were timed again.
        fits: new calibrations, by `network_key`.
    """
    there = open_table(table.key, table.path.parent)
    found = dc.replace(
        table,
        samples={**table.samples, **there.samples, **samples},
        fits={**table.fits, **there.fits, **(fits or {})},
    )
    layers: dict[Layer, list[Any]] = {}
    for (layer, widths), sample in found.samples.items():
        layers.setdefault(layer, []).append([list(widths), *dc.astuple(sample)])
    lines = [
        json_text(
            {"layer": [layer.kind, dict(layer.settings), layer.tail], "points": points},
            str(table.path),
            separators=(",", ":"),
        )
        for layer, points in layers.items()
    ]
    fits_by_name = {name: dc.asdict(fit) for name, fit in found.fits.items()}
    content = {"format": FORMAT, "version": VERSION, "key": dc.asdict(table.key), "fits": fits_by_name}
    head = json_text(content, str(table.path), indent=1)
    write_text(table.path, head.removesuffix("\n}") + ',\n "layers": [\n' + ",\n".join(lines) + "\n]}\n")
    return found


TABLE_BYTES = 256 * 2**20
"""Largest size of the file in bytes; each measured network adds some hundred bytes per width."""


def _read(path: Path, key: Key) -> Table:
    # imported here, so that plans by counted costs do not need pydantic
    from edakari.latency.table_file import TableFile, first_fault

    try:
        file = TableFile.model_validate_json(read_bytes(path, TABLE_BYTES))
    except Unreadable as error:
        raise _refused(path, str(error)) from error
    except ValueError as error:
        raise _refused(path, first_fault(error)) from error
    found = Key(**file.key.model_dump())
    for name in ("hardware", "runtime", "versions", "settings"):
        if getattr(found, name) != getattr(key, name):
            raise _refused(path, f"it was made with {name} {getattr(found, name)}, here it is {getattr(key, name)}")
    samples = {}
    for entry in file.layers:
        layer = _layer(path, entry.layer)
        for widths, minimum, median, spread, repeats in entry.points:
            if len(widths) != len(layer.axes):
                raise _refused(path, f"{layer} has {len(layer.axes)} widths, but a point has {widths}")
            samples[layer, tuple(widths)] = Sample(minimum, median, spread, repeats)
    return Table(path, key, samples, file.fits)


def _layer(path: Path, content: tuple[str, dict[str, Any], list[str]]) -> Layer:
    kind, settings, tail = content
    if kind not in AXES:
        raise _refused(path, f"it has a layer of unknown kind {kind!r}")
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    return Layer(kind, tuple(sorted(plain.items())), tuple(tail))


def _refused(path: Path, reason: str) -> MeasurementError:
    return MeasurementError(
        f"the latency table {path} cannot be trusted: {reason}. Delete the file, or name another folder with --cache "
        "or EDAKARI_CACHE; the layers are then measured again."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
