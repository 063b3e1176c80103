"""Pruning methods: one file per paper. Importing this package registers all of them."""

from __future__ import annotations

import importlib
import pkgutil

from edakari.methods.allocation import allocate, allocator_named
from edakari.methods.iterative import prune_by

__all__ = ["allocate", "allocator_named", "prune_by"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
