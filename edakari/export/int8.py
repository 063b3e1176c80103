"""Static quantisation to int8 by ONNX Runtime's quantiser, in its QDQ format.

The types are those for which the provider has fast kernels. On x86 processors these are uint8 activations and int8
weights with a scale for each channel; symmetric int8 activations take three times as long there. Processors without
VNNI instructions add products in 16 bits, so that weights take 7 bits there.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from edakari.core.optional import needs
from edakari.core.settings import Count, NonNegative, settings
from edakari.errors import EdakariError, ExportError
from edakari.export.node_modules import modules_of, nodes_within
from edakari.export.onnx_model import open_onnx

if TYPE_CHECKING:
    import onnx

__all__ = [
    "CPU",
    "Feeds",
    "QuantizeSettings",
    "Quantizer",
    "int8_instructions",
    "quantized",
    "quantized_for_timing",
    "weighted_modules",
]

Feeds = Mapping[str, npt.NDArray[Any]]
"""Inputs of one call of an ONNX model by name."""

CPU = "CPUExecutionProvider"
OPERATORS = (
    *("Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "Relu", "Clip", "LeakyRelu", "Sigmoid", "MaxPool"),
    *("AveragePool", "GlobalAveragePool", "Resize", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"),
    *("Slice", "Split", "Pad", "Gather"),
)
"""Operators that are quantised on the CPU: those with kernels for int8. Softmax and the normalisations lose accuracy in
int8 and gain no time; transposed convolutions have no kernel."""
WEIGHTED = ("Conv", "Gemm", "MatMul")
DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "sve2")
"""Flags of processors for instructions that multiply bytes and add the products in 32 bits."""


class Quantizer(Protocol):
    """A function that quantises ONNX models with calibration data, such as `quantized`."""

    def __call__(
        self, model: bytes, inputs: Sequence[Feeds], exclude: Sequence[str] = (), *, only: str | None = None
    ) -> bytes:
        """See `quantized`."""


@settings
class QuantizeSettings:
    """Quantisation of the finished network to int8.

    Args:
        images: largest number of images of the calibration data that determine the ranges of activations.
        exclude: modules that stay in fp32, as paths or patterns such as `head*`; modules inside of them stay, too.
        max_drop: largest accepted loss of the main metric from fp32 to int8, in the metric's unit; a larger loss is an
            error that names the layers that cause it. None accepts any.
    """

    images: Count = 256
    exclude: tuple[str, ...] = ()
    max_drop: NonNegative | None = None


def int8_instructions() -> tuple[str, ...]:
    """Flags of this machine's processor for dot products of bytes; empty where it has none, or does not say so."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ()
    lines = (line.partition(":")[2].split() for line in text.splitlines() if line.startswith(("flags", "Features")))
    flags = set(next(lines, []))
    return tuple(flag for flag in DOT_PRODUCTS if flag in flags)


def weighted_modules(model: bytes, exclude: Sequence[str] = ()) -> list[str]:
    """Return the paths of the modules whose weights `quantized` converts, in the order of the network.

    Args:
        model: content of an ONNX file.
        exclude: see `QuantizeSettings`.
    """
    parsed = _Tools().onnx.load_from_string(model)
    modules = modules_of(parsed)
    excluded = set(nodes_within(modules, exclude))
    found = [modules[node.name] for node in parsed.graph.node if node.op_type in WEIGHTED and node.name not in excluded]
    return [path for path in dict.fromkeys(found) if path]


def quantized(
    model: bytes, inputs: Sequence[Feeds], exclude: Sequence[str] = (), provider: str = CPU, *, only: str | None = None
) -> bytes:
    """Quantise an ONNX model; the ranges of its activations are those that the given inputs cause.

    Args:
        model: content of a file from `edakari.export.onnx_model.write_onnx`.
        inputs: calibration data, one entry for each call.
        exclude: see `QuantizeSettings`.
        provider: ONNX Runtime's provider that will run the model.
        only: path of the only module that is quantised; None quantises all others than `exclude`.

    Raises:
        ExportError: the quantiser refuses an operator; the message names it and its module.
        MissingPackage: the extra `onnx` is not installed.
    """
    tools = _tools()
    parsed = tools.onnx.load_from_string(model)
    modules = modules_of(parsed)
    excluded = nodes_within(modules, exclude)
    if only is not None:
        excluded = [node.name for node in parsed.graph.node if modules[node.name] != only]
    tools.utils.add_pre_process_metadata(parsed)  # it asks for constants folded already, which torch's exporter does

    def run() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
            tools.onnx.save(parsed, source)
            activations, weights, options = tools.types(provider)
            tools.quantization.quantize_static(
                source,
                target,
                _reader(tools, inputs),
                per_channel=True,
                activation_type=activations,
                weight_type=weights,
                nodes_to_exclude=excluded,
                **options,
            )
            return target.read_bytes()

    return _checked(run, parsed, excluded, provider)


def quantized_for_timing(
    model: bytes, exclude: Sequence[str] = (), provider: str = CPU, *, layer: bool = False
) -> bytes:
    """Quantise an ONNX model without data: the same operators with made-up ranges, which take the same time.

    Args:
        model: content of an ONNX file.
        exclude: see `QuantizeSettings`.
        provider: ONNX Runtime's provider that will run the model.
        layer: whether the model is a single layer. Operators that stay in fp32 then get the conversions around them
            that they have in a network, and weights have one scale, which takes the same time and is made faster.

    Raises:
        ExportError: see `quantized`.
        MissingPackage: the extra `onnx` is not installed.
    """
    tools = _tools()
    parsed = tools.onnx.shape_inference.infer_shapes(tools.onnx.load_from_string(model))
    excluded = nodes_within(modules_of(parsed), exclude)
    every = {node.op_type for node in parsed.graph.node} if layer else ()
    if layer:
        return _unchecked(tools, parsed, excluded, provider, every)
    return _checked(lambda: _unchecked(tools, parsed, excluded, provider, every), parsed, excluded, provider)


