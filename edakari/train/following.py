"""A training continues after a hook has made the network smaller."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from torch import nn

from edakari.core.files import json_text
from edakari.core.history import plans_of
from edakari.core.processes import Processes
from edakari.core.wrappers import inner
from edakari.errors import ModelError
from edakari.train.scope import Moved, Trained

__all__ = ["put_parameters", "require_followed", "require_one_process", "require_same_everywhere"]

CURE = "cut it by edakari.shrink(state.model, plan, state.optimizer, *state.averages)"


def require_followed(chosen: Trained, optimizer: Any, averages: Sequence[Any]) -> None:
    """Refuse a cut that an optimizer or an average has not followed.

    Args:
        chosen: the trained tensors after the cut.
        optimizer: the optimizer.
        averages: objects whose `module` is a network of averaged weights.

    Raises:
        ModelError: one of them holds tensors of the network before the cut; says what to do.
    """
    held = {id(param) for group in optimizer.param_groups for param in group["params"]}
    if held != {id(param) for param in (*chosen.own, *chosen.other)}:
        raise ModelError(f"fit: a hook changed the parameters of the network, but the optimizer trains others; {CURE}")
    shapes = [tensor.shape for tensor in chosen.model.state_dict().values()]
    for average in averages:
        if [tensor.shape for tensor in average.module.state_dict().values()] != shapes:
            raise ModelError(f"fit: a hook cut the network, but its averaged weights are still those before; {CURE}")


def require_same_everywhere(model: nn.Module) -> None:
    """Refuse networks that differ between processes; with one process nothing is compared.

    Raises:
        ModelError: the networks, or the plans that made them, differ.
    """
    here = Processes.here()
    if here.world == 1:
        return
    found = here.gathered_objects(_digest(model))
    other = next((rank for rank, digest in enumerate(found) if digest != found[0]), None)
    if other is not None:
        raise ModelError(
            f"fit: hooks cut the network by one plan on process 0 and by another on process {other}. Decide on one "
            "process and send the plan to the others, by edakari.core.processes.Processes.here().from_main(...)"
        )


def require_one_process(name: str) -> None:
    """Refuse a cut in a training loop that would average gradients of parameters before the cut.

    Args:
        name: name of the loop.

    Raises:
        ModelError: there are several processes.
    """
    if Processes.here().world > 1:
        raise ModelError(
            f"fit {name!r}: a hook made the network smaller, and with several processes this loop would still average "
            "the gradients of the network before. Train in one process, or by edakari's own fit (leave out fit)"
        )


def put_parameters(optimizer: Any, moved: Moved) -> None:
    """Replace the parameters of an optimizer that has not taken a step.

    Args:
        optimizer: the optimizer, changed in place.
        moved: pairs of parameters before and after a cut.
    """
    after = {id(old): new for old, new in moved}
    for group in optimizer.param_groups:
        found = [after.get(id(param), param) for param in group["params"]]
        group["params"][:] = [param for param in found if param is not None]


def _digest(model: nn.Module) -> str:
    while (found := inner(model)) is not None:
        model = found
    shapes: list[tuple[str, list[int]]] = [(name, [*param.shape]) for name, param in model.named_parameters()]
    content = {"shapes": shapes, "plans": [plan.digest() for plan in plans_of(model)]}
    return hashlib.sha256(json_text(content, "the network").encode()).hexdigest()
