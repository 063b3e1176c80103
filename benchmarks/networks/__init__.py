"""The networks of the coverage table: a file for each library. A name is `library:network`."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterable, Mapping

import torch

from edakari.testing import AWKWARD
from networks import timm as timm_networks
from networks import torchvision as torchvision_networks
from networks import transformers as transformers_networks
from networks.builders import Built

__all__ = ["SUITES", "built", "preload", "sample", "suite"]

TABLES = ("ultralytics", "monai", "smp", "diffusers", "open_clip", "vit_pytorch", "kornia", "spandrel")
"""Libraries whose file is a table from names to builders."""

PACKAGES = {"smp": "segmentation_models_pytorch", "monai": "monai.networks.nets"}
"""Libraries that are imported by another name."""


def built(name: str) -> Built:
    """A network of a name, on meta under `torch.device("meta")`, and its example input on the CPU."""
    library, _, short = name.partition(":")
    torch.manual_seed(0)
    if library in TABLES:
        return _table(library)[short]()
    return BUILDERS[library](short)


def suite(name: str) -> list[str]:
    """The names of a suite's networks."""
    return [f"{name}:{short}" for short in SUITES[name]()]


def sample(count: int, seed: str) -> list[str]:
    """Some of timm's networks at random; equal seeds give equal ones."""
    return [f"timm:{name}" for name in random.Random(seed).sample(sorted(timm_networks.all_names()), count)]


def preload(names: Iterable[str]) -> None:
    """Import the libraries of networks once, for the processes that are forked later."""
    importlib.import_module("edakari.testing")
    for library in dict.fromkeys(name.partition(":")[0] for name in names):
        if library not in ("own", "timm", "timm-all", "torchvision"):
            importlib.import_module(PACKAGES.get(library, library))


def _table(library: str) -> Mapping[str, Callable[[], Built]]:
    return importlib.import_module(f"networks.{library}").NETWORKS


def _own(name: str) -> Built:
    return AWKWARD[name](), torch.zeros(2, 3, 32, 32)


BUILDERS: Mapping[str, Callable[[str], Built]] = {
    "timm": timm_networks.build,
    "timm-all": timm_networks.build_native,
    "torchvision": torchvision_networks.build,
    "transformers": transformers_networks.build,
    "own": _own,
}

SUITES: Mapping[str, Callable[[], Iterable[str]]] = {
    "timm": timm_networks.names,
    "timm-all": timm_networks.all_names,
    "torchvision": torchvision_networks.names,
    "transformers": lambda: transformers_networks.NETWORKS,
    **{library: lambda library=library: _table(library) for library in TABLES},
    "own": lambda: AWKWARD,
}
"""By name, the networks of a suite."""
