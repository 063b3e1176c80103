"""A runtime of one's own that times whole networks only; its time is a formula, so that a test knows it."""

import dataclasses as dc
import time

import torch


@dc.dataclass(frozen=True)
class Stopwatch:
    name: str = "stopwatch"

    def versions(self):
        return {"torch": torch.__version__}

    def check(self, settings):
        pass

    def prepare(self, model, example, settings):
        seconds = 2e-7 * sum(parameter.numel() for parameter in model.parameters())

        def call():
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                pass

        return call
