"""Calls on a CUDA device: timed by its own events, and recorded as graphs."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable
from typing import Any

import torch

from edakari.errors import MeasurementError
from edakari.latency.timing import RunSettings

__all__ = ["CudaCall", "recorded", "require_cuda_for_graphs"]

WARM_CALLS = 3
"""Calls before a recording, in which libraries choose their kernels and take memory."""


@dc.dataclass(frozen=True)
class CudaCall:
    """Runs a network once, waits for it, and returns the time between two events of the device, ms.

    Args:
        run: function that runs the network.
        device: the CUDA device.
    """

    run: Callable[[], Any]
    device: torch.device

    def __call__(self) -> float:
        """Run the network; return its time, ms."""
        event: Any = torch.cuda.Event  # torch does not type it
        start, end = event(enable_timing=True), event(enable_timing=True)
        with torch.inference_mode(), torch.cuda.device(self.device):
            start.record()
            self.run()
            end.record()
            end.synchronize()
        return float(start.elapsed_time(end))


def recorded(run: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """Record a call as a CUDA graph; return the function that replays it.

    Args:
        run: function that runs the network, on inputs that stay where they are.
        device: the CUDA device.

    Raises:
        MeasurementError: the call cannot be recorded, as it waits for the device or its shapes depend on values.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.inference_mode(), torch.cuda.device(device):
            stream: Any = torch.cuda.Stream  # torch does not type it
            aside = stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_CALLS):
                    run()
            torch.cuda.current_stream().wait_stream(aside)
            with torch.cuda.graph(graph):
                run()
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise MeasurementError(
            f"the network cannot be recorded as a CUDA graph: {reason}. Leave out cuda_graphs"
        ) from error
    return graph.replay


def require_cuda_for_graphs(cuda_graphs: bool, settings: RunSettings) -> None:
    """Refuse CUDA graphs on another device.

    Raises:
        MeasurementError: graphs are asked for, and the device is no CUDA device.
    """
    if cuda_graphs and torch.device(settings.device).type != "cuda":
        raise MeasurementError(
            f"cuda_graphs records networks on a CUDA device, but device is {settings.device!r}; set device: cuda, or "
            "leave cuda_graphs out"
        )
