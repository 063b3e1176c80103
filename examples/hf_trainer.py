"""Prune a vision transformer, and train on with transformers' own `Trainer`: `python examples/hf_trainer.py`.

The script's `Trainer` trains a tiny ViT, edakari prunes it to half its multiply-accumulates by Taylor scores, and the
same kind of `Trainer` fine-tunes it. Then it is saved and loaded. Needs `pip install "edakari[transformers]"`. The
images come with edakari, in place of yours. Six epochs are few: the unpruned network would gain from three more, too.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, default_data_collator

import edakari as ek
from edakari.tasks.sources import embedded

INPUT = {"image_size": 28, "patch_size": 7, "num_channels": 1, "num_labels": 10}
SIZES = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}
CONFIG = ViTConfig(**INPUT, **SIZES)


class Images(Dataset[dict[str, torch.Tensor]]):
    """Fashion-MNIST under the names that `forward` of the network takes, as in a `datasets.Dataset`."""

    def __init__(self, split: str, count: int | None) -> None:
        data = embedded("fashion", split)
        self.images = (torch.from_numpy(data.images[:count]).permute(0, 3, 1, 2) / 255 - 0.286) / 0.353
        self.labels = torch.from_numpy(data.labels[:count])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


def accuracy(found: Any) -> dict[str, float]:
    """The `compute_metrics` of the trainer."""
    return {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())}


def main(folder: Path, *, quick: bool = False) -> dict[str, float]:
    """Train, prune, fine-tune, save and load; the accuracies."""
    train, val = Images("train", 256 if quick else None), Images("test", 128 if quick else None)

    def trainer(network: nn.Module, epochs: int = 1) -> Trainer:
        batches = {"per_device_train_batch_size": 64, "per_device_eval_batch_size": 256}
        quiet = {"report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
        arguments = TrainingArguments(
            str(folder / "trainer"), num_train_epochs=epochs, learning_rate=2e-3, warmup_steps=0.1, **batches, **quiet
        )
        return Trainer(network, arguments, train_dataset=train, eval_dataset=val, compute_metrics=accuracy)

    def judged(network: nn.Module) -> float:
        return float(trainer(network).evaluate()["eval_accuracy"])

    dense = ViTForImageClassification(CONFIG)
    trainer(dense, 6).train()

    # batches as the trainer makes them, and the loss that the network returns
    batches = DataLoader(train, 64, shuffle=True, collate_fn=default_data_collator)
    example = {"pixel_values": train[0]["pixel_values"][None]}
    task = ek.Task.of(example, train=batches, loss=lambda network, batch: network(**batch).loss)
    result = ek.prune(dense, task, "macs<=50%", "taylor")
    small = result.model
    found = {"dense": judged(dense), "pruned": judged(small)}
    trainer(small, 3).train()
    found["pruned and fine-tuned"] = judged(small)

    # `save_pretrained` would store the sizes of the dense network in config.json, so that `from_pretrained` fails
    ek.save(small, result.plan, folder / "pruned")
    found["loaded"] = judged(ek.load(folder / "pruned", ViTForImageClassification(CONFIG)))

    print(result)
    for name, value in found.items():
        print(f"accuracy {value:.3f}  {name}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few images, to see that it runs")
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary), quick=parser.parse_args().quick)
