"""PyTorch through torch.compile: a network becomes a few generated kernels.

Each layer is compiled for its widths alone, which takes seconds. Filling a table is therefore slow; the measurement
reports the duration before it starts.
"""

from __future__ import annotations

import dataclasses as dc
import functools
import os
import shutil
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from edakari.core.copying import copied
from edakari.core.far_side.loops import CallClock
from edakari.cost.example import arguments, mapped
from edakari.errors import MeasurementError
from edakari.latency.layers import Layer
from edakari.latency.runtimes.cuda import require_cuda_for_graphs
from edakari.latency.runtimes.torch_eager import caller, cast, device_of
from edakari.latency.timing import Clock, RunSettings
from edakari.latency.torch_layers import torch_layer

__all__ = ["TorchCompile"]


@dc.dataclass(frozen=True)
class TorchCompile:
    """torch.compile with its default backend and static shapes, on the device of the network's weights.

    Args:
        name: name in reports and tables.
        kernels_only: see `LayerRuntime`.
        cuda_graphs: whether each compiled network or layer is recorded as a CUDA graph.
    """

    name: str = "torch_compile"
    kernels_only: bool = False
    cuda_graphs: bool = False

    def own_settings(self) -> dict[str, Any]:
        """Settings that determine its times, for the key of a table."""
        return {"cuda_graphs": True} if self.cuda_graphs else {}

    def versions(self) -> Mapping[str, str]:
        """See `Runtime.versions`."""
        return {"torch": torch.__version__}

    def check(self, settings: RunSettings) -> None:
        """See `Runtime.check`; on a CPU, the compiler writes C++."""
        require_cuda_for_graphs(self.cuda_graphs, settings)
        compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        if torch.device(settings.device).type == "cpu" and shutil.which(compiler.split()[0]) is None:
            raise MeasurementError(
                f"the runtime torch_compile needs a C++ compiler, and there is no {compiler} here; install one, or "
                "name one by the environment variable CXX"
            )

    def prepare(self, model: nn.Module, example: Any, settings: RunSettings) -> Callable[[], float | None]:
        """Return a callable that runs the network once; its first call compiles. See `Runtime.prepare`."""
        device = device_of(model, example)
        args, kwargs = arguments(mapped(example, lambda x: cast(x.to(device), settings)))
        return self._compiled(copied(model), args, kwargs, device, settings)

    def clock(self, layer: Layer, widths: tuple[int, ...], settings: RunSettings) -> Clock:
        """Return a clock for one layer, compiled separately; see `LayerRuntime.clock`."""
        model, inputs = torch_layer(layer, widths)
        device = torch.device(settings.device)
        placed = tuple(cast(x.to(device), settings) for x in inputs)
        return CallClock(self._compiled(model.to(device), placed, {}, device, settings))

    def _compiled(
        self,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        device: torch.device,
        settings: RunSettings,
    ) -> Callable[[], float | None]:
        network = cast(model, settings)

        def forward(*values: Any, **named: Any) -> Any:
            return network(*values, **named)

        # torch compiles one code object at most eight times, so each network gets a copy
        code = forward.__code__.replace()
        own = types.FunctionType(code, forward.__globals__, closure=forward.__closure__)
        compiled: Any = torch.compile(own, dynamic=False)
        call = caller(functools.partial(compiled, *args, **kwargs), device, settings, self.cuda_graphs)
        call()
        return call
