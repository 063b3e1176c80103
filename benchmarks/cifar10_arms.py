"""The arms of cifar10.py: methods and their settings, budgets, and the trials by which settings are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SMCP = {
    "interval": 1000,
    "average": "squares",
    "norm_scale": "none",
    "momentum": 0.9,
    "weight_decay": 0.0005,
    "lr_warmup": 0.05,
}
REPEATED = {**SMCP, "interval": 18}
"""Four choices of masks in an epoch of 352 steps, each by 1,152 images or more: scores of six steps are too noisy
(benchmarks/repeated_choice.py). The decay of masked weights follows from the schedule."""
PHASES = {"smcp": (0.0, 0.0, 0.92), "smcp repeated": (0.05, 0.15, 0.8)}
"""Fractions of the training before masks are chosen, in which the budget tightens, and in which the masks stay: the
fine-tuning is within the last."""
HALP = {"milestones": 15, "milestone_interval": 6, "momentum": 0.9, "weight_decay": 0.0005, "lr_warmup": 0.05}
EKG = {"warmup_images": 64, "finetune.teacher": "bank", "finetune.bank": {"teachers": 5, "temperature": 4.0}}
"""With one view of each image, so that the network sees as many as in the other arms; the warm-up sees 640 more."""
RFC = {"data.calibration_size": 5000}
DLRFC = {
    "data.calibration_size": 2560,
    "criterion": {"responses": {"images": 2560}},
    "trial": {"images": 512, "tolerance": 4.0, "recovery_epochs": 0},
}
"""Without training between the rounds, which a short schedule has no room for; of few images, larger drops show."""
ISP = {
    "data.calibration_size": 1280,
    "predictor_epochs": 1,
    "explainer_epochs": 1,
    "explain_share": 0.25,
    "mask_widths": [0.156, 0.344],
    "gate_epochs": 10,
    "gate_lr": 0.1,
}
"""Predictor, explainer and gates are trained beside it, each with fewer images than the fine-tuning has; the network's
own weights stay as they are meanwhile."""
ONE_CUT = {"iterations": 1}
"""All arms see the same images; training between cuts would add to them."""

ARMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    **{name: (name, ONE_CUT) for name in ("magnitude", "bn_scale", "fpgm", "taylor", "random")},
    "smcp": ("smcp", SMCP),
    "smcp repeated": ("smcp", REPEATED),
    "halp": ("halp", HALP),
    "ekg": ("ekg", EKG),
    "rfc": ("rfc", {**RFC, **ONE_CUT}),
    "dlrfc": ("dlrfc", DLRFC),
    "isp": ("isp", ISP),
}
"""Method and its settings, or with a dot in their names any of the recipe's, by the arm's name."""
PEERS = ("torch-pruning group norm", "torch-pruning taylor")
BUDGETS = ("macs<=50%", "macs<=40%", "macs<=30%", "latency<=60%", "latency<=45%")

GRID = ("magnitude", "taylor", "smcp", "smcp repeated", "torch-pruning group norm")
"""Arms of the full grid: all budgets and three seeds, after equal tuning. Other arms run where they are asked for."""
FLOOR, SHARED, SUMMED = {"groups.min_channels": 0.25}, {"sharing": 0.5}, {"scarcity": 0.0}
BY_MAXIMUM = {"criterion": {"normalize": "max"}}
TRIALS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "magnitude": ({}, BY_MAXIMUM, FLOOR),
    "taylor": ({}, BY_MAXIMUM, FLOOR),
    "smcp": ({}, SHARED, SUMMED),
    "smcp repeated": ({}, SHARED, SUMMED),
    "torch-pruning group norm": ({}, {"normalizer": "max"}, {"max_pruning_ratio": 0.75}),
}
"""Three trials an arm of the grid; the settings of the best one are those of all its runs."""
TUNED_AT = "macs<=40%"
HELD_OUT = 5000
"""Training images that no trial trains on and all trials are judged by."""


def planned(seeds: int = 3) -> list[str]:
    """Keys of all runs of the grid."""
    return [f"{arm}, {budget}, seed {seed}" for seed in range(seeds) for budget in BUDGETS for arm in GRID]


def best_trial(trials: Mapping[str, Mapping[str, Any]], arm: str) -> Mapping[str, Any]:
    """Settings of the best recorded trial of an arm; none for arms without trials.

    Raises:
        SystemExit: trials of the arm are missing.
    """
    rows = [trials.get(trial_key(arm, number)) for number in range(len(TRIALS.get(arm, ())))]
    if None in rows:
        raise SystemExit(f"{arm}: run its trials first, by --tune, or leave them out by --untuned")
    best = max((row for row in rows if row), key=lambda row: row["top1"], default={"settings": {}})
    settings: Mapping[str, Any] = best["settings"]
    return settings


def trial_key(arm: str, number: int) -> str:
    """Key of a trial in the results."""
    return f"{arm}, trial {number + 1}"
