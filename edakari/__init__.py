"""edakari: prunes a trained vision network down to a budget that its user names.

graph = edakari.trace(model, example)
plan = edakari.allocate(graph, scores, edakari.Budget.parse("macs<=50%"))
small = edakari.apply(plan, model)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edakari.core.budget import Budget
    from edakari.core.method import register
    from edakari.core.plan import Plan
    from edakari.graph import trace
    from edakari.latency.measuring import measure_latency
    from edakari.methods.allocation import allocate
    from edakari.pipeline import run
    from edakari.pipeline.token_call import prune_tokens
    from edakari.surgery import apply, build, load, save, simulate

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Plan",
    "__version__",
    "allocate",
    "apply",
    "build",
    "load",
    "measure_latency",
    "prune_tokens",
    "register",
    "run",
    "save",
    "simulate",
    "trace",
]

_HOMES = {
    "Budget": "edakari.core.budget",
    "Plan": "edakari.core.plan",
    "allocate": "edakari.methods.allocation",
    "apply": "edakari.surgery",
    "build": "edakari.surgery",
    "measure_latency": "edakari.latency.measuring",
    "load": "edakari.surgery",
    "run": "edakari.pipeline",
    "prune_tokens": "edakari.pipeline.token_call",
    "register": "edakari.core.method",
    "save": "edakari.surgery",
    "simulate": "edakari.surgery",
    "trace": "edakari.graph",
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and `edakari --help` does not need it
    if name not in _HOMES:
        raise AttributeError(f"module 'edakari' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
