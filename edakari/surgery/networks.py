"""Networks by name, pruned ones by the folder that they lie in."""

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
    """Whether a name is that of a folder, where pruned networks lie."""
    return Path(name).is_dir() or (Path(name) / NETWORK).is_file()


@file_errors()
def build(
    spec: ModelSpec | str, *, weights: str | Path | None = None, trust_code: bool = False, **options: Any
) -> nn.Module:
    """A network from its name, in evaluation mode.

    Args:
        spec: name or whole description, see `ModelSpec`; or a folder with a pruned network, such as a run's.
        weights: takes the place of the description's; None is random, or those of the pruned network.
        trust_code: whether to run a Python file that the folder of a pruned network names to build it.
        options: are added to the description's.

    Raises:
        UnknownName: no such source or network; says the nearest.
        ModelError: the constructor fails, or the file or function of a user's own is not there.
        WeightsError: the weights cannot be had or do not fit.
        RunFolderError: the folder holds no pruned network.
        UntrustedCode: its network is built by a Python file, and `trust_code` is not set.
    """
    require("build(spec)", spec=(spec, (ModelSpec, str)))
    spec = ModelSpec(spec) if isinstance(spec, str) else spec
    if not is_saved(spec.name):
        return build_dense(spec, weights=weights, **options)
    asked = str(weights) if weights is not None else spec.weights
    if asked is not None or spec.options or options:
        raise ModelError(
            f"model {spec.name!r}: a pruned network comes with its weights and options; leave weights "
            f"({asked!r}) and options ({ {**spec.options, **options}!r}) out"
        )
    return load(spec.name, trust_code=trust_code)
