"""Notices networks that let nothing pass any more: their outputs are the same for every input."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from edakari.core.modes import eval_mode
from edakari.core.protocols import Batch, Task
from edakari.errors import EdakariWarning

__all__ = ["blocked_at", "warn_if_blocked"]


def warn_if_blocked(dense: nn.Module, pruned: nn.Module, task: Task) -> None:
    """Warn if a pruned network gives the same outputs for all images of a calibration batch, unlike the dense one.

    A layer with hardly any weights left may let nothing but a constant pass. Training does not mend this, and nothing
    but a metric at chance would show it.

    Args:
        dense: the dense network.
        pruned: the pruned network.
        task: task with calibration batches.
    """
    batch = next(iter(task.batches("calibration")), None)
    path = None if batch is None else blocked_at(pruned, task, batch)
    if path is None or blocked_at(dense, task, batch) is not None:
        return
    module = pruned.get_submodule(path)
    weights = list(module.parameters(recurse=False))
    left, whole = sum(int(each.count_nonzero()) for each in weights), sum(each.numel() for each in weights)
    warnings.warn(
        f"the pruned network gives the same outputs for every input: nothing but a constant passes {path!r} "
        f"({type(module).__name__}, {left} of its {whole} weights are not zero). Training will not mend this: ask for "
        "less, mask in more and smaller steps, or leave this layer out",
        EdakariWarning,
        stacklevel=2,
    )


@torch.no_grad()
def blocked_at(model: nn.Module, task: Task, batch: Batch) -> str | None:
    """Return the path of the last module whose inputs differ within a batch while its outputs do not.

    Args:
        model: the network.
        task: task that calls it.
        batch: batch of two examples or more.

    Returns:
        None if the outputs of the network differ, or cannot be compared because calling it fails.
    """
    found: list[str] = []
    hooks = [
        module.register_forward_hook(_noting(path, found))
        for path, module in model.named_modules()
        if next(module.children(), None) is None
    ]
    try:
        with eval_mode(model):
            outputs = task.outputs(model, batch)
    except Exception:
        # of a task whose loss calls the network in another way: what cannot be compared is no reason to end a run
        return None
    finally:
        for hook in hooks:
            hook.remove()
    return found[-1] if found and not _differ(outputs) else None


def _noting(path: str, found: list[str]) -> Any:
    def note(module: nn.Module, args: Any, output: Any) -> None:
        if not _differ(output) and _differ(args):
            found.append(path)

    return note


def _differ(values: Any) -> bool:
    """Whether floating-point tensors differ along their first dimension; also if there is nothing to compare."""
    tensors = [each for each in tree_leaves(values) if isinstance(each, torch.Tensor) and each.is_floating_point()]
    compared = [each for each in tensors if each.ndim > 1 and len(each) > 1]
    return not compared or any(bool((each != each[:1]).any()) for each in compared)
