"""PyTorch in eager mode, operator by operator."""

from __future__ import annotations

import dataclasses as dc
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from edakari.core.copying import copied
from edakari.core.far_side.loops import CallClock
from edakari.cost.example import arguments, mapped, named_tensors
from edakari.latency.layers import Layer
from edakari.latency.runtimes.cuda import CudaCall, recorded, require_cuda_for_graphs
from edakari.latency.timing import Clock, RunSettings
from edakari.latency.torch_layers import torch_layer

__all__ = ["TorchEager", "caller", "cast", "device_of"]

Call = Callable[[], float | None]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dc.dataclass(frozen=True)
class TorchEager:
    """PyTorch in eager and inference mode, on the device of the network's weights.

    Args:
        name: name in reports and tables.
        kernels_only: see `LayerRuntime`.
        cuda_graphs: whether each network or layer is recorded as a CUDA graph.
    """

    name: str = "torch"
    kernels_only: bool = False
    cuda_graphs: bool = False

    def own_settings(self) -> dict[str, Any]:
        """Settings that determine its times, for the key of a table."""
        return {"cuda_graphs": True} if self.cuda_graphs else {}

    def versions(self) -> Mapping[str, str]:
        """See `Runtime.versions`."""
        return {"torch": torch.__version__}

    def check(self, settings: RunSettings) -> None:
        """See `Runtime.check`; PyTorch accepts all settings but graphs on a CPU."""
        require_cuda_for_graphs(self.cuda_graphs, settings)

    def prepare(self, model: nn.Module, example: Any, settings: RunSettings) -> Call:
        """Return a callable that runs the network once; see `Runtime.prepare`."""
        device = device_of(model, example)
        if settings.precision != "fp32" or settings.memory_format != "contiguous":
            model = copied(model)
        args, kwargs = arguments(mapped(example, lambda x: cast(x.to(device), settings)))
        run = functools.partial(cast(model, settings), *args, **kwargs)
        return caller(run, device, settings, self.cuda_graphs)

    def clock(self, layer: Layer, widths: tuple[int, ...], settings: RunSettings) -> Clock:
        """Return a clock for one layer, timed from outside as Python calls it; see `LayerRuntime.clock`."""
        model, inputs = torch_layer(layer, widths)
        device = torch.device(settings.device)
        placed = tuple(cast(x.to(device), settings) for x in inputs)
        run = functools.partial(cast(model.to(device), settings), *placed)
        return CallClock(caller(run, device, settings, self.cuda_graphs))


def device_of(model: nn.Module, example: Any) -> torch.device:
    """Device of a network's weights, or else of its inputs."""
    return next(model.parameters(), next(iter(named_tensors(example).values()))).device


def cast(value: Any, settings: RunSettings) -> Any:
    """Convert a network or tensor to the precision and memory format of the settings; integers stay integers."""
    if isinstance(value, nn.Module) or value.is_floating_point():
        value = value.to(DTYPES[settings.precision])
    if settings.memory_format == "channels_last" and (isinstance(value, nn.Module) or value.dim() == 4):
        value = value.to(memory_format=torch.channels_last)
    return value


def caller(run: Callable[[], Any], device: torch.device, settings: RunSettings, cuda_graphs: bool = False) -> Call:
    """Return a callable that runs a network once and waits for its outputs.

    Args:
        run: function that runs the network on the inputs of every call.
        device: device on which the network runs; on a CUDA device, the callable returns its time in ms, by events.
        settings: settings of the runtime; the number of threads is set before the call if it differs.
        cuda_graphs: whether the network is recorded as a CUDA graph, which the callable replays.

    Raises:
        MeasurementError: the network cannot be recorded.
    """
    if device.type == "cuda":
        return CudaCall(recorded(run, device) if cuda_graphs else run, device)

    def call() -> None:
        if settings.threads and torch.get_num_threads() != settings.threads:
            torch.set_num_threads(settings.threads)
        with torch.inference_mode():
            run()

    return call
