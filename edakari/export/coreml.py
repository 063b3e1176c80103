"""Export to Core ML. Only macOS runs its models, so outputs are compared there alone."""

from __future__ import annotations

import importlib
import platform
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edakari.core.arguments import require
from edakari.core.file_errors import require_writable
from edakari.core.files import replacing
from edakari.core.networks import unwrapped
from edakari.cost.example import arguments
from edakari.export.about import PLAIN, About, named_outputs
from edakari.export.check import ExportCheck, Exporter, compare, module_outputs
from edakari.export.refused import converting
from edakari.export.serving import served

__all__ = ["EXPORTER", "to_coreml"]


def to_coreml(
    model: nn.Module, example: Any, path: str | Path, *, tolerance: float = 1e-3, about: About = PLAIN
) -> ExportCheck:
    """Export a network to Core ML (.mlpackage, a folder) in float32.

    Args:
        model: the network; it does not change. See `to_onnx`.
        example: an input [batch, ...], a tuple of positional arguments or a dict of keywords with such tensors.
        path: path of the package to write.
        tolerance: largest allowed difference, as a fraction of the largest output.
        about: names of the input and the output, and metadata.

    Raises:
        ExportError: the network cannot be exported, or its outputs differ; nothing is written.
        RunFolderError: a file cannot be written.
    """
    model = served(unwrapped(model, "to_coreml(model, example, path)"))
    require("to_coreml(model, example, path)", path=(path, (str, Path)))
    EXPORTER.require()
    path = Path(path)
    require_writable(path / "Manifest.json")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model.mlpackage"
        with converting(model, example, "Core ML"):
            tools: Any = importlib.import_module("coremltools")
            converted = _converted(tools, model, example, about)
            converted.save(str(made))
        absolute, relative = None, None
        if platform.system() == "Darwin":
            found = _outputs(tools, made, about, example)
            absolute, relative = compare(module_outputs(model, example), found, "the Core ML model", tolerance)
        inside = [each.relative_to(made) for each in sorted(made.rglob("*")) if each.is_file()]
        for each in inside:
            with replacing(path / each) as temporary:
                temporary.write_bytes((made / each).read_bytes())
    return ExportCheck(path, "coreml", absolute, relative, sum((path / each).stat().st_size for each in inside))


def _converted(tools: Any, model: nn.Module, example: Any, about: About) -> Any:
    args, kwargs = arguments(example)
    names = named_outputs(model(*args, **kwargs), about.output)
    program = torch.export.export(model, args, kwargs).run_decompositions({})
    converted = tools.convert(
        program,
        outputs=[tools.TensorType(name=name) for name in names],
        convert_to="mlprogram",
        compute_precision=tools.precision.FLOAT32,
        minimum_deployment_target=tools.target.iOS16,
    )
    spec, weights = converted.get_spec(), converted.weights_dir
    if isinstance(example, torch.Tensor):
        tools.utils.rename_feature(spec, spec.description.input[0].name, about.input, rename_outputs=False)
    renamed = tools.models.MLModel(spec, weights_dir=weights, skip_model_load=True)
    renamed.user_defined_metadata.update(about.texts())
    return renamed


def _outputs(tools: Any, made: Path, about: About, example: Any) -> list[torch.Tensor]:
    network = tools.models.MLModel(str(made), compute_units=tools.ComputeUnit.CPU_ONLY)
    inputs = {name: tensor.numpy() for name, tensor in about.named(example).items()}
    found = network.predict(inputs)
    return [torch.from_numpy(np.asarray(found[each.name])) for each in network.get_spec().description.output]


EXPORTER = Exporter(
    "mlpackage", to_coreml, options=("about",), packages=("coremltools",), install="pip install coremltools"
)
"""Export of a network to a Core ML package."""
