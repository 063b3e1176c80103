"""The folder that goes to another device: ONNX files, a manifest, and the script that times them."""

from __future__ import annotations

import dataclasses as dc
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from edakari.core.far_side import script_text
from edakari.core.far_side.bench import FORMAT, MANIFEST, VERSION
from edakari.core.far_side.sessions import How
from edakari.core.files import replacing, write_json, write_text
from edakari.core.optional import needs
from edakari.export.onnx_model import arrays
from edakari.export.sized_onnx import NetworkFiles
from edakari.latency.layers import Layer
from edakari.latency.onnx_layers import onnx_layer

if TYPE_CHECKING:
    import onnx

__all__ = ["SCRIPT", "Repeats", "Request", "layers_request", "networks_request"]

Quantize = Callable[[bytes], bytes]

SCRIPT, WEIGHTS = "bench.py", "weights.bin"
LARGE = 1024
"""Size of a weight in bytes from which on layers share one file of random values."""


@dc.dataclass(frozen=True)
class Repeats:
    """How often a device calls what it times.

    Args:
        warmup: number of calls before timing starts.
        repeats: least number of timed calls.
        tolerance: uncertainty at which networks are timed no longer; None sets none.
        calls: how calls of networks follow each other: one of `edakari.core.far_side.loops.KINDS_OF_CALLS`.
    """

    warmup: int
    repeats: int
    tolerance: float | None = None
    calls: str = "steady"


@dc.dataclass(frozen=True)
class Request:
    """A folder with what a device is to time.

    Args:
        folder: the folder.
        names: names of the files to time, without `.onnx`.
        id: digest of the content except for the values of weights, on which no time depends.
        calls: how calls of networks follow each other.
    """

    folder: Path
    names: tuple[str, ...]
    id: str
    calls: str = "steady"


def networks_request(
    networks: Mapping[str, nn.Module],
    example: Any,
    how: How,
    repeats: Repeats,
    folder: Path,
    quantize: Quantize = bytes,
    written: NetworkFiles | None = None,
) -> Request:
    """Write networks that are to be timed alternately.

    Args:
        networks: networks by name, the one first to which the others are compared.
        example: inputs of every call.
        how: threads and provider.
        repeats: numbers of calls.
        folder: folder to write; it exists.
        quantize: function that quantises an ONNX model.
        written: ONNX models of networks that were written before; None knows of none.

    Raises:
        ExportError: a network cannot be exported.
    """
    inputs = [_input(name, array) for name, array in arrays(example).items()]
    files, written = [], written or NetworkFiles()
    for name, network in networks.items():
        with replacing(folder / f"{name}.onnx") as temporary:
            temporary.write_bytes(quantize(written.content(network, example)))
        files.append(_file(name, "network", "calls", repeats, inputs))
    return _finished(folder, files, how, repeats)


def layers_request(
    points: Mapping[str, tuple[Layer, tuple[int, ...]]],
    how: How,
    repeats: Repeats,
    folder: Path,
    quantize: Quantize = bytes,
) -> Request:
    """Write layers that are to be timed.

    Args:
        points: layers and their widths, by the names of the files.
        how: threads and provider.
        repeats: numbers of calls.
        folder: folder to write; it exists.
        quantize: function that quantises the ONNX model of a layer.
    """
    weights, files = _SharedWeights(), []
    for name, (layer, widths) in points.items():
        built = onnx_layer(layer, widths)
        with replacing(folder / f"{name}.onnx") as temporary:
            model = built.model if layer.kind == "chain" else quantize(built.model)
            temporary.write_bytes(weights.taken_out(model))
        inputs = [
            {"name": each, "shape": list(value.shape), "dtype": str(value.dtype)} for each, value in built.feeds.items()
        ]
        files.append(_file(name, "layer", "calls" if layer.kind == "chain" else "kernels", repeats, inputs))
    weights.write(folder)
    return _finished(folder, files, how, repeats)


def _file(name: str, kind: str, times: str, repeats: Repeats, inputs: Sequence[Any]) -> dict[str, Any]:
    return {"name": name, "file": f"{name}.onnx", "kind": kind, "times": times, "repeats": repeats.repeats,
            "inputs": inputs}  # fmt: skip


def _input(name: str, value: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Name, shape and type of an input; integers come with their values, as some are indices."""
    found = {"name": name, "shape": list(value.shape), "dtype": str(value.dtype)}
    return found if value.dtype.kind == "f" else {**found, "values": value.ravel().tolist()}


def _finished(folder: Path, files: Sequence[Mapping[str, Any]], how: How, repeats: Repeats) -> Request:
    content = {
        "format": FORMAT,
        "version": VERSION,
        "threads": how.threads,
        "provider": how.provider,
        "provider_options": dict(how.options),
        "warmup": repeats.warmup,
        "tolerance": repeats.tolerance,
        "calls": repeats.calls,
        "files": list(files),
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for file in files:
        digest.update(_without_values((folder / file["file"]).read_bytes()))
    name = digest.hexdigest()[:16]
    write_json(folder / MANIFEST, {**content, "id": name})
    write_text(folder / SCRIPT, script_text())
    return Request(folder, tuple(file["name"] for file in files), name, repeats.calls)


def _without_values(model: bytes) -> bytes:
    """A model without the values of its weights, on which no time depends; few integers may be shapes, and stay."""
    proto = _loaded(model)
    for tensor in proto.graph.initializer:
        if tensor.data_type not in (tensor.INT64, tensor.INT32) or len(tensor.raw_data) >= LARGE:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    return bytes(proto.SerializeToString(deterministic=True))


def _loaded(model: bytes) -> onnx.ModelProto:
    with needs("onnx", "timing on another device"):
        import onnx
    return onnx.load_model_from_string(model)


class _SharedWeights:
    """One file with random values for the weights of all layers, so that little travels to the device."""

    def __init__(self) -> None:
        self.largest = 0

    def taken_out(self, model: bytes) -> bytes:
        """Return a model whose large weights lie in the shared file."""
        proto = _loaded(model)
        for tensor in proto.graph.initializer:
            if len(tensor.raw_data) >= LARGE and tensor.data_type in (tensor.FLOAT, tensor.INT8):
                self._take_out(tensor)
        return bytes(proto.SerializeToString())

    def _take_out(self, tensor: onnx.TensorProto) -> None:
        size = len(tensor.raw_data)
        self.largest = max(self.largest, size)
        tensor.ClearField("raw_data")
        tensor.data_location = tensor.EXTERNAL
        for key, value in (("location", WEIGHTS), ("offset", "0"), ("length", str(size))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value

    def write(self, folder: Path) -> None:
        """Write the shared file."""
        values = np.random.default_rng(0).standard_normal(-(-self.largest // 4), dtype=np.float32) * np.float32(0.05)
        with replacing(folder / WEIGHTS) as temporary:
            temporary.write_bytes(values.tobytes())
