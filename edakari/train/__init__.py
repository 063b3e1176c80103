"""The training loop, its objectives, optimizers and checkpoints."""

from edakari.core.objective import task_objective
from edakari.train.bank import Bank, BankTeaching, bank_in
from edakari.train.loop import Evaluate, FitSettings, fit, fitter
from edakari.train.losses import distillation
from edakari.train.optim import learning_rate
from edakari.train.progress import progress_bar
from edakari.train.resume import History
from edakari.train.statistics import batch_statistics, has_norms, recalibrate, recalibrate_

__all__ = [
    "Bank",
    "BankTeaching",
    "Evaluate",
    "FitSettings",
    "History",
    "bank_in",
    "batch_statistics",
    "distillation",
    "fit",
    "fitter",
    "has_norms",
    "learning_rate",
    "progress_bar",
    "recalibrate",
    "recalibrate_",
    "task_objective",
]
