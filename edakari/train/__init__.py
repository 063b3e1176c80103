"""The training loop and what goes into it."""

from edakari.train.loop import Evaluate, FitSettings, fit, fitter
from edakari.train.losses import distillation, task_objective
from edakari.train.optim import learning_rate
from edakari.train.resume import History

__all__ = ["Evaluate", "FitSettings", "History", "distillation", "fit", "fitter", "learning_rate", "task_objective"]
