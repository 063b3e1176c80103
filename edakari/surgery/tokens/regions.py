"""Detection of the checkpointed part that torch is running, for the first time or again."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import checkpoint as source

__all__ = ["forward_region", "repeated_region"]


def forward_region() -> object | None:
    """Return an object that identifies the checkpointed part of the current forward pass; None outside of one.

    Reentrant checkpointing runs such a part without gradients inside an autograd function; the non-reentrant form
    records it by hooks on saved tensors.
    """
    if torch.is_grad_enabled():
        hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
        return None if hooks is None else _held(hooks[1], "frame")
    return _in_stack("forward")


def repeated_region() -> object | None:
    """Return an object that identifies the checkpointed part that a backward pass recomputes; None otherwise."""
    return _in_stack("backward")


def _held(hook: Callable[..., Any], name: str) -> object | None:
    """Return a variable from a function's closure."""
    code, cells = getattr(hook, "__code__", None), getattr(hook, "__closure__", None) or ()
    kept = dict(zip(code.co_freevars, cells, strict=False)) if code is not None else {}
    return kept[name].cell_contents if name in kept else None


def _in_stack(method: str) -> object | None:
    code = getattr(source.CheckpointFunction, method).__code__
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is code:
            return frame.f_locals.get("ctx")
        again = method == "backward" and frame.f_code.co_name == "unpack_hook"
        if again and frame.f_code.co_filename == source.__file__:
            return frame.f_locals.get("frame")
        frame = frame.f_back
    return None
