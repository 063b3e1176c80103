"""PyTorch as it is, operator by operator."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable

import torch
from torch import nn

__all__ = ["TorchEager"]


@dc.dataclass(frozen=True)
class TorchEager:
    """PyTorch in eager and inference mode, on the device of the network's weights."""

    name: str = "torch"

    def prepare(self, model: nn.Module, example: torch.Tensor, threads: int) -> Callable[[], None]:
        """A callable that runs the network once; see `Runtime.prepare`."""
        weight = next(model.parameters(), example)
        model, inputs = model.eval(), example.to(weight.device)
        cuda = weight.device.type == "cuda"

        def call() -> None:
            if threads and torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            with torch.inference_mode():
                model(inputs)
            if cuda:
                torch.cuda.synchronize(weight.device)

        return call
