"""A task of one's own whose examples have indices: bright and dark halves of random images."""

import dataclasses as dc

import torch
from torch.nn import functional

from edakari.core.modes import eval_mode


@dc.dataclass(frozen=True)
class Halves:
    """Fulfils `edakari.core.protocols.IndexedTask`."""

    batch: int
    count: int
    metric: str = "accuracy"
    held_out: bool = True

    def _drawn(self, split):
        images = torch.rand(self.count, 1, 28, 28, generator=torch.Generator().manual_seed(len(split)))
        labels = torch.arange(self.count) % 3
        for label in range(2):  # the third class is bright nowhere
            images[labels == label, :, 14 * label : 14 * (label + 1)] += 1
        return images, labels

    def example(self):
        return torch.zeros(1, 1, 28, 28)

    def batches(self, split):
        images, labels = self._drawn(split)
        return list(zip(images.split(self.batch), labels.split(self.batch), strict=True))

    def labels(self, split):
        return self._drawn(split)[1].numpy()

    def batches_at(self, split, parts, *, augmented=False):
        images, labels = self._drawn(split)
        images = images.flip(3) if augmented else images
        return [(images[part], labels[part], torch.from_numpy(part)) for part in parts]

    def with_indices(self, views=1):
        images, labels = self._drawn("train")
        seen = [images.flip(3) if view % 2 else images for view in range(views)]
        return [
            (torch.cat([view[each] for view in seen]), labels[each].repeat(views), each.repeat(views))
            for each in torch.arange(self.count).split(self.batch)
        ]

    def digest(self):
        return f"halves {self.count}"

    def outputs(self, model, batch):
        return model(batch[0].to(next(model.parameters())))

    def loss(self, outputs, batch):
        return {"cross_entropy": functional.cross_entropy(outputs, batch[1].to(outputs.device))}

    def evaluate(self, model, split="val"):
        with eval_mode(model), torch.no_grad():
            right = [self.outputs(model, batch).argmax(1).cpu() == batch[1] for batch in self.batches(split)]
        return {"accuracy": float(torch.cat(right).float().mean())}


def halves(data, seed, count: int = 30):
    return Halves(data.batch_size, count)
