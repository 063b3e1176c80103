"""Folders of networks as they are: of pruned ones with their plans, of others with a plan without edits."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from edakari.core.plan import Plan
from edakari.errors import ModelError
from edakari.graph import trace
from edakari.models import default_example, spec_of
from edakari.surgery.applying import apply
from edakari.surgery.origin import steps_of
from edakari.surgery.store import save

__all__ = ["save_as_pruned"]


def save_as_pruned(model: nn.Module, folder: str | Path) -> None:
    """Save a network to a folder, from which `load` reads it; a network that the folder holds is replaced.

    Args:
        model: network that `edakari.build`, `apply`, `load` or `transfer` made, perhaps trained since then.
        folder: the folder.

    Raises:
        ModelError: it is not known how the network is built.
        EdakariError: see `save`.
    """
    steps, spec = steps_of(model), spec_of(model)
    if steps:
        save(model, steps[-1].plan, folder, overwrite=True)
        return
    if spec is None:
        raise ModelError(f"it is not known how this {type(model).__name__} is built; save its state_dict instead")
    graph = trace(model, default_example(spec, model))
    whole = Plan((), graph.fingerprint, graph.inputs, "")
    save(apply(model, whole, graph), whole, folder, overwrite=True)
