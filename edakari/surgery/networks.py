"""Construction of networks by name, and of pruned networks by folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from edakari.core.arguments import require
from edakari.core.file_errors import file_errors
from edakari.errors import ModelError
from edakari.models import ModelSpec
from edakari.models import build as build_dense
from edakari.surgery.store import NETWORK, load

__all__ = ["build", "is_saved"]


def is_saved(name: str) -> bool:
    """Return whether a name is a folder, which holds a pruned network."""
    return Path(name).is_dir() or (Path(name) / NETWORK).is_file()


@file_errors()
def build(
    spec: ModelSpec | str, *, weights: str | Path | None = None, trust_code: bool = False, **options: Any
) -> nn.Module:
    """Build a network from its name, in evaluation mode.

    Args:
        spec: name or complete description, see `ModelSpec`; or a folder with a pruned network, such as a run folder.
        weights: weights that replace those of the description; None means random, or the pruned network's weights.
        trust_code: whether to run a Python file that the folder of a pruned network names.
        options: options that are added to those of the description.

    Raises:
        UnknownName: the source or the network is unknown; the message suggests the nearest name.
        ModelError: the constructor fails, or the user's file or function does not exist.
        WeightsError: the weights are not available or do not fit.
        RunFolderError: the folder holds no pruned network.
        UntrustedCode: a Python file builds the network, and `trust_code` is not set.
    """
    require("build(spec)", spec=(spec, (ModelSpec, str)))
    spec = ModelSpec(spec) if isinstance(spec, str) else spec
    if not is_saved(spec.name):
        return build_dense(spec, weights=weights, **options)
    asked = str(weights) if weights is not None else spec.weights
    if asked is not None or spec.options or options:
        raise ModelError(
            f"model {spec.name!r}: a pruned network comes with its weights and options; omit weights "
            f"({asked!r}) and options ({ {**spec.options, **options}!r})"
        )
    return load(spec.name, trust_code=trust_code)
