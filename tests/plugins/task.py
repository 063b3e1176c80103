"""A task of one's own: regression of the mean brightness of random images."""

import dataclasses as dc

import torch

from edakari.core.modes import eval_mode
from edakari.core.settings import PositiveFraction


@dc.dataclass(frozen=True)
class Brightness:
    batch: int
    seed: int
    power: float = 1.0
    metric: str = "minus_error"

    def example(self):
        return torch.zeros(1, 1, 28, 28)

    def batches(self, split):
        generator = torch.Generator().manual_seed(self.seed + len(split))
        images = torch.rand(32, 1, 28, 28, generator=generator) * torch.rand(32, 1, 1, 1, generator=generator)
        return list(zip(images.split(self.batch), self._target(images).split(self.batch), strict=True))

    def _target(self, images):
        return images.mean((1, 2, 3)) ** self.power

    def outputs(self, model, batch):
        return model(batch[0].to(next(model.parameters())))

    def loss(self, outputs, batch):
        return {"square": ((outputs.mean(1) - batch[1].to(outputs)) ** 2).mean()}

    def evaluate(self, model, split="val"):
        with eval_mode(model), torch.no_grad():
            errors = [float(self.loss(self.outputs(model, batch), batch)["square"]) for batch in self.batches(split)]
        return {"minus_error": -sum(errors) / len(errors)}


def brightness(data, seed, power: PositiveFraction = 1.0):
    return Brightness(data.batch_size, seed, power)
