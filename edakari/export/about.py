"""What an exported file says about its network: names of inputs and outputs, and facts for those who deploy it."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from edakari.core.files import json_text
from edakari.core.output_kinds import OutputKind
from edakari.cost.example import named_tensors

__all__ = ["IMAGES", "OUTPUT_NAMES", "PLAIN", "About", "named_outputs"]

IMAGES = "images"
"""Name of the input of networks that take images."""
OUTPUT_NAMES: Mapping[OutputKind, str] = {
    "class": "logits",
    "classes": "logits",
    "map": "logits",
    "objects": "objects",
    "heatmaps": "heatmaps",
    "vector": "embeddings",
    "numbers": "values",
    "depth": "depths",
    "image": "enlarged",
}
"""Name of the output of networks by what they answer; several outputs are named after their keys, or numbered."""


@dc.dataclass(frozen=True)
class About:
    """What a file says about its network.

    Args:
        input: name of the input if there is one only; others are named after their keywords, or numbered.
        output: name of the output if there is one only; others are named after their keys, or numbered.
        metadata: plain values by name, for formats that can hold some.
    """

    input: str = "input"
    output: str = "output"
    metadata: Mapping[str, Any] = dc.field(default_factory=dict)

    def named(self, example: Any) -> dict[str, torch.Tensor]:
        """Return the tensors of an example by the names of the file's inputs, in the order of the example."""
        return {self.input: example} if isinstance(example, torch.Tensor) else named_tensors(example)

    def texts(self) -> dict[str, str]:
        """Return the metadata as texts: values that are none are JSON."""
        return {
            name: value if isinstance(value, str) else json_text(value, f"metadata {name!r}", ensure_ascii=False)
            for name, value in self.metadata.items()
        }


PLAIN = About()
"""Says nothing but names."""


def named_outputs(outputs: Any, name: str) -> list[str]:
    """Return a name for each tensor in the output of a network, in the order of `output_tensors`.

    Args:
        outputs: what the network gives.
        name: name of a single tensor.
    """
    found = list(_paths(outputs, ""))
    if len(found) == 1:
        return [name]
    return [path if path and not path[0].isdigit() else f"{name}_{path}" for path in found]


def _paths(value: Any, path: str) -> Iterator[str]:
    start = f"{path}_" if path else ""
    if isinstance(value, torch.Tensor):
        yield path
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _paths(part, f"{start}{key}")
    elif isinstance(value, list | tuple) and len(value) == 1:
        yield from _paths(value[0], path)
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _paths(part, f"{start}{index}")
