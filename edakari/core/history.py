"""Where a pruned network records the plans that were applied to it."""

from __future__ import annotations

from typing import Any

from edakari.core.plan import Plan

__all__ = ["MEMORY", "plans_of"]

MEMORY = "edakari_steps"
"""Attribute of a network that holds the record; see `edakari.surgery.origin.Step`."""


def plans_of(model: Any) -> tuple[Plan, ...]:
    """Return the plans that were applied to a network, in order; copies of a network keep this record."""
    found = vars(model).get(MEMORY, ())
    return tuple(step.plan for step in found) if isinstance(found, tuple) else ()
