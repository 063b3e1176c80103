"""Export to OpenVINO's intermediate representation, with a check on its CPU plugin."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edakari.core.arguments import require
from edakari.core.file_errors import require_writable
from edakari.core.files import replacing
from edakari.core.networks import unwrapped
from edakari.core.optional import needs
from edakari.cost.example import mapped
from edakari.errors import ExportError
from edakari.export.about import PLAIN, About
from edakari.export.check import ExportCheck, Exporter, compare, module_outputs
from edakari.export.node_modules import modules_of
from edakari.export.onnx import tried_batches
from edakari.export.onnx_model import write_onnx
from edakari.export.refused import listed
from edakari.export.serving import served

__all__ = ["EXPORTER", "to_openvino"]


def to_openvino(
    model: nn.Module,
    example: Any,
    path: str | Path,
    *,
    dynamic_batch: bool = False,
    tolerance: float = 1e-4,
    about: About = PLAIN,
) -> ExportCheck:
    """Export a network to OpenVINO, by way of ONNX, and check that its CPU plugin gives the module's outputs.

    Args:
        model: the network; it does not change. See `to_onnx`.
        example: an input [batch, ...], a tuple of positional arguments or a dict of keywords with such tensors.
        path: path of the .xml file to write; the weights lie beside it in a .bin file of the same name.
        dynamic_batch: whether the batch size is variable; then a batch of 3 is compared, too.
        tolerance: largest allowed difference, as a fraction of the largest output.
        about: names of the input and the output, and metadata.

    Raises:
        ExportError: the network cannot be exported, or its outputs differ; nothing is written.
        MissingPackage: OpenVINO is not installed.
        RunFolderError: a file cannot be written.
    """
    model = served(unwrapped(model, "to_openvino(model, example, path)"))
    require("to_openvino(model, example, path)", path=(path, (str, Path)))
    with needs("openvino", "exporting to OpenVINO"):
        openvino: Any = importlib.import_module("openvino")
    path = Path(path)
    files = [path.with_suffix(".bin"), path]  # the reader of the second one needs the first
    for each in files:
        require_writable(each)
    with tempfile.TemporaryDirectory() as folder:
        source = write_onnx(model, example, Path(folder) / "model.onnx", dynamic_batch=dynamic_batch, about=about)
        network = _converted(openvino, source, type(model).__name__)
        for name, text in about.texts().items():
            network.set_rt_info(text, ["edakari", name])
        made = Path(folder) / path.with_suffix(".xml").name
        openvino.save_model(network, str(made), compress_to_fp16=False)
        compiled = openvino.Core().compile_model(str(made), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        worst = [
            compare(module_outputs(model, batch), _outputs(compiled, about, batch), "the OpenVINO model", tolerance)
            for batch in tried_batches(example, dynamic_batch)
        ]
        for each in files:
            with replacing(each) as temporary:
                temporary.write_bytes(made.with_suffix(each.suffix).read_bytes())
    size = sum(each.stat().st_size for each in files)
    return ExportCheck(path, "openvino", max(pair[0] for pair in worst), max(pair[1] for pair in worst), size)


def _converted(openvino: Any, source: Path, kind: str) -> Any:
    try:
        return openvino.convert_model(str(source))
    except Exception as error:
        import onnx  # which has written the file

        said = " ".join(str(error).split())
        file = onnx.load(source)
        modules = modules_of(file)
        named = {node.op_type for node in file.graph.node if node.op_type in said.replace(".", " ").split()}
        where = listed([modules[node.name] for node in file.graph.node if node.op_type in named], kind)
        raise ExportError(
            f"{kind} cannot be exported to OpenVINO: {said[:300]}"
            + (f". It is in {where}; replace it" if where else "")
        ) from error


def _outputs(compiled: Any, about: About, example: Any) -> list[torch.Tensor]:
    tensors = about.named(mapped(example, torch.Tensor.cpu))
    inputs = {each: tensors[name].numpy() for each in compiled.inputs for name in each.get_names() if name in tensors}
    found = compiled(inputs)
    return [torch.from_numpy(found[each].copy()) for each in compiled.outputs]


EXPORTER = Exporter(
    "xml",
    to_openvino,
    options=("about", "dynamic_batch"),
    packages=("openvino", "onnx", "onnxscript"),
    install='pip install "edakari[openvino]"',
)
"""Export of a network to OpenVINO's .xml and .bin files."""
