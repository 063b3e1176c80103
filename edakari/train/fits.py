"""Training loops other than edakari's own: what they are called by, and what is done around them."""

from __future__ import annotations

import dataclasses as dc
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edakari.core.finite import require_finite_figures
from edakari.core.memory_format import in_memory_format
from edakari.core.modes import judging
from edakari.core.processes import Processes
from edakari.core.protocols import Batch, Fit, Hook, Objective, Schedule, StepState
from edakari.core.registry import Registry
from edakari.core.watching import Steps
from edakari.errors import ModelError, WrongArgument
from edakari.train.divergence import advice_for, diverged
from edakari.train.epochs import steps_per_epoch
from edakari.train.fit_settings import FitSettings
from edakari.train.following import require_followed, require_one_process
from edakari.train.gradients import with_gradients
from edakari.train.loop import Evaluate
from edakari.train.penalty import penalty_of
from edakari.train.precision import in_tf32
from edakari.train.progress import epoch_event, step_event
from edakari.train.resume import FitFolder, History, Progress, identity_of
from edakari.train.saving_memory import checkpointed
from edakari.train.scope import Trained, random_state_kept, seed_step, trained
from edakari.train.terms import loss_terms

__all__ = ["FITS", "fit_by", "fit_name", "mean_of", "require_converging", "require_fit"]

FITS: Registry[Any] = Registry(
    "fit",
    "edakari.fits",
    {
        "lightning": "edakari.integrations.lightning:LightningFit",
        "timm": "edakari.integrations.timm:TimmFit",
        "transformers": "edakari.integrations.transformers:TransformersFit",
        "ultralytics": "edakari.integrations.ultralytics:UltralyticsFit",
    },
    members=("__call__",),
)
"""Training loops by the name that a recipe gives them: a `Fit`, or a class of settings whose objects are one."""


def fit_name(fit: Fit) -> str:
    """Return the name of a training loop: that of the registry, or where its function or class is defined."""
    kind: Any = fit if hasattr(fit, "__qualname__") else type(fit)
    return FITS.name_of(fit) or f"{kind.__module__}.{kind.__qualname__}"


def require_fit(fit: Fit) -> None:
    """Refuse what cannot be called as a training loop.

    Raises:
        WrongArgument: it takes other arguments than `edakari.core.protocols.Fit`.
    """
    try:
        inspect.signature(fit).bind(None, None, None, hooks=(), params=None, batches=())
    except TypeError as error:
        raise WrongArgument(
            f"fit {fit_name(fit)!r} does not take (model, objective, schedule, *, hooks, params, batches), which "
            f"edakari.core.protocols.Fit asks for: {error}. If it makes a training loop, call it: fit=fit(...)"
        ) from None
    except ValueError:  # written in C, which tells no signature
        return


def fit_by(own: Fit) -> Callable[..., History]:
    """Return a function with the arguments of `edakari.train.fit` that trains by another loop.

    See `edakari.core.protocols.Fit` for what is done around the loop. `evaluate` judges the weights as they are at the
    end of each epoch. With a folder, a training that has finished is not repeated.

    Args:
        own: the loop.

    Raises:
        WrongArgument: the loop cannot be called as a `Fit`; or, while it trains, it does not call the hooks.
    """
    require_fit(own)

    def train(
        model: nn.Module,
        objective: Objective,
        batches: Iterable[Batch],
        schedule: Schedule,
        *,
        hooks: Sequence[Hook] = (),
        params: Sequence[torch.Tensor] | None = None,
        settings: FitSettings = FitSettings(),
        evaluate: Evaluate | None = None,
    ) -> History:
        per_epoch = steps_per_epoch(batches, schedule)
        if schedule.epochs == 0:
            return History((), 0, 0.0)
        device = next((tensor.device for tensor in (*model.parameters(), *(params or ()))), torch.device("cpu"))
        with (
            random_state_kept(),
            trained(model, params, device) as chosen,
            in_memory_format(model, settings.memory_format),
            checkpointed(model, settings.gradient_checkpointing),
            in_tf32(device, settings.tf32),
        ):
            folder = FitFolder(settings.folder, identity_of(chosen, schedule, settings.seed, per_epoch, hooks))
            found = folder.read()
            if found is not None and found.done:
                folder.restore(found, chosen, hooks)
                return Progress.restored(found).history()
            progress = Progress()
            first = _BeforeHooks(chosen, schedule, settings.seed)
            steps = Steps(settings.title, per_epoch * schedule.epochs)
            last = _AfterHooks(fit_name(own), chosen, progress, evaluate, schedule, steps)
            every = [first, *hooks, *penalty_of(schedule), last]
            terms = functools.partial(_named_terms, objective)
            chosen.train()
            seed_step(settings.seed, 0, Processes.here().rank)  # from which a shuffling DataLoader draws its order
            own(model, terms, dc.replace(schedule, l2=None), hooks=every, params=params, batches=batches)
            first.require_called(fit_name(own))
            progress.done = True
            if Processes.here().main:
                folder.write(progress, chosen, hooks, {})
        return progress.history()

    return train