def _unchecked(
    tools: _Tools, model: onnx.ModelProto, excluded: Sequence[str], provider: str, every: Iterable[str]
) -> bytes:
    """Quantise a model with made-up ranges.

    Args:
        tools: the quantiser.
        model: the model; it does not change.
        excluded: nodes that stay in fp32.
        provider: ONNX Runtime's provider that will run the model.
        every: all operators of a layer, which are then quantised; none quantises those of `OPERATORS`.
    """
    copy = tools.onnx.ModelProto()
    copy.CopyFrom(model)
    activations, weights, options = tools.types(provider)
    values = [each.name for each in copy.graph.input] + [name for node in copy.graph.node for name in node.output]
    ends = (np.array(-1.0, np.float32), np.array(1.0, np.float32))
    ranges = tools.calibrate.TensorsData(tools.calibrate.CalibrationMethod.MinMax, dict.fromkeys(values, ends))
    quantizer = tools.quantizer.QDQQuantizer(
        copy,
        not every,
        options["reduce_range"],
        weights,
        activations,
        ranges,
        [],
        list(excluded),
        sorted(every) or options["op_types_to_quantize"] or tools.every_operator(),
        options["extra_options"],
    )
    with _without_logs():
        quantizer.quantize_model()
    content: bytes = quantizer.model.model.SerializeToString()
    return content


class _Tools:
    """ONNX, and the modules of ONNX Runtime's quantiser."""

    def __init__(self) -> None:
        with needs("onnx", "quantising to int8"):
            self.onnx: Any = importlib.import_module("onnx")
            self.quantization: Any = importlib.import_module("onnxruntime.quantization")
        self.calibrate: Any = importlib.import_module("onnxruntime.quantization.calibrate")
        self.quantizer: Any = importlib.import_module("onnxruntime.quantization.qdq_quantizer")
        self.utils: Any = importlib.import_module("onnxruntime.quantization.quant_utils")

    def types(self, provider: str) -> tuple[Any, Any, dict[str, Any]]:
        """Types of activations and weights that a provider is fast with, and further options of the quantiser."""
        kind = self.quantization.QuantType
        if provider != CPU:  # accelerators multiply int8 by int8, without a zero point
            symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True}
            return kind.QInt8, kind.QInt8, _options([], False, symmetric)
        arm = platform.machine().lower() in ("arm64", "aarch64")
        narrow = not arm and not int8_instructions()
        return (kind.QInt8 if arm else kind.QUInt8), kind.QInt8, _options(list(OPERATORS), narrow, {})

    def every_operator(self) -> list[str]:
        """All operators that the quantiser knows."""
        registry: Any = importlib.import_module("onnxruntime.quantization.registry")
        return sorted({*registry.QDQRegistry, *registry.QLinearOpsRegistry})


def _options(operators: list[str], narrow: bool, extra: dict[str, Any]) -> dict[str, Any]:
    return {"op_types_to_quantize": operators, "reduce_range": narrow, "extra_options": extra}


def _tools() -> _Tools:
    return _Tools()


def _reader(tools: _Tools, inputs: Sequence[Feeds]) -> Any:
    class Reader(tools.quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.left = iter(inputs)

        def get_next(self) -> Any:
            return next(self.left, None)

        def __len__(self) -> int:
            return len(inputs)

    return Reader()


def _checked(run: Callable[[], bytes], model: onnx.ModelProto, excluded: Sequence[str], provider: str) -> bytes:
    """Quantise a model, and open the result once; an operator that is refused is named.

    Raises:
        ExportError: the quantiser or ONNX Runtime refuses an operator.
    """
    try:
        with _without_logs():
            found = run()
        open_onnx(found)
    except EdakariError:
        raise
    except Exception as error:
        raise ExportError(_refusal(error, model, excluded, provider)) from error
    return found


def _refusal(error: Exception, model: onnx.ModelProto, excluded: Sequence[str], provider: str) -> str:
    """Explain which operator is refused: the first one that cannot be quantised alone."""
    tools, modules = _tools(), modules_of(model)
    reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
    candidates = [node for node in model.graph.node if node.name not in excluded and node.op_type in OPERATORS]
    for node in candidates:
        others = [each.name for each in model.graph.node if each.name != node.name]
        try:
            open_onnx(_unchecked(tools, model, others, provider, ()))
        except Exception as alone:
            told = f"{type(alone).__name__}: {(str(alone).strip().splitlines() or ['no message'])[0]}"
            where = modules[node.name]
            return (
                f"ONNX Runtime's quantiser refuses the operator {node.op_type} of "
                f"{f'module {where!r}' if where else 'the network itself'}: {told}. "
                + (f'Leave it in fp32: quantize.exclude: ["{where}"]' if where else "Replace the operator")
            )
    return f"ONNX Runtime's quantiser refuses the network, though it takes each of its operators alone: {reason}"


@contextlib.contextmanager
def _without_logs() -> Iterator[None]:
    """Silence the quantiser, which logs every tensor that it leaves as it is."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
