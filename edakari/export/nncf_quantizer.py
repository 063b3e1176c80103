"""Static quantisation to int8 by NNCF for OpenVINO, in the same format as ONNX Runtime's: ONNX with QDQ."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from edakari.core.optional import needs
from edakari.errors import ExportError
from edakari.export.int8 import Feeds
from edakari.export.node_modules import modules_of, nodes_within

__all__ = ["EXTRA", "PACKAGES", "quantized_by_nncf"]

EXTRA, PACKAGES = "openvino-int8", ("nncf", "openvino", "onnx", "onnxruntime")


def quantized_by_nncf(
    model: bytes, inputs: Sequence[Feeds], exclude: Sequence[str] = (), *, only: str | None = None
) -> bytes:
    """Quantise an ONNX model by NNCF's post-training quantisation.

    Args:
        model: content of a file from `edakari.export.onnx_model.write_onnx`.
        inputs: calibration data, one entry for each call.
        exclude: see `edakari.export.int8.QuantizeSettings`.
        only: path of the only module that is quantised; None quantises all others than `exclude`.

    Raises:
        ExportError: NNCF refuses the network.
        MissingPackage: the extra `openvino-int8` is not installed.
    """
    with needs(EXTRA, "quantising for OpenVINO"):
        nncf: Any = importlib.import_module("nncf")
        onnx: Any = importlib.import_module("onnx")
    parsed = onnx.load_from_string(model)
    modules = modules_of(parsed)
    excluded = nodes_within(modules, exclude)
    if only is not None:
        excluded = [node.name for node in parsed.graph.node if modules[node.name] != only]
    data = nncf.Dataset([dict(each) for each in inputs], lambda each: each)
    left_out = nncf.IgnoredScope(names=excluded, validate=False) if excluded else None
    try:
        with _quiet(nncf):
            found = nncf.quantize(parsed, data, subset_size=len(inputs), ignored_scope=left_out)
    except Exception as error:
        said = (str(error).strip().splitlines() or ["no message"])[0]
        raise ExportError(
            f"NNCF refuses the network: {type(error).__name__}: {said}. Leave the module with this operator in fp32 by "
            "quantize.exclude, or use the runtime 'onnxruntime'"
        ) from error
    content: bytes = found.SerializeToString()
    return content


@contextlib.contextmanager
def _quiet(nncf: Any) -> Iterator[None]:
    """Silence progress bars and notes."""
    level = logging.getLogger("nncf").level
    nncf.set_log_level(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        nncf.set_log_level(level or logging.INFO)
