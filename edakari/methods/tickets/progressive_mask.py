"""Masks of single weights that grow while a network trains: the hook `ProgressiveMask`."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edakari.core.following import CutTensor
from edakari.core.method import Job, Log
from edakari.core.processes import Processes
from edakari.core.protocols import Hook, StepState
from edakari.errors import RunFolderError
from edakari.graph import maskable_weights
from edakari.methods.tickets.fixed_masks import with_zeros_
from edakari.methods.tickets.mask_schedule import MaskEvent, ProgressiveMaskSettings
from edakari.methods.tickets.masking import Masking, averaged_weights, packed, sparsity, unpacked
from edakari.methods.tickets.scores import WEIGHTS_ONLY, ScoreSource, choose_weights
from edakari.methods.tickets.selecting import require_reachable
from edakari.train.gradients import BeforeUpdate

__all__ = ["ProgressiveMask"]


class ProgressiveMask(Hook):
    """Masks more and more single weights while a network trains; run state.

    Every `interval` epochs all weights are scored, masked ones by the value that they had, and masks are chosen again;
    the main process chooses, and all take its masks. Between updates the network computes with zeros where masks are,
    so that evaluations and saved networks are masked; its checkpoint holds the values of masked weights too. See
    `edakari.methods.tickets.masking` for what an update does.

    Averages of the weights that the loop keeps see the values of masked weights, not zeros; they are masked at the end
    of each epoch, so that evaluations of the averages are masked as well, and get their values back before the next
    step. So a weight that returns has an average. For another copy of the network, use `masked_copy_`.

    As a follower of a search (`edakari.surgery.shrink`) it keeps the masks and values of what is left, and lifts all
    masks if the policy is "on_search". Put it after the hook that searches, so that masks are chosen after the search
    of an epoch.

    Args:
        model: network to train.
        names: names of its maskable parameters; a sparsity counts their weights.
        how: see `ProgressiveMaskSettings`.
        excluded: names of those that are not masked.
        source: data and seed of the scores.
        log: callback for the figures of each choice.

    Raises:
        InfeasibleBudget: the excluded parameters leave too few weights for the target.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        how: ProgressiveMaskSettings,
        *,
        excluded: Sequence[str] = (),
        source: ScoreSource = WEIGHTS_ONLY,
        log: Log = lambda stage, figures: None,
    ) -> None:
        self.model, self.how, self.source, self.log = model, how, source, log
        self.names, self.excluded = tuple(names), tuple(excluded)
        self._asked = {**dc.asdict(how), "excluded": list(excluded)}
        self.events: list[MaskEvent] = []
        self._masking = Masking(self._weights())
        self._averages: list[tuple[Any, Masking]] = []
        self._chosen: dict[str, torch.Tensor] = {}
        self._before: dict[str, torch.Tensor] = {}
        self._lift, self._epoch = False, 0
        self._watched = BeforeUpdate(self._before_update)
        self._loaded: Mapping[str, Any] | None = None
        self._late: Sequence[Mapping[str, Any]] = []
        counts = {name: weight.numel() for name, weight in self._masking.weights.items()}
        require_reachable(counts, how.target, self.excluded)

    @classmethod
    def of_job(
        cls, job: Job, how: ProgressiveMaskSettings, excluded: Sequence[str], *, linear: bool
    ) -> ProgressiveMask:
        """Make the hook for a method's job.

        Args:
            job: network and data.
            how: see `ProgressiveMaskSettings`.
            excluded: names of weights or paths of modules that are not masked, perhaps with wildcards.
            linear: mask weights of linear layers and of attention too.

        Raises:
            InfeasibleBudget: the excluded layers leave too few weights.
            PlanError: a pattern of `excluded` matches no parameter.
        """
        names = maskable_weights(job.graph, linear=linear)
        left = maskable_weights(job.graph, excluded, linear=linear)
        stay = [name for name in names if name not in left]
        return cls(job.model, names, how, excluded=stay, source=ScoreSource(job.task, seed=job.seed), log=job.log)

    @property
    def masks(self) -> dict[str, torch.Tensor]:
        """Bool masks now, by parameter: True where a weight stays; parameters without masked weights are left out."""
        return dict(self._bound().masks)

    @property
    def sparsity(self) -> float:
        """Fraction of the maskable weights that are masked now."""
        return sparsity(self._bound().masks, self._masking.weights)

    def before_step(self, state: StepState) -> None:
        """See `Hook`."""
        masking = self._bound()
        if self._late:  # averages are masked between two epochs only
            self._averages = self._maskings_of(state)
            for (_, average), loaded in zip(self._averages, self._late, strict=True):
                average.load_state_dict(loaded)
            self._late = []
        for _, average in self._averages:
            average.restore()
        self._averages = []
        if self._lift:
            masking.set({})
            self._lift = False
        masking.mask()
        self._watched.watch(state.optimizer)

    def after_step(self, state: StepState) -> None:
        """See `Hook`."""
        self._masking.mask()

    def end_epoch(self, state: StepState) -> None:
        """See `Hook`."""
        masking, epoch = self._bound(), state.epoch + 1
        self._epoch = epoch
        masking.mask()
        if epoch % self.how.interval == 0:
            self.choose(epoch, self.how.fraction_after(epoch))
            self._lift = self.how.reactivation == "after_prune"
        self._averages = self._maskings_of(state)
        for _, average in self._averages:
            average.set(masking.masks)

    def finish(self) -> None:
        """Choose masks of the final fraction, unless as many weights are masked now; call it after the training."""
        counts = [weight.numel() for weight in self._bound().weights.values()]
        masked = sum(int((~mask).sum()) for mask in self.masks.values())
        if masked != int(self.how.target * sum(counts)):
            self.choose(self._epoch, self.how.target)

    def choose(self, epoch: int, fraction: float) -> None:
        """Score all weights and choose the masks; `end_epoch` calls this when it is due.

        A second choice after the same epoch takes the place of the first.

        Args:
            epoch: number of epochs so far.
            fraction: fraction of the weights to mask.
        """
        masking, how = self._bound(), self.how
        masking.restore()
        names = list(masking.weights)
        source = dc.replace(self.source, seed=self.source.seed + epoch)

        def chosen() -> dict[str, torch.Tensor]:
            found = choose_weights(
                self.model, names, fraction, how.score, source, scope=how.scope, excluded=self.excluded
            )
            return {name: mask.cpu() for name, mask in found.items()}

        here = Processes.here()
        with here.ending_together():
            own = chosen()
        masks = here.agreed(own)
        if self.events and self.events[-1].epoch == epoch:
            self.events.pop()
        else:
            self._before = self._chosen
        self.events.append(MaskEvent.of(epoch, fraction, masks, self._before))
        self._chosen = masks
        masking.set(masks)
        last = self.events[-1]
        figures = {"sparsity": last.sparsity, "masked": last.masked, "returned": last.returned}
        self.log(f"epoch {epoch}", {name: float(figure) for name, figure in figures.items()})

    def searched(self, executed: bool) -> None:
        """Learn that a search is over; lifts all masks if it removed units and the policy is "on_search".

        Args:
            executed: whether units were removed.
        """
        # differs: the authors' code lifts the masks inside of search blocks only, which it builds again; stem and
        # shortcuts, 0.07 % of the weights, keep theirs
        if executed and self.how.reactivation == "on_search":
            self._bound().set({})

    def follow(self, pairs: Sequence[CutTensor]) -> None:
        """See `edakari.core.following.Follower`."""
        if self._loaded is not None:
            return  # the state was stored after this cut
        self._masking = self._masking.followed(pairs)
        self._averages = [(average, _rebound(masking.followed(pairs), average)) for average, masking in self._averages]
        new = {pair.name: pair.new_name for pair in pairs if pair.after is not None}
        known = {pair.name: pair for pair in pairs}
        self._chosen, self._before = (
            {new[name]: known[name].cut(mask) for name, mask in masks.items() if name in new}
            for masks in (self._chosen, self._before)
        )
        self.names, self.excluded = (tuple(new[n] for n in each if n in new) for each in (self.names, self.excluded))
        self.searched(True)

    def masked_copy_(self, network: nn.Module) -> nn.Module:
        """Set the masked weights of another network of the same structure to zero, in place, and return it.

        Args:
            network: a network with the same parameters, such as an average of the weights.
        """
        return with_zeros_(network, self.masks)

    def history(self) -> list[dict[str, Any]]:
        """Return the choices of masks as plain values, for a report."""
        return [dc.asdict(event) for event in self.events]

    def state_dict(self) -> Mapping[str, Any]:
        """See `Hook`."""
        if self._loaded is not None:
            return self._loaded
        return {
            "settings": self._asked,
            "names": list(self.names),
            "excluded": list(self.excluded),
            "masking": self._masking.state_dict(),
            "averages": [average.state_dict() for _, average in self._averages],
            "chosen": packed(self._chosen),
            "before": packed(self._before),
            "lift": self._lift,
            "epoch": self._epoch,
            "events": self.history(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Hook`.

        Raises:
            RunFolderError: the state is of other settings; says which.
        """
        there = state["settings"]
        wrong = [
            f"{key} {there.get(key)!r} instead of {value!r}"
            for key, value in self._asked.items()
            if there.get(key) != value
        ]
        if wrong:
            raise RunFolderError(
                f"the checkpoint's masks were chosen with {', '.join(wrong)}; train with those settings, or in another "
                "folder"
            )
        # the network may not have its structure and weights yet
        self._loaded = state

    def _weights(self) -> dict[str, torch.Tensor]:
        """The maskable parameters that the network has now."""
        there = dict(self.model.named_parameters())
        return {name: there[name] for name in self.names if name in there}

    def _bound(self) -> Masking:
        """The masking, after a loaded state was taken."""
        if self._loaded is not None:
            loaded, self._loaded = self._loaded, None
            self.names, self.excluded = tuple(loaded["names"]), tuple(loaded["excluded"])
            self._masking = Masking(self._weights())
            self._masking.load_state_dict(loaded["masking"])
            self._chosen, self._before = (dict(unpacked(loaded[key])) for key in ("chosen", "before"))
            self._lift = bool(loaded["lift"])
            self._epoch = int(loaded["epoch"])
            self.events = [MaskEvent(**event) for event in loaded["events"]]
            self._late = loaded["averages"]
        return self._masking

    def _maskings_of(self, state: StepState) -> list[tuple[Any, Masking]]:
        """The averages that the loop keeps of the weights."""
        weights = self._masking.weights
        found = [(each, Masking(averaged_weights(each, weights))) for each in state.averages]
        return [(average, masking) for average, masking in found if masking.weights]

    def _before_update(self) -> None:
        self._masking.zero_gradients()
        self._masking.restore()


def _rebound(masking: Masking, average: Any) -> Masking:
    """The masking of an average after it was cut: of its own weights, not of the network's."""
    masking.weights = averaged_weights(average, masking.weights)
    return masking
