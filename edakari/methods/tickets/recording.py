"""What a search and its masks have done so far, as files beside the run, written while the network trains."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edakari.core.files import write_json
from edakari.core.processes import Processes
from edakari.core.protocols import Hook, StepState
from edakari.cost import macs
from edakari.methods.tickets.gate_search import GateSearch
from edakari.methods.tickets.places import places
from edakari.methods.tickets.progressive_mask import ProgressiveMask
from edakari.methods.tickets.search_events import EDGES

__all__ = ["Metrics", "Recording"]

Metrics = Callable[[], Mapping[int, Mapping[str, float]]]
"""Function that returns metrics of networks by the number of epochs after which they were evaluated."""


class Recording(Hook):
    """Writes events of a search, choices of masks and losses at the end of each epoch; run state.

    A report draws them, also that of a run that was interrupted. Put this hook after the ones that it records.

    Args:
        folder: folder of `search.json`, `masks.json` and `losses.json`; None writes nothing.
        search: the search, if there is one.
        mask: the hook that masks weights, if there is one.
        searched: metrics at the events of the search.
        masked: metrics at the choices of masks.
    """

    def __init__(
        self,
        folder: Path | None,
        search: GateSearch | None = None,
        mask: ProgressiveMask | None = None,
        *,
        searched: Metrics = dict,
        masked: Metrics = dict,
    ) -> None:
        self.folder, self.search, self.mask = folder, search, mask
        self.searched, self.masked = searched, masked
        self.losses: dict[int, float] = {}
        self._dense = _dense(search) if search is not None else {}

    def end_epoch(self, state: StepState) -> None:
        """See `Hook`."""
        loss = math.nan if state.loss is None else float(state.loss)
        if math.isfinite(loss):
            self.losses[state.epoch + 1] = loss
        self.write()

    def write(self) -> None:
        """Write the files; `end_epoch` does so too, so call this only if something happened after the training."""
        if self.folder is None or not Processes.here().main:
            return
        losses = [{"epoch": epoch, "loss": loss} for epoch, loss in self.losses.items()]
        write_json(self.folder / "losses.json", losses)
        if self.search is not None:
            events = _with([event.to_dict() for event in self.search.history], self.searched())
            write_json(self.folder / "search.json", {**self._dense, "events": events})
        if self.mask is not None:
            write_json(self.folder / "masks.json", _with(self.mask.history(), self.masked()))

    def state_dict(self) -> Mapping[str, Any]:
        """See `Hook`."""
        return {"losses": {str(epoch): loss for epoch, loss in self.losses.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Hook`."""
        self.losses = {int(epoch): loss for epoch, loss in state["losses"].items()}


def _dense(search: GateSearch) -> dict[str, Any]:
    """What is known of a search before it begins."""
    return {
        "edges": EDGES.tolist(),
        "threshold": search.settings.eps,
        "macs": float(macs(search.graph).total({})),
        "groups": [dc.asdict(place) for place in places(search.graph, search.groups)],
    }


def _with(events: list[dict[str, Any]], metrics: Mapping[int, Mapping[str, float]]) -> list[dict[str, Any]]:
    return [{**event, "metrics": dict(metrics.get(event["epoch"], {}))} for event in events]
