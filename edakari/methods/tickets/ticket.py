"""The network that a ticket is: averaged weights, with zeros where weights are masked, and its own statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from edakari.core.method import Log
from edakari.core.processes import Processes
from edakari.core.protocols import Hook, StepState, Task
from edakari.methods.tickets.progressive_mask import ProgressiveMask
from edakari.train.statistics import recalibrate
from edakari.train.weight_average import WeightAverage

__all__ = ["Evaluation", "Ticket"]


class Ticket:
    """Copies of a network in training, as they would be used: averaged, masked and recalibrated; run state.

    Args:
        average: average of its weights.
        mask: hook that masks its weights; None if none are masked.
        task: data of the statistics, and metrics.
        batches: number of calibration batches of which batch norms recompute their statistics; 0 keeps the averaged
            ones.
    """

    def __init__(self, average: WeightAverage, mask: ProgressiveMask | None, task: Task, batches: int) -> None:
        self.average, self.mask, self.task, self.batches = average, mask, task, batches

    def copy(self, model: nn.Module) -> nn.Module:
        """Return the copy; with several processes, all of them call this method.

        Args:
            model: the network in training; it does not change.

        Raises:
            DataError: a calibration batch is too small for statistics, or there is none.
        """
        fresh = self.average.averaged(model)
        if self.mask is not None:
            self.mask.masked_copy_(fresh)
        if not self.batches:
            return fresh
        some = Processes.here().own(self.task.batches("calibration"), self.batches)
        return recalibrate(fresh, some, self.task.outputs)

    def metrics(self, model: nn.Module) -> dict[str, float]:
        """Return the task's metrics of the copy.

        Args:
            model: the network in training; it does not change.
        """
        return {str(name): float(value) for name, value in self.task.evaluate(self.copy(model)).items()}


class Evaluation(Hook):
    """Evaluates a ticket at the end of some epochs, and keeps its metrics; run state.

    Args:
        ticket: the ticket.
        due: function that tells, for a number of epochs so far, whether to evaluate.
        name: name of what is evaluated, for the log.
        log: callback for the metrics.
    """

    def __init__(self, ticket: Ticket, due: Callable[[int], bool], name: str, log: Log) -> None:
        self.ticket, self.due, self.name, self.log = ticket, due, name, log
        self.metrics: dict[int, dict[str, float]] = {}

    def end_epoch(self, state: StepState) -> None:
        """See `Hook`."""
        if self.due(state.epoch + 1):
            self.evaluate(state.model, state.epoch + 1)

    def evaluate(self, model: nn.Module, epoch: int) -> None:
        """Evaluate the ticket of a network.

        Args:
            model: the network in training; it does not change.
            epoch: number of epochs so far.
        """
        self.metrics[epoch] = self.ticket.metrics(model)
        self.log(f"{self.name} after epoch {epoch}", self.metrics[epoch])

    def state_dict(self) -> Mapping[str, Any]:
        """See `Hook`."""
        return {"metrics": {str(epoch): dict(found) for epoch, found in self.metrics.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Hook`."""
        self.metrics = {int(epoch): dict(found) for epoch, found in state["metrics"].items()}
