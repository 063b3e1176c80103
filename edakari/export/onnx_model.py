"""Export of a network to an ONNX model by torch's dynamo exporter."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edakari.core.files import replacing
from edakari.core.optional import needs, require_packages
from edakari.cost.example import TakesTensors, arguments, named_tensors
from edakari.errors import ExportError
from edakari.export.about import PLAIN, About, named_outputs
from edakari.export.refused import converting
from edakari.export.serving import served

__all__ = ["arrays", "described_onnx", "feeds", "onnx_bytes", "onnx_program", "open_onnx", "traced", "write_onnx"]

ADVICE = "Replace the operator that the exporter names, or export with another batch setting"


def write_onnx(
    model: nn.Module, example: Any, path: str | Path, *, dynamic_batch: bool = False, about: About = PLAIN
) -> Path:
    """Export a network in evaluation mode to one ONNX file; `About.named` gives the names of its inputs.

    Args:
        model: the network, of which the part `served` is exported; it does not change.
        example: an input [batch, ...], a tuple of positional arguments or a dict of keywords with such tensors.
        path: path of the file to write.
        dynamic_batch: whether the batch size is variable; otherwise it is the example's.
        about: names of the input and the output, and metadata.

    Returns:
        The path.

    Raises:
        ExportError: the network cannot be exported; the message includes the exporter's error.
        MissingPackage: the extra `onnx` is not installed.
    """
    model = served(model)
    program = onnx_program(model, example, dynamic_batch=dynamic_batch, about=about)
    with converting(model, example, "ONNX", ADVICE):
        _describe(program.model, model, example, about)
        with replacing(path) as temporary:
            program.save(str(temporary), external_data=False)
    return Path(path)


def onnx_program(
    model: nn.Module, example: Any, *, dynamic_batch: bool = False, about: About = PLAIN, optimize: bool = True
) -> Any:
    """Export a network in evaluation mode to an ONNX model in memory; for the arguments see `write_onnx`.

    Args:
        model: the network; it does not change.
        example: see `write_onnx`.
        dynamic_batch: see `write_onnx`.
        about: see `write_onnx`.
        optimize: whether the exporter folds constants and fuses operators, as it does for files.

    Returns:
        A `torch.onnx.ONNXProgram`.

    Raises:
        ExportError: the network cannot be exported; the message includes the exporter's error.
        MissingPackage: the extra `onnx` is not installed.
    """
    require_packages("onnx", "exporting to ONNX", "onnx", "onnxscript")
    tensors = about.named(example)
    batch = {0: torch.export.Dim("batch", min=1)} if dynamic_batch else None
    # The exporter would take a batch of 1 for a constant, so a variable batch size is traced with 2.
    inputs = [torch.cat([x, x])[:2] if dynamic_batch and x.shape[:1] == (1,) else x for x in tensors.values()]
    alone = isinstance(example, torch.Tensor)
    shapes = (batch,) if alone else (tuple(batch if x.dim() else None for x in inputs),)
    with converting(model, example, "ONNX", ADVICE):
        program = torch.onnx.export(
            traced(model, example),
            tuple(inputs),
            dynamo=True,
            input_names=list(tensors),
            dynamic_shapes=shapes if batch else None,
            verbose=False,
            optimize=optimize,
        )
        if program is None:
            raise ExportError("torch.onnx.export returned nothing")
    return program


def traced(model: nn.Module, example: Any) -> nn.Module:
    """Return the module that is exported; the names of its weights are those in the ONNX model."""
    return model if isinstance(example, torch.Tensor) else TakesTensors(model, example)


def onnx_bytes(program: Any) -> bytes:
    """Return the content of the ONNX file of a `torch.onnx.ONNXProgram`."""
    content: bytes = program.model_proto.SerializeToString()
    return content


def _describe(file: Any, model: nn.Module, example: Any, about: About) -> None:
    """Name the outputs of an ONNX model in memory, and write the metadata into it."""
    file.metadata_props.update(about.texts())
    args, kwargs = arguments(example)
    names, outputs = named_outputs(model(*args, **kwargs), about.output), list(file.graph.outputs)
    taken = {value.name for node in file.graph for value in node.outputs} | {each.name for each in file.graph.inputs}
    # an input that is an output too has its name already; and a graph that has left outputs out, its own names
    if len(names) != len(outputs) or len({id(each) for each in outputs}) != len(names):
        return
    for value, name in zip(outputs, names, strict=True):
        if value.producer() is not None and name not in taken:
            value.name = name


def feeds(session: Any, example: Any) -> dict[str, Any]:
    """Return the inputs of an ONNX Runtime session from an example; a session omits inputs without an effect."""
    tensors = named_tensors(example)
    taken = [given.name for given in session.get_inputs()]
    return {name: tensors[name].detach().numpy() for name in taken}


def arrays(example: Any) -> dict[str, Any]:
    """Return the inputs of a network that was exported without names of its own, from an example."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in named_tensors(example).items()}


def described_onnx(path: Path) -> dict[str, Any]:
    """Return the opset, and name, shape and type of each input and output of an ONNX file."""
    with needs("onnx", "reading an ONNX model"):
        import onnx

    model, session = onnx.load(path, load_external_data=False), open_onnx(path)
    opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), None)
    sides = {"inputs": session.get_inputs(), "outputs": session.get_outputs()}
    ends = {
        side: [{"name": each.name, "shape": list(each.shape), "type": each.type} for each in values]
        for side, values in sides.items()
    }
    return {"opset": opset, **ends}


def open_onnx(model: str | Path | bytes, threads: int = 0, profile: Path | None = None) -> Any:
    """Open an ONNX Runtime session on the CPU.

    Args:
        model: path of the ONNX file, or its content.
        threads: CPU threads of one call; 0 lets ONNX Runtime choose.
        profile: prefix of the path for a profile with the time of each node; None writes no profile.
    """
    with needs("onnx", "running an ONNX model"):
        runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    content = model if isinstance(model, bytes) else str(model)
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
