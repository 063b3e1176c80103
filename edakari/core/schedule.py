"""The schedule of a training: its length, its learning rates, its optimizer and what else every loop must do."""

from __future__ import annotations

import dataclasses as dc
import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from edakari.core.curves import CURVES, Cosine, Curve, Steps
from edakari.core.registry import Registry
from edakari.core.settings import (
    BelowOne,
    Count,
    Fraction,
    LearningRate,
    NonNegative,
    OpenFraction,
    Positive,
    PositiveFraction,
    Whole,
    settings,
)
from edakari.errors import SettingsError

__all__ = ["OPTIMIZERS", "Precision", "Schedule"]

Precision = Literal["auto", "fp32", "bf16", "fp16"]
"""Precision of a training; "auto" is bf16 if the device supports it natively, else fp32."""

OPTIMIZERS: Registry[Any] = Registry(
    "optimizer",
    "edakari.optimizers",
    {
        "adam": "edakari.train.optimizers:adam",
        "adamw": "edakari.train.optimizers:adamw",
        "rmsprop": "edakari.train.optimizers:rmsprop",
        "sgd": "edakari.train.optimizers:sgd",
    },
    members=("__call__",),
    others={"timm": "edakari.train.optimizers:of_timm"},
)
"""Functions from parameter groups and a schedule to an optimizer, by name."""

SHORT = ("warmup", "final_lr", "drops", "drop")
"""Fields of a schedule that are short for settings of a curve."""


@settings
class Schedule:
    """Schedule and optimizer settings of a training.

    Args:
        epochs: number of passes over the training data.
        lr: peak learning rate.
        optimizer: "sgd" (Nesterov momentum), "adam", "adamw", "rmsprop" (TensorFlow's, with epsilon inside the root),
            or any name of timm's `create_optimizer_v2`, such as "lamb".
        momentum: momentum of optimizers that have one, such as SGD.
        weight_decay: weight decay of weights with two or more dimensions, as the optimizer defines it; norms and biases
            have none.
        warmup: fraction of all steps in which the learning rate rises linearly.
        final_lr: learning rate at the end of the cosine, as a fraction of `lr`.
        drops: positions, as fractions of all steps, at which the learning rate is multiplied by `drop`; if empty, it
            falls along a cosine.
        drop: factor of the learning rate at each of `drops`.
        accumulate: number of batches per optimizer step.
        clip: largest gradient norm; 0 does not clip.
        ema: decay of the averaged weights that are returned; 0 does not average.
        precision: "fp32", "bf16" or "fp16" autocast; "auto" is "bf16" where the device computes it, else "fp32".
        curve: curve of the learning rate with its settings. None makes one of the four fields from `warmup` to `drop`,
            which are not used otherwise.
        eps: number that keeps the optimizer's division stable; None is its own default.
        betas: decay rates of the optimizer's averages; None is its own default.
        optimizer_options: other arguments of the optimizer's class, such as `{alpha: 0.9}` of "rmsprop".
        l2: factor of an L2 penalty on weights of linear and convolutional layers and the last layer's bias; see
            `edakari.train.WeightPenalty`. None adds none.
    """

    epochs: Whole = 1
    lr: LearningRate = 0.01
    optimizer: Annotated[str, OPTIMIZERS] = "sgd"
    momentum: BelowOne = 0.9
    weight_decay: NonNegative = 5e-4
    warmup: Fraction = 0.05
    final_lr: Fraction = 0.0
    drops: tuple[OpenFraction, ...] = ()
    drop: PositiveFraction = 0.2
    accumulate: Count = 1
    clip: NonNegative = 0.0
    ema: BelowOne = 0.0
    precision: Precision = "fp32"
    # A folder of a run or a training that was begun before these were there has none of them, which reads as None.
    curve: Annotated[Curve | None, CURVES] = None
    eps: Positive | None = None
    betas: tuple[BelowOne, ...] | None = None
    optimizer_options: Mapping[str, Any] | None = None
    l2: NonNegative | None = None

    def __post_init__(self) -> None:
        if self.curve is None:
            return
        name = CURVES.name_of(self.curve) or type(self.curve).__name__
        curve: Any = self.curve
        own = [field.name for field in dc.fields(curve)] if dc.is_dataclass(curve) else []
        for field in dc.fields(Schedule):
            given = getattr(self, field.name)
            if field.name in SHORT and given != field.default:
                way = f"set it in curve: {{name: {name}, {field.name}: ...}}" if field.name in own else "remove it"
                raise SettingsError(
                    f"Schedule: {field.name} is of schedules without a curve, found {given!r} beside curve {name!r}, "
                    f"whose settings are: {', '.join(own) or 'none'}; {way}"
                )

    @functools.cached_property
    def lr_curve(self) -> Curve:
        """The curve of the learning rate: `curve`, or else a cosine or steps by the fields from `warmup` to `drop`."""
        if self.curve is not None:
            return self.curve
        if self.drops:
            return Steps(warmup=self.warmup, drops=self.drops, drop=self.drop)
        return Cosine(warmup=self.warmup, final_lr=self.final_lr)
