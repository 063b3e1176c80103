"""Networks, a task and a training loop that are small enough for tests."""

from __future__ import annotations

import dataclasses as dc
import functools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from edakari.core.budget import Budget
from edakari.core.copying import copied
from edakari.core.method import Job
from edakari.core.modes import eval_mode, preserve_modes
from edakari.core.optional import needs
from edakari.core.protocols import Batch, Hook, Objective, Schedule, Split, StepState
from edakari.cost import dense, macs
from edakari.errors import ModelError
from edakari.graph import trace
from edakari.methods.allocation import allocate

__all__ = ["ToyTask", "toy_cnn", "toy_fit", "toy_job", "toy_vit"]

PIXELS, CLASSES = 16, 4


class ToyCNN(nn.Module):
    """CNN of a few thousand weights with a residual connection, a depthwise convolution and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 16, 3, stride=2)
        self.first = _conv(16, 24, 3)
        self.second = _conv(24, 16, 3)
        self.expand = _conv(16, 32, 1)
        self.depthwise = _conv(32, 32, 3, groups=32)
        self.left = _conv(32, 12, 1)
        self.right = _conv(32, 20, 3, stride=1)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, float [batch, classes], of images, float [batch, 3, height, width]."""
        hidden = self.stem(images)
        hidden = hidden + self.second(self.first(hidden))
        hidden = self.depthwise(self.expand(hidden))
        hidden = torch.cat([self.left(hidden), self.right(hidden)], dim=1)
        logits: torch.Tensor = self.head(hidden.mean(dim=(2, 3)))
        return logits


