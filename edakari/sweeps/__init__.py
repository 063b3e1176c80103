"""Many runs: sweeps over methods, budgets, seeds and other keys of a recipe, and comparisons of runs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edakari.sweeps.comparing import Comparison, compare
    from edakari.sweeps.settings import SweepSettings, read_sweep
    from edakari.sweeps.sweeping import sweep

__all__ = ["Comparison", "SweepSettings", "compare", "read_sweep", "sweep"]

_HOMES = {
    "Comparison": "comparing",
    "SweepSettings": "settings",
    "compare": "comparing",
    "read_sweep": "settings",
    "sweep": "sweeping",
}


def __getattr__(name: str) -> Any:
    # a comparison needs no optuna
    if name not in _HOMES:
        raise AttributeError(f"module 'edakari.sweeps' has no attribute {name!r}")
    return getattr(importlib.import_module(f"edakari.sweeps.{_HOMES[name]}"), name)
