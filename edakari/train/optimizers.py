"""Optimizers by name: torch's, TensorFlow's RMSprop, and all of timm's."""

from __future__ import annotations

import dataclasses as dc
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from edakari.core.optional import missing_packages, require_packages
from edakari.core.protocols import Schedule
from edakari.errors import SettingsError, nearest

__all__ = ["adam", "adamw", "of_timm", "options_of", "rmsprop", "sgd", "timm_arguments"]

Groups = Sequence[dict[str, Any]]
"""Parameter groups of an optimizer."""
FIELDS = {"params": "optimizer", "opt": "optimizer"} | {
    name: name for name in ("lr", "weight_decay", "momentum", "eps", "betas")
}
"""Arguments of optimizers, and the fields of a schedule that decide them."""
FUSED_ON = ("cuda",)
"""Kinds of devices on which SGD, Adam and AdamW take one fused step for all parameters."""
TIMM_NAMES = {"rmsprop": "rmsproptf"}
"""Names of timm where they differ: its "rmsprop" has epsilon outside of the root."""


def sgd(groups: Groups, schedule: Schedule) -> torch.optim.Optimizer:
    """Make torch's SGD, with Nesterov momentum if there is any."""
    own = {"nesterov": schedule.momentum > 0, **options_of(schedule, torch.optim.SGD)}
    return torch.optim.SGD(groups, schedule.lr, momentum=schedule.momentum, **_fused(groups, schedule, own))


def adam(groups: Groups, schedule: Schedule) -> torch.optim.Optimizer:
    """Make torch's Adam."""
    return torch.optim.Adam(groups, schedule.lr, **_fused(groups, schedule, options_of(schedule, torch.optim.Adam)))


def adamw(groups: Groups, schedule: Schedule) -> torch.optim.Optimizer:
    """Make torch's AdamW."""
    return torch.optim.AdamW(groups, schedule.lr, **_fused(groups, schedule, options_of(schedule, torch.optim.AdamW)))


def rmsprop(groups: Groups, schedule: Schedule) -> torch.optim.Optimizer:
    """Make TensorFlow's RMSprop, which adds epsilon inside the root; timm has it."""
    return _by_timm("rmsprop", groups, schedule)


def of_timm() -> Mapping[str, Callable[[Groups, Schedule], torch.optim.Optimizer]]:
    """Return makers of all optimizers that timm lists, by name; none if timm is not installed."""
    if missing_packages("timm"):
        return {}
    return {name: functools.partial(_by_timm, name) for name in _timm("optimizers by name").list_optimizers()}


def timm_arguments(schedule: Schedule) -> dict[str, Any]:
    """Return the arguments of timm's `create_optimizer_v2` for a schedule.

    Raises:
        SettingsError: timm's optimizer does not take a setting, or needs second derivatives.
    """
    timm = _timm(f"the optimizer {schedule.optimizer!r}")
    # timm's "sgd" is Nesterov's, which needs momentum; its "momentum" is without
    plain = schedule.optimizer == "sgd" and schedule.momentum == 0
    name = "momentum" if plain else TIMM_NAMES.get(schedule.optimizer, schedule.optimizer)
    if timm.get_optimizer_info(name).second_order:
        raise SettingsError(f"optimizer: {schedule.optimizer!r} needs second derivatives, which no loop here computes")
    try:
        own = options_of(schedule, timm.get_optimizer_class(name, bind_defaults=False))
    except (AssertionError, ImportError) as error:
        raise SettingsError(f"optimizer: {schedule.optimizer!r} cannot be used here: {error}") from None
    return {
        "opt": name,
        "lr": schedule.lr,
        "weight_decay": schedule.weight_decay,
        "momentum": schedule.momentum,
        **own,
    }


def options_of(schedule: Schedule, cls: Any) -> dict[str, Any]:
    """Return the arguments of an optimizer that a schedule sets only if asked: `eps`, `betas` and its options.

    Args:
        schedule: the schedule.
        cls: class of the optimizer.

    Raises:
        SettingsError: the optimizer has no such argument, or a field of the schedule decides it.
    """
    options = dict(schedule.optimizer_options or {})
    for name in options:
        if name in FIELDS:
            raise SettingsError(
                f"optimizer_options: {name} is decided by the schedule's own field; set {FIELDS[name]} instead"
            )
    given = {name: value for name in ("eps", "betas") if (value := getattr(schedule, name)) is not None}
    parameters = inspect.signature(cls).parameters
    if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        for name in (*given, *options):
            _require_taken(name, f"optimizer_options.{name}" if name in options else name, list(parameters), schedule)
    usual = parameters["betas"].default if "betas" in parameters else None
    if schedule.betas is not None and isinstance(usual, tuple) and len(usual) != len(schedule.betas):
        raise SettingsError(f"betas: optimizer {schedule.optimizer!r} takes {len(usual)}, found {schedule.betas!r}")
    return {**given, **options}


def _require_taken(name: str, key: str, taken: Sequence[str], schedule: Schedule) -> None:
    if name not in taken:
        close = nearest(name, taken)
        raise SettingsError(
            f"{key}: optimizer {schedule.optimizer!r} has no such argument"
            + (f"; did you mean {close!r}?" if close else ".")
            + f" It takes {', '.join(each for each in taken if FIELDS.get(each, 'eps') in ('eps', 'betas'))}"
        )


def _fused(groups: Groups, schedule: Schedule, own: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments with `fused`, where all parameters lie where torch has such kernels that check their layout.

    On the CPU they do not check it, and gain less than a hundredth of a step. With fp16, gradients would be scaled
    until they are inside the kernel, and hooks before an update would see the scaled ones.
    """
    fits = all(param.device.type in FUSED_ON for group in groups for param in group["params"])
    if not fits or schedule.precision == "fp16" or not own.keys().isdisjoint(("fused", "foreach", "differentiable")):
        return own
    return {**own, "fused": True}


def _by_timm(name: str, groups: Groups, schedule: Schedule) -> torch.optim.Optimizer:
    arguments = timm_arguments(dc.replace(schedule, optimizer=name))
    made: torch.optim.Optimizer = _timm(f"the optimizer {name!r}").create_optimizer_v2(groups, **arguments)
    return made


def _timm(purpose: str) -> Any:
    """The optimizers of timm, which has no type annotations."""
    require_packages("train", purpose, "timm")
    return importlib.import_module("timm.optim")
