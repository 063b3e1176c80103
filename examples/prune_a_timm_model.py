"""Prune a timm network to half its multiply-accumulates, in Python, without data.

    python examples/prune_a_timm_model.py

The weights here are random, so that nothing is downloaded: pass `weights="pretrained"` or a safetensors file to
`edakari.build` for a real one, and fine-tune what comes out (`edakari prune` does both).
"""

from __future__ import annotations

import tempfile

import torch

import edakari
from edakari.cost import dense
from edakari.criteria import Magnitude


def main() -> None:
    """Trace, score, allocate, cut, store, read back."""
    model = edakari.build("timm:mobilenetv3_small_050", num_classes=10)
    example = torch.zeros(1, 3, 224, 224)
    graph = edakari.trace(model, example)
    scores = Magnitude().score(model, graph)
    plan = edakari.allocate(graph, scores, "macs<=50%, params<=60%")
    small = edakari.apply(model, plan)
    before, after = dense(graph), dense(edakari.trace(small, example))
    for name in before:
        print(f"{name}: {before[name]:,.0f} -> {after[name]:,.0f} ({after[name] / before[name]:.1%})")
    with tempfile.TemporaryDirectory() as folder:
        edakari.save(small, plan, folder)
        again = edakari.load(folder)
    with torch.no_grad():
        print("difference after reading back:", float((again(example) - small(example)).abs().max()))


if __name__ == "__main__":
    main()
