"""ONNX Runtime on the CPU: exported once, optimised by its own graph passes."""

from __future__ import annotations

import copy
import dataclasses as dc
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from edakari.cost.onnx_model import open_onnx, write_onnx

__all__ = ["OnnxRuntime"]


@dc.dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime's CPU provider, all graph optimisations on."""

    name: str = "onnxruntime"

    def prepare(self, model: nn.Module, example: torch.Tensor, threads: int) -> Callable[[], None]:
        """A callable that runs the network once; see `Runtime.prepare`."""
        with tempfile.TemporaryDirectory() as folder:
            path = write_onnx(copy.deepcopy(model).cpu(), example.cpu(), Path(folder) / "model.onnx")
            session = open_onnx(path, threads)
        feed = {session.get_inputs()[0].name: example.cpu().numpy()}

        def call() -> None:
            session.run(None, feed)

        return call
