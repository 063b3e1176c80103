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
    from edakari.methods.allocate import allocate
    from edakari.run import prune
    from edakari.run.bench import latency
    from edakari.run.token_call import prune_tokens
    from edakari.surgery import apply, build, load, save, simulate

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Plan",
    "__version__",
    "allocate",
    "apply",
    "build",
    "latency",
    "load",
    "prune",
    "prune_tokens",
    "register",
    "save",
    "simulate",
    "trace",
]

_HOMES = {
    "Budget": "edakari.core.budget",
    "Plan": "edakari.core.plan",
    "allocate": "edakari.methods.allocate",
    "apply": "edakari.surgery",
    "build": "edakari.surgery",
    "latency": "edakari.run.bench",
    "load": "edakari.surgery",
    "prune": "edakari.run",
    "prune_tokens": "edakari.run.token_call",
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