def require_converging(chosen: Trained, schedule: Schedule, epoch: int, loss: float | torch.Tensor | None) -> None:
    """Stop a training that diverged; all processes stop together.

    Args:
        chosen: the trained tensors.
        schedule: schedule of the training, for advice.
        epoch: index of the epoch that has ended.
        loss: its mean loss, if it is known.

    Raises:
        ModelError: the loss, a weight or a statistic is no longer finite.
    """
    told = None if loss is None or math.isfinite(float(loss)) else f"the loss is {float(loss)}"
    tensor = diverged(chosen)
    wrong = told or (f"{tensor} is no longer finite" if tensor else None)
    # what differs between processes, such as the loss, must not stop one of them alone
    if float(Processes.here().reduced(torch.tensor(float(wrong is not None)))):
        said = wrong or "the training of another process has diverged"
        raise ModelError(f"fit, epoch {epoch + 1}: {said}; {advice_for(schedule)}")


def mean_of(figure: torch.Tensor) -> float:
    """Return the mean of a figure over all processes, equal on all of them."""
    here = Processes.here()
    return float(here.reduced(figure.detach().cpu())) / here.world


def _named_terms(objective: Objective, model: nn.Module, batch: Batch) -> Mapping[str, torch.Tensor]:
    return loss_terms(objective(model, batch))


class _BeforeHooks(Hook):
    """Comes before all other hooks: seeds steps, sets modes, and stops what diverged; run state."""

    def __init__(self, chosen: Trained, schedule: Schedule, seed: int) -> None:
        self.chosen, self.schedule, self.seed = chosen, schedule, seed
        self.begun, self.done, self.epochs = 0, 0, 0

    def before_step(self, state: StepState) -> None:
        """See `Hook`."""
        seed_step(self.seed, state.step, Processes.here().rank)
        self.chosen.train()
        self.begun += 1

    def after_step(self, state: StepState) -> None:
        """See `Hook`."""
        self.done += 1

    def end_epoch(self, state: StepState) -> None:
        """See `Hook`."""
        require_converging(self.chosen, self.schedule, state.epoch, state.loss)
        self.epochs += 1

    def require_called(self, name: str) -> None:
        """Refuse a loop that left hooks out.

        Raises:
            WrongArgument: it did; says which and how often.
        """
        if self.begun and self.begun == self.done and self.epochs:
            return
        raise WrongArgument(
            f"fit {name!r} called before_step of its hooks {self.begun} times, after_step {self.done} times and "
            f"end_epoch {self.epochs} times; call the first two in every optimizer step and the last after every epoch "
            "(see edakari.core.protocols.Fit)"
        )


class _AfterHooks(Hook):
    """Comes after all other hooks: records steps and epochs, and checks that cuts were followed; run state."""

    def __init__(
        self,
        name: str,
        chosen: Trained,
        progress: Progress,
        evaluate: Evaluate | None,
        schedule: Schedule,
        steps: Steps,
    ) -> None:
        self.name, self.chosen = name, chosen
        self.progress, self.evaluate, self.schedule, self.steps = progress, evaluate, schedule, steps
        self._rate = 0.0
        self._end: Callable[[], None] = lambda: None

    def before_step(self, state: StepState) -> None:
        """See `Hook`."""
        optimizer = state.optimizer

        def note() -> None:
            # a scheduler of the loop's own may have set the next step's rate by the end of the step
            self._rate = float(optimizer.param_groups[0]["lr"])

        self._end = with_gradients(optimizer, note)

    def after_step(self, state: StepState) -> None:
        """See `Hook`."""
        self._end()
        loss = {} if state.loss is None else {"loss": torch.as_tensor(state.loss).detach()}
        self.progress.add(loss)
        event = functools.partial(step_event, self.progress, state.epoch, self.schedule.epochs, self._rate)
        self.steps.at(self.progress.step, event)

    def end_epoch(self, state: StepState) -> None:
        """See `Hook`."""
        if self.chosen.follow():
            require_one_process(self.name)
            require_followed(self.chosen, state.optimizer, ())
        figures = {name: mean_of(value) for name, value in self.progress.means().items()}
        with judging(state.model):
            found = {} if self.evaluate is None else self.evaluate(state.model)
        judged = {f"val_{name}": float(value) for name, value in found.items()}
        require_finite_figures(judged, f"fit, epoch {state.epoch + 1}", advice_for(self.schedule))
        self.progress.end_epoch({"epoch": state.epoch + 1.0, "lr": self._rate, **figures, **judged})
        self.steps.epoch(self.progress.step, epoch_event(self.progress, self.schedule.epochs))
