"""Quantisation of a network to int8 with the data of its task, and a comparison with the network in fp32."""

from __future__ import annotations

import dataclasses as dc
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edakari.core.arguments import require
from edakari.core.copying import copied
from edakari.core.file_errors import require_writable
from edakari.core.files import replacing
from edakari.core.networks import unwrapped
from edakari.core.protocols import Task
from edakari.cost.example import mapped
from edakari.errors import ExportError
from edakari.export.about import PLAIN, About
from edakari.export.calibration import calibration_inputs
from edakari.export.int8 import Feeds, Quantizer, QuantizeSettings, quantized
from edakari.export.node_modules import require_modules
from edakari.export.onnx_model import feeds, open_onnx, write_onnx
from edakari.export.sensitivity import layer_errors, output_difference
from edakari.export.serving import served

__all__ = ["Int8Check", "Int8Network", "judged", "quantize_network", "require_small_drop", "to_int8"]

NAMED = 5
"""Largest number of layers that an error names."""


@dc.dataclass(frozen=True, slots=True)
class Int8Check:
    """A network in int8, compared with the same network in fp32 on the calibration data.

    Args:
        path: path of the file.
        bytes: size of the file in bytes.
        images: number of calibration inputs.
        difference: root of the mean squared difference of the outputs, as a fraction of that of the outputs.
        agreement: fraction of images to which both give the same class; None if the outputs are no classes.
    """

    path: Path
    bytes: int
    images: int
    difference: float
    agreement: float | None


@dc.dataclass(frozen=True)
class Int8Network:
    """A network as ONNX in fp32 and int8.

    Args:
        fp32: content of the file in fp32.
        int8: content of the file in int8.
        inputs: calibration data, one entry for each call.
        quantizer: function that quantised the model.
    """

    fp32: bytes
    int8: bytes
    inputs: tuple[Feeds, ...]
    quantizer: Quantizer = quantized

    @property
    def difference(self) -> float:
        """See `Int8Check`."""
        return output_difference(self.fp32, self.int8, self.inputs)

    @property
    def agreement(self) -> float | None:
        """See `Int8Check`."""
        sessions = [open_onnx(content) for content in (self.fp32, self.int8)]
        same: list[Any] = []
        for call in self.inputs:
            first, second = (session.run(None, dict(call))[0] for session in sessions)
            if first.ndim != 2:
                return None
            same.append(first.argmax(1) == second.argmax(1))
        return float(np.mean(same))


def quantize_network(
    model: nn.Module,
    example: Any,
    task: Task,
    settings: QuantizeSettings,
    *,
    about: About = PLAIN,
    quantizer: Quantizer = quantized,
) -> Int8Network:
    """Export a network, and quantise it with calibration data of its task.

    Args:
        model: network; it does not change. Detectors are exported without their post-processing: see
            `edakari.export.served`.
        example: an input [batch, ...], a tuple of positional arguments or a dict of keywords with such tensors.
        task: task whose split "calibration" is read.
        settings: settings of the quantisation.
        about: names of the inputs and outputs, and metadata.
        quantizer: function that quantises the exported network.

    Raises:
        ExportError: the network cannot be exported, an operator is refused, or the outputs are not finite.
        DataError: there is too little calibration data.
        SettingsError: a pattern in `settings.exclude` matches no module.
    """
    require_modules(model, settings.exclude)
    given = mapped(example, torch.Tensor.cpu)
    data = calibration_inputs(model, given, task, settings.images)
    with tempfile.TemporaryDirectory() as folder:
        fp32 = write_onnx(copied(model).cpu(), given, Path(folder) / "model.onnx", about=about).read_bytes()
    session = open_onnx(fp32)
    names = list(about.named(given))
    inputs = tuple(feeds(session, dict(zip(names, each.values(), strict=True))) for each in data)
    found = Int8Network(fp32, quantizer(fp32, inputs, settings.exclude), inputs, quantizer)
    if not np.isfinite(found.difference):
        raise ExportError(
            f"the {type(model).__name__} gives values that are not finite on its calibration data, in fp32 or in int8; "
            "check its weights and the data"
        )
    return found


def to_int8(
    model: nn.Module,
    example: Any,
    task: Task,
    path: str | Path,
    *,
    settings: QuantizeSettings | None = None,
) -> Int8Check:
    """Quantise a network to int8, and write it as one ONNX file.

    Args:
        model: network; it does not change.
        example: an input [batch, ...], a tuple of positional arguments or a dict of keywords with such tensors.
        task: task with calibration data, and with metrics if `settings.max_drop` is set.
        path: path of the file to write.
        settings: settings of the quantisation; None selects `QuantizeSettings()`.

    Raises:
        ExportError: see `quantize_network`; or the loss of the main metric exceeds `settings.max_drop`. The message
            then names the layers that cause it, and nothing is written.
        DataError: there is too little calibration data.
        RunFolderError: the file cannot be written.
    """
    model, chosen = unwrapped(model, "to_int8(model, example, task, path)"), settings or QuantizeSettings()
    require("to_int8(model, example, task, path)", path=(path, (str, Path)))
    require_writable(path)
    found = quantize_network(model, example, task, chosen)
    if chosen.max_drop is not None:
        network = judged(found.int8, model, example)
        before = task.evaluate(model)  # a task may know its metric only now
        require_small_drop(found, chosen, task.metric, before, task.evaluate(network) if network else {})
    with replacing(path) as temporary:
        temporary.write_bytes(found.int8)
    return Int8Check(Path(path), len(found.int8), len(found.inputs), found.difference, found.agreement)


def judged(content: bytes, model: nn.Module, example: Any, about: About = PLAIN) -> nn.Module | None:
    """Return an ONNX model as a network that a task can judge; None for detectors, whose file ends before the boxes.

    Args:
        content: content of the file.
        model: module that was exported.
        example: input with which it was exported.
        about: names with which it was exported.
    """
    from edakari.export.onnx_network import OnnxNetwork

    if served(model) is not model:
        return None
    return OnnxNetwork(content, copied(model).cpu(), mapped(example, torch.Tensor.cpu), about)


def require_small_drop(network: Int8Network, settings: QuantizeSettings, metric: str, fp32: Any, int8: Any) -> None:
    """Check that a quantised network has lost no more of its main metric than the settings accept.

    Args:
        network: the network.
        settings: settings of the quantisation.
        metric: name of the main metric.
        fp32: metrics in fp32 by name.
        int8: metrics in int8 by name.

    Raises:
        ExportError: it has lost more; names the layers whose quantisation alone changes the outputs most. Or there is
            no such metric.
    """
    if settings.max_drop is None:
        return
    if metric not in fp32 or metric not in int8:
        raise ExportError("quantize.max_drop limits the loss of a metric, but the task gives none of the int8 network")
    drop = fp32[metric] - int8[metric]
    if drop <= settings.max_drop:
        return
    errors = layer_errors(network.fp32, network.inputs, settings.exclude, network.quantizer)
    worst = list(errors.items())[:NAMED]
    named = ", ".join(f"{path} ({error:.1%})" for path, error in worst)
    raise ExportError(
        f"the int8 network loses {drop:.4g} of {metric} ({fp32[metric]:.4f} in fp32, {int8[metric]:.4f} in int8), but "
        f"quantize.max_drop allows {settings.max_drop:g}. The outputs change most when one of these layers alone is "
        f"quantised: {named}. Leave the worst ones in fp32, such as by quantize.exclude: [{worst[0][0]!r}]"
    )
