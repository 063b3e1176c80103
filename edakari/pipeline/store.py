"""Stores of the results of a run's stages: a folder, or memory.

Stages take and return values (`edakari.results`, networks). A store only caches these values. With a folder, an
interrupted run can resume; results in memory live as long as the store.
"""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path
from typing import Literal, Protocol, TypeVar, cast

from torch import nn

from edakari.core.copying import copied
from edakari.core.plan import Plan
from edakari.errors import RunFolderError
from edakari.results import Results, StageResult

__all__ = ["MemoryStore", "Store", "Version"]

R = TypeVar("R", bound=StageResult)
Version = Literal["pruned", "finished"]
"""The pruned network, or the network after fine-tuning."""


class Store(Protocol):
    """Stores what stages return. Only the main process writes; `done` and `result` work in any process."""

    @property
    def path(self) -> Path | None:
        """The folder; None in memory."""

    @property
    def artifacts(self) -> Path | None:
        """Folder for the artifacts that explain the method's result; None stores none."""

    @property
    def exported(self) -> Path | None:
        """Folder of exported networks; None exports none."""

    def work(self, stage: str) -> Path | None:
        """Folder in which a stage may store what it needs to resume after an interruption; None if there is none."""

    def done(self, stage: str) -> bool:
        """Whether a stage is finished."""

    def result(self, kind: type[R]) -> R:
        """Return the result of a finished stage.

        Raises:
            RunFolderError: the stage is not finished, or its file is damaged.
        """

    def results(self) -> Results:
        """Return the results of all finished stages; see `result`."""

    def finish(self, result: StageResult) -> None:
        """Store the result of a stage; the stage is then finished."""

    def put(self, version: Version, model: nn.Module, plan: Plan, base: nn.Module) -> None:
        """Store a network of the run.

        Args:
            version: version of the network.
            model: network to store.
            plan: plan by which it was cut.
            base: network for which the plan was made.
        """

    def network(self, version: Version, base: nn.Module) -> nn.Module:
        """Return a stored network, in evaluation mode, on the device of `base`; the caller may change it."""

    def plan(self) -> Plan:
        """Return the plan by which the network was cut."""


@dc.dataclass
class MemoryStore:
    """Stores results in this process, as long as it lives; run state."""

    path: None = None
    artifacts: None = None
    exported: None = None
    _results: dict[str, StageResult] = dc.field(default_factory=dict)
    _networks: dict[Version, tuple[nn.Module, Plan]] = dc.field(default_factory=dict)

    def work(self, stage: str) -> None:
        """See `Store`."""

    def done(self, stage: str) -> bool:
        """See `Store`."""
        return stage in self._results

    def result(self, kind: type[R]) -> R:
        """See `Store`."""
        if kind.stage not in self._results:
            raise RunFolderError(f"the stage {kind.stage!r} of this run is not finished")
        return cast(R, self._results[kind.stage])

    def results(self) -> Results:
        """See `Store`."""
        return Results(**self._results)  # type: ignore[arg-type]

    def finish(self, result: StageResult) -> None:
        """See `Store`."""
        self._results[result.stage] = result

    def put(self, version: Version, model: nn.Module, plan: Plan, base: nn.Module) -> None:
        """See `Store`."""
        self._networks[version] = copied(model), plan

    def network(self, version: Version, base: nn.Module) -> nn.Module:
        """See `Store`."""
        return copied(self._networks[version][0]).eval()

    def plan(self) -> Plan:
        """See `Store`."""
        return self._networks["pruned"][1]
