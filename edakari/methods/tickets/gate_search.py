"""The search of HR-NAS and SuperTickets: an L1 penalty closes gates while a network trains, and closed units are cut.

Each step adds the gradient of `rho(t) * sum of w_g * |gate|` to that of the scales, with w_g the cost of a unit of its
group relative to the mean. Every few epochs the units that are dead are removed, from weights, optimizer and averages,
and training continues with the smaller network.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edakari.core.following import Follower
from edakari.core.graph import Graph
from edakari.core.networks import unwrapped
from edakari.core.plan import DropBranch, Plan
from edakari.core.processes import Processes
from edakari.core.protocols import Cost, Hook, StepState
from edakari.core.space import Group
from edakari.cost import bind, macs
from edakari.errors import ModelError, StateError
from edakari.graph import example_for, outputs_of, trace
from edakari.methods.tickets.constants import Removal, fold_constants
from edakari.methods.tickets.gate_vector import GateVector
from edakari.methods.tickets.gates import cost_weights, gates_of, mean_cost
from edakari.methods.tickets.landing import Mask, Numbers, SearchBudget, Units, require_alive, require_met, steered
from edakari.methods.tickets.search_events import SearchEvent, histogram
from edakari.methods.tickets.search_settings import Duration, GateSearchSettings, average_decay
from edakari.methods.tickets.survivors import Survivors, emptied_branches, names_after
from edakari.surgery.shrinking import shrink
from edakari.train.gradients import BeforeUpdate
from edakari.train.weight_average import WeightAverage

__all__ = ["GateSearch", "Listener"]

Listener = Callable[[SearchEvent], None]
TIMES = ("epochs", "steps_per_epoch")
LANDING = 0.75
"""Fraction of the epochs after which a search is within its budget, so that the rest can repair the network."""


class GateSearch(Hook):
    """Closes gates while a network trains, and removes dead units in place; run state.

    It works in every loop that calls hooks. The network stays the same object, but parameters that were cut are new
    ones: ask for `model.parameters()` again after an epoch, and wrap the network again for several processes. Events
    are at the end of every `interval`-th epoch and of the last one, in this order:

    1. A unit is dead in mid-run if its gate and the average of its gate are at most `eps`; at the last event,
       and at the one that meets a budget, the average alone decides.
    2. The network is cut if units that are dead by the average save enough, or at these events. What dead units still
       emit is folded into biases and running means behind them (`fold_constants`).
    3. Paths and branches without units are dropped. A path of a search block leaves its block's batch norm, whose bias
       goes on to be added.

    With a budget, no event removes more than the budget asks for, least gate per cost first, and the penalty ends when
    the budget is met. At each event the strength is set to the smallest one with which the budget would be met after
    three quarters of the epochs, if gates fall on as they fell since the last event, in proportion to the strength; it
    changes by a factor of 4 at most. The first event after them removes living units too, or keeps dead ones, so that
    the network is as large as the budget allows, within 1 % unless legal sizes are coarser; the rest repairs it.

    Args:
        settings: see `GateSearchSettings`.
        model: the dense network; not changed here.
        graph: its graph; costs are those for the example that was traced.
        duration: length of the training.
        groups: groups that may be searched, with their legal sizes; None takes all.
        budget: budget to meet; None leaves all to `rho`.
        followers: what else follows a cut, such as masks; see `edakari.shrink`.
        listeners: functions that are called after each event.

    Raises:
        ModelError: no group has gates.
        InfeasibleBudget: the groups with gates cannot reach the budget.
    """

    def __init__(
        self,
        settings: GateSearchSettings,
        model: nn.Module,
        graph: Graph,
        duration: Duration,
        *,
        groups: Sequence[Group] | None = None,
        budget: SearchBudget | None = None,
        followers: Sequence[Follower] = (),
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.settings, self.graph = settings, graph
        self.epochs, self.steps_per_epoch = duration.epochs, duration.steps_per_epoch
        self.budget, self.followers, self.listeners = budget, followers, listeners
        self.groups = gates_of(model, graph, groups)
        self.emptied = emptied_branches(graph, self.groups)
        self.survivors = Survivors.all_of(self.groups)
        self.rho, self.updates, self.history = settings.rho, 0, list[SearchEvent]()
        self._macs = macs(graph)
        self.vector: GateVector
        self._look_at(unwrapped(model, "GateSearch(settings, model, graph)"), graph)
        self.average = self.vector.scales()
        (self._before,) = self._agreed(self.vector.gates(self.average))
        self._applied, self._steps, self._step = 0.0, 0, 0
        self._watched = BeforeUpdate(self._penalise)
        self._limit()

    @property
    def plan(self) -> Plan:
        """The plan from the dense network to the present one."""
        return self.survivors.plan(self.graph, "gate_search")

    @property
    def present(self) -> Graph:
        """The graph of the present network."""
        return self._now

    def before_step(self, state: StepState) -> None:
        """See `Hook`."""
        self._step = state.step
        if state.optimizer is not self._watched.optimizer:
            self._watched.watch(state.optimizer)
            self._look_at(unwrapped(state.model, "GateSearch"), self._now)
            self._require_trained(state.optimizer)
        if self.vector.unit.device != self.vector.device:
            self.vector = self.vector.on(self.vector.device)
        self.average = self.average.to(self.vector.device)

    def after_step(self, state: StepState) -> None:
        """See `Hook`."""
        self.updates += 1
        self.average.lerp_(self.vector.scales(), 1 - average_decay(self.settings.decay, self.updates))
        self._applied += self.rho * self.settings.strength(state.step, self.steps_per_epoch)
        self._steps += 1

    def end_epoch(self, state: StepState) -> None:
        """See `Hook`."""
        epoch = state.epoch + 1
        if epoch % self.settings.interval and epoch != self.epochs:
            return
        gates, averaged = self._agreed(self.vector.gates(self.vector.scales()), self.vector.gates(self.average))
        dead = averaged <= self.settings.eps
        saving = self._macs.total(self.survivors.sizes()) - self._macs.total(self._units().sizes(~dead))
        executed = saving >= self.settings.min_saving or self._lands(epoch)
        keep = self._kept(gates, averaged, epoch) if executed else np.ones(len(gates), dtype=np.bool_)
        later = self.survivors.after(self._by_group(keep), self.emptied, self.graph)
        dropped = tuple(name for name in later.dropped if name not in self.survivors.dropped)
        left = () if keep.all() else self._cut(state, later, keep)
        total, rho = self._macs.total(self.survivors.sizes()), self.rho
        sizes = {each.name: len(self.survivors.units.get(each.name, ())) for each in self.groups}
        self.history.append(SearchEvent(epoch, executed, saving, total, rho, sizes, histogram(gates), dropped, left))
        self._steer(epoch, keep)
        for listener in self.listeners:
            listener(self.history[-1])

    def state_dict(self) -> Mapping[str, Any]:
        """See `Hook`."""
        return {
            "settings": dc.asdict(self.settings),
            "budget": str(self.budget.budget) if self.budget else "",
            "epochs": [self.epochs, self.steps_per_epoch],
            "plan": self.plan.to_json(),
            "average": self.average,
            "before": torch.from_numpy(self._before),
            "numbers": [self.rho, self._applied, self._steps, self.updates],
            "history": [event.to_dict() for event in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Hook`; `reshape` then cuts the network as it was.

        Raises:
            StateError: the state is that of a search with other settings; the message names one.
        """
        now = {**dc.asdict(self.settings), **dict(zip(TIMES, (self.epochs, self.steps_per_epoch), strict=True))}
        then = {**state["settings"], **dict(zip(TIMES, state["epochs"], strict=True))}
        now["budget"], then["budget"] = str(self.budget.budget) if self.budget else "", state["budget"]
        for name, value in now.items():
            if then.get(name) != value:
                raise StateError(
                    f"this search has {name}={value!r}, and the one to resume had {name}={then.get(name)!r}. Resume "
                    "with the same settings, or start again in another folder"
                )
        self.survivors = Survivors.of_plan(Plan.from_json(state["plan"]), self.groups, self.graph)
        self.average, self._before = state["average"].clone(), state["before"].cpu().numpy().copy()
        self.rho, self._applied, self._steps, self.updates = state["numbers"]
        self.history = [SearchEvent.from_dict(event) for event in state["history"]]

    def reshape(self, model: nn.Module) -> None:
        """See `Hook`."""
        plan = self.plan
        if plan.edits:
            shrink(model, plan, graph=self.graph)
            network = unwrapped(model, "GateSearch.reshape(model)")
            self._look_at(network, self._traced(network))

    def _penalise(self) -> None:
        """Add the gradient of the penalty, between the computation of the gradients and the update."""
        strength = self.rho * self.settings.strength(self._step, self.steps_per_epoch)
        # the gradients of fused optimizers under a scaler are scaled here still
        scale = getattr(self._watched.optimizer, "grad_scale", None)
        if strength > 0:
            self.vector.penalise(strength if scale is None else strength * scale, self.settings.eps)

    def _look_at(self, network: nn.Module, now: Graph) -> None:
        """Collect the gates of the network, whose graph is given."""
        left = {each.name: each for each in self.groups if each.name in self.survivors.units}
        self._now, self._names = now, names_after(self.graph, now, left)
        weights = cost_weights(self.groups, self.settings.weighting)
        mean = mean_cost(self.groups) if self.settings.weighting == "cost" else None
        found = {self._names[name]: each for name, each in left.items() if name in self._names}
        self.vector = GateVector.of(network, now, found, weights, mean)

    def _traced(self, network: nn.Module) -> Graph:
        inputs = self.graph.inputs
        return trace(network, example_for(network, inputs, None), outputs=outputs_of(inputs))

    def _units(self) -> Units:
        empties = {name: branch.name for name, branch in self.emptied.items()}
        return Units(self.vector.groups, self.vector.spans, empties, self.survivors.dropped)

    def _by_group(self, values: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """Split an array over units by group."""
        return {name: values[span] for name, span in self.vector.spans.items()}

    def _agreed(self, *gates: torch.Tensor) -> tuple[Numbers, ...]:
        """The main process's gates, so that all processes decide alike; float64 on the CPU."""
        Processes.here().equalise_(gates)
        return tuple(each.double().cpu().numpy() for each in gates)

    def _kept(self, gates: Numbers, averaged: Numbers, epoch: int) -> Mask:
        """Choose the units that stay at an event that cuts, bool [units].

        Raises:
            ModelError: a group would lose its last unit, and the network needs it; or no unit would be left.
        """
        dead = averaged <= self.settings.eps
        if not self._lands(epoch):
            dead &= gates <= self.settings.eps
        units = self._units()
        if self.budget is None:
            require_alive(self._by_group(~dead), self.emptied, epoch, self.rho)
            return units.legal(~dead, averaged)
        # the living ones of least gate per cost come after the dead ones
        order = np.lexsort((averaged / self.vector.start.double().cpu().numpy(), averaged > self.settings.eps))
        if not self._lands(epoch):
            return units.first_within(self.budget.limits, order[dead[order]], averaged)
        return self._landed(self.budget, units, order, averaged)

    def _lands(self, epoch: int) -> bool:
        """Whether the event after so many epochs meets the budget, by living units too."""
        if self.budget is None or epoch == self.epochs:
            return epoch == self.epochs
        return epoch >= LANDING * self.epochs and self.budget.limits.excess(self.survivors.sizes()) > 0

    def _landed(self, budget: SearchBudget, units: Units, order: npt.NDArray[np.int64], averaged: Numbers) -> Mask:
        """Choose the units that are left in the end; a latency is met by measurement."""
        tried: dict[str, Mask] = {}

        def solve(costs: Sequence[Cost]) -> Plan:
            limits = bind(budget.budget, self.graph, costs)
            keep = units.first_within(limits, order, averaged)
            require_met(limits, units.sizes(keep))
            plan = self.survivors.after(self._by_group(keep), self.emptied, self.graph).plan(self.graph)
            tried[plan.digest()] = keep
            return plan

        return tried[budget.loop(solve, budget.costs).digest()]

    def _cut(self, state: StepState, later: Survivors, keep: Mask) -> tuple[str, ...]:
        """Cut the network in place; returns what has left constants."""
        network = unwrapped(state.model, "GateSearch")
        plan = self.survivors.step(later, self.graph, self._now, self._names)
        lost = {name: part for name, part in self._by_group(keep).items() if not part.all()}
        norms = {self._names[each.name]: each.norms for each in self.groups if each.name in lost}
        gone = {edit.branch for edit in plan.edits if isinstance(edit, DropBranch)}
        removal = Removal(
            {self._names[name]: part for name, part in lost.items()},
            norms,
            [branch for branch in self._now.droppable if branch.name in gone],
        )
        averaged = [inside for each in state.averages if isinstance(inside := getattr(each, "module", None), nn.Module)]
        for follower in self.followers:
            if isinstance(follower, WeightAverage):
                follower.change(network, lambda each: fold_constants(each, self._now, removal))
        left = fold_constants(network, self._now, removal)
        for each in averaged:
            fold_constants(each, self._now, removal)
        shrink(state.model, plan, state.optimizer, *state.averages, graph=self._now, followers=self.followers)
        before, self.survivors = self.vector, later
        self._look_at(network, self._traced(network))
        stays = before.kept(torch.from_numpy(keep), dict(network.named_parameters()))
        self.average = self.average[stays]
        return left

    def _steer(self, epoch: int, keep: Mask) -> None:
        """Choose the strength of the penalty until the next event, and begin to observe the gates again.

        Args:
            epoch: number of epochs so far.
            keep: units that were left of those before this event, bool [units].
        """
        (gates,) = self._agreed(self.vector.gates(self.vector.scales()))
        if self.budget is not None:
            limits, units = self.budget.limits, self._units()
            if limits.excess(self.survivors.sizes()) <= 0:
                self.rho = 0.0
            elif self._steps and self.rho:
                rates = (gates - self._before[keep]) / (self._steps / self.steps_per_epoch)
                ahead = max(LANDING * self.epochs - epoch, self.settings.interval)

                def meets(then: Numbers) -> bool:
                    return limits.excess(units.sizes(units.legal(then > self.settings.eps, then))) <= 0

                self.rho = steered(self.rho, self._applied / self._steps, rates, gates, ahead, meets)
        self._before, self._applied, self._steps = gates, 0.0, 0

    def _limit(self) -> None:
        """Check that the budget can be reached; a network that is within it gets no penalty.

        Raises:
            InfeasibleBudget: it cannot.
        """
        if self.budget is not None:
            units = self._units()
            none = units.legal(np.zeros(self.vector.units, dtype=np.bool_), np.zeros(self.vector.units))
            require_met(self.budget.limits, units.sizes(none))
            if self.budget.limits.excess(self.survivors.sizes()) <= 0:
                self.rho = 0.0

    def _require_trained(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise an error if the optimizer does not train a batch norm that gates units."""
        trained = {id(each) for group in optimizer.param_groups for each in group["params"]}
        for name, weight in self.vector.norms.items():
            if id(weight) not in trained or not weight.requires_grad:
                raise ModelError(
                    f"the optimizer does not train {name!r}, whose scales gate units. Train all batch norms, or leave "
                    "their groups out of the search"
                )
