"""Prune YOLO11n and train the pruned network on with ultralytics' own trainer: `python examples/ultralytics_yolo.py`.

`YOLO(...).train(...)` builds its network again from the YAML, so it trains a dense network with random weights instead
of the pruned one. `trainer_for` gives it the pruned network. Needs `pip install ultralytics`, whose licence is
AGPL-3.0. The images are drawn here, and the weights are random, so the figures mean nothing.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import edakari
from edakari.integrations.ultralytics import image_batches, own_loss, trainer_for

SIDE, BOX = 64, 24
COLOURS = {"blue": (60, 60, 250), "red": (250, 60, 60)}


def drawn(folder: Path, count: int = 16) -> Path:
    """Images with a blue or a red square each, in the layout of YOLO; the path of their YAML file."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for index in range(count):
            pixels = generator.integers(0, 80, (SIDE, SIDE, 3), dtype=np.uint8)
            x, y = generator.integers(0, SIDE - BOX, 2)
            pixels[y : y + BOX, x : x + BOX] = list(COLOURS.values())[index % 2]
            Image.fromarray(pixels).save(images / f"{index}.png")
            centre = " ".join(f"{(each + BOX / 2) / SIDE:.4f}" for each in (x, y))
            text = f"{index % 2} {centre} {BOX / SIDE} {BOX / SIDE}\n"
            (labels / f"{index}.txt").write_text(text, encoding="utf-8")
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(COLOURS))
    described = folder / "data.yaml"
    described.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames:\n{names}", encoding="utf-8")
    return described


def shapes(network: torch.nn.Module) -> dict[str, torch.Size]:
    """The shapes of a network's tensors."""
    return {name: value.shape for name, value in network.state_dict().items()}


def main(folder: Path) -> None:
    """Train a dense YOLO11n, prune it, and train the pruned network on."""
    from ultralytics import YOLO

    data = drawn(folder / "data")
    how = {"data": str(data), "imgsz": SIDE, "batch": 8, "device": "cpu", "workers": 0, "plots": False, "amp": False}
    yolo = YOLO("yolo11n.yaml")
    yolo.train(epochs=2, project=str(folder), name="dense", **how)
    dense = yolo.model.float()

    batches = image_batches(data, imgsz=SIDE, batch=8, workers=0)
    task = edakari.Task.of(torch.zeros(1, 3, SIDE, SIDE), train=batches, loss=own_loss)
    result = edakari.prune(dense, task, "macs<=50%", "taylor", device="cpu")
    print(result)
    small, before = result.model, {name: value.clone() for name, value in result.model.state_dict().items()}

    trained = YOLO("yolo11n.yaml")
    trained.train(trainer=trainer_for(small), epochs=2, project=str(folder), name="pruned", **how)

    best = YOLO(folder / "pruned" / "weights" / "best.pt").model
    expected = shapes(small)
    assert shapes(best) == expected, "the checkpoint holds another network than the pruned one"
    assert expected != shapes(dense), "nothing was pruned"
    assert any(not torch.equal(value, before[name]) for name, value in small.state_dict().items()), (
        "nothing was trained"
    )
    kept = sum(parameter.numel() for parameter in best.parameters())
    whole = sum(parameter.numel() for parameter in dense.parameters())
    print(f"trained on: {kept} of {whole} parameters")


if __name__ == "__main__":
    os.environ.setdefault("YOLO_OFFLINE", "true")
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
