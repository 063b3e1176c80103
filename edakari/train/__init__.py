"""The training loop, its objectives, optimizers and checkpoints."""

from edakari.core.objective import task_objective
from edakari.train.bank import Bank, BankTeaching, bank_in
from edakari.train.binding import fitter
from edakari.train.fit_settings import FitSettings
from edakari.train.fits import FITS, fit_by
from edakari.train.gradients import with_gradients
from edakari.train.loop import Evaluate, fit
from edakari.train.losses import distillation
from edakari.train.optim import learning_rate, set_rates
from edakari.train.penalty import WeightPenalty
from edakari.train.progress import progress_bar
from edakari.train.resume import History
from edakari.train.statistics import batch_statistics, has_norms, recalibrate, recalibrate_
from edakari.train.weight_average import WeightAverage

__all__ = [
    "FITS",
    "Bank",
    "BankTeaching",
    "Evaluate",
    "FitSettings",
    "History",
    "WeightAverage",
    "WeightPenalty",
    "bank_in",
    "batch_statistics",
    "distillation",
    "fit",
    "fit_by",
    "fitter",
    "has_norms",
    "learning_rate",
    "progress_bar",
    "recalibrate",
    "recalibrate_",
    "set_rates",
    "task_objective",
    "with_gradients",
]