def toy_cnn(seed: int = 0) -> nn.Module:
    """Build a convolutional network for `ToyTask`, with running statistics that are not the initial ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ToyCNN()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
                nn.init.normal_(module.get_buffer("running_mean"), std=0.2)
                nn.init.uniform_(module.get_buffer("running_var"), 0.5, 1.5)
    return model.eval()


def toy_vit(seed: int = 0) -> nn.Module:
    """Build a vision transformer with fused query, key and value for `ToyTask`."""
    with needs("train", "toy_vit"):
        from timm.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = VisionTransformer(
            img_size=PIXELS, patch_size=4, embed_dim=32, depth=2, num_heads=4, num_classes=CLASSES
        )
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter, std=0.1)
    return model.eval()


@dc.dataclass(frozen=True)
class ToyTask:
    """Images of four classes, each a pattern in noise; networks learn them in a few epochs.

    Args:
        images: number of images per split.
        batch: images per batch.
        seed: seed of patterns and noise.
    """

    images: int = 64
    batch: int = 16
    seed: int = 0

    @property
    def metric(self) -> str:
        """See `edakari.core.protocols.Task`."""
        return "accuracy"

    def example(self) -> torch.Tensor:
        """See `edakari.core.protocols.Task`."""
        return torch.zeros(1, 3, PIXELS, PIXELS)

    def batches(self, split: Split) -> Iterable[Batch]:
        """See `edakari.core.protocols.Task`; the same batches in every epoch."""
        images, labels = _images(self.images, self.seed, split)
        return list(zip(torch.split(images, self.batch), torch.split(labels, self.batch), strict=True))

    @property
    def held_out(self) -> bool:
        """See `edakari.core.protocols.IndexedTask`; every split is drawn by itself."""
        return True

    def labels(self, split: Split) -> npt.NDArray[np.int64]:
        """See `edakari.core.protocols.IndexedTask`."""
        labels: npt.NDArray[np.int64] = _images(self.images, self.seed, split)[1].numpy()
        return labels

    def batches_at(
        self, split: Split, parts: Sequence[npt.NDArray[np.int64]], *, augmented: bool = False
    ) -> Iterable[Batch]:
        """See `edakari.core.protocols.IndexedTask`; the augmentation mirrors."""
        images, labels = _images(self.images, self.seed, split)
        images = images.flip(3) if augmented else images
        numbers = [torch.from_numpy(part) for part in parts]
        return [(images[each], labels[each], each) for each in numbers]

    def with_indices(self, views: int = 1) -> Iterable[Batch]:
        """See `edakari.core.protocols.IndexedTask`; the second view is a mirror image of the first."""
        images, labels = _images(self.images, self.seed, "train")
        drawn = [images if view % 2 == 0 else images.flip(3) for view in range(views)]
        return [
            (torch.cat([view[each] for view in drawn]), labels[each].repeat(views), each.repeat(views))
            for each in torch.split(torch.arange(self.images), self.batch)
        ]

    def digest(self) -> str:
        """See `edakari.core.protocols.IndexedTask`."""
        return f"toy {self.images} {self.seed}"

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """See `edakari.core.protocols.Task`."""
        weight = next(model.parameters())
        outputs: torch.Tensor = model(batch[0].to(weight))
        return outputs

    def loss(self, outputs: torch.Tensor, batch: Batch) -> Mapping[str, torch.Tensor]:
        """See `edakari.core.protocols.Task`."""
        return {"cross_entropy": functional.cross_entropy(outputs, batch[1].to(outputs.device))}

    def evaluate(self, model: nn.Module, split: Split = "val") -> Mapping[str, float]:
        """See `edakari.core.protocols.Task`."""
        with eval_mode(model), torch.no_grad():
            right = [(self.outputs(model, batch).argmax(1).cpu() == batch[1]).float() for batch in self.batches(split)]
        return {"accuracy": float(torch.cat(right).mean())}


def toy_fit(
    model: nn.Module,
    objective: Objective,
    schedule: Schedule,
    *,
    hooks: Sequence[Hook] = (),
    params: Sequence[torch.Tensor] | None = None,
    batches: Iterable[Batch] | None = None,
) -> None:
    """A plain loop over `ToyTask` in the shape of `edakari.core.protocols.Fit`, without devices or launchers."""
    params = [weight for weight in model.parameters() if weight.requires_grad] if params is None else list(params)
    state = StepState(model, torch.optim.SGD(params, lr=schedule.lr, momentum=schedule.momentum), 0, 0)
    with preserve_modes(model), torch.random.fork_rng(devices=[]):
        model.train()
        for state.epoch in range(schedule.epochs):
            total = 0.0
            for batch in ToyTask().batches("train") if batches is None else batches:
                torch.manual_seed(state.step)  # as `fit` has it, so that the same job ends the same
                for hook in hooks:
                    hook.before_step(state)
                state.optimizer.zero_grad()
                loss = torch.stack(list(objective(model, batch).values())).sum()
                state.loss = float(loss.detach())
                total += state.loss
                loss.backward()  # type: ignore[no-untyped-call]
                state.optimizer.step()
                for hook in hooks:
                    hook.after_step(state)
                state.step += 1
            if not math.isfinite(total):  # as `fit` has it, before hooks look at what is left
                raise ModelError(f"toy_fit: the loss is not finite in epoch {state.epoch + 1}; lower the learning rate")
            for hook in hooks:
                hook.end_epoch(state)
    state.optimizer.zero_grad()


def toy_job(model: nn.Module, budget: str = "macs<=50%", seed: int = 0) -> Job:
    """Make a method's job for a toy network and `ToyTask`; a latency in the budget is the MACs by another name."""
    task = ToyTask()
    graph = trace(model, task.example())
    latency = macs(graph)
    costs = (dc.replace(latency, name="latency", unit="ms"),) if "latency" in budget else ()
    asked = Budget.parse(budget)
    known = {**dense(graph, asked), **{cost.name: cost.total({}) for cost in costs}}
    limits = asked.absolute(known)
    return Job(copied(model), graph, graph.groups, task, limits, toy_fit, costs, allocating=allocate, seed=seed)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


@functools.lru_cache(maxsize=8)
def _images(count: int, seed: int, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(CLASSES, 3, PIXELS, PIXELS, generator=generator)
    generator.manual_seed(seed + 1 + ("train", "calibration", "val").index(split))
    labels = torch.arange(count) % CLASSES
    return patterns[labels] + torch.randn(count, 3, PIXELS, PIXELS, generator=generator), labels
