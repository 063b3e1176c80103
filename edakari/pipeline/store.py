"""Where the results of a run's stages are kept: in a folder, or in memory.

A stage takes and gives values (`edakari.results`, networks); a store is a cache around the stages and nothing more.
With a folder a run that was interrupted goes on; in memory its results live as long as the store.
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
"""The network as it was cut, or as it is after fine-tuning."""


class Store(Protocol):
    """Keeps what stages give. The main process writes; what `done` and `result` say may be asked in any process."""

    @property
    def path(self) -> Path | None:
        """The folder; None in memory."""

    @property
    def kept(self) -> Path | None:
        """Where the method leaves what explains its result; None is nowhere."""

    @property
    def exported(self) -> Path | None:
        """Where exported networks lie; None is nowhere."""

    def work(self, stage: str) -> Path | None:
        """Where a stage may keep what it needs to go on after an interruption; None is nowhere."""

    def done(self, stage: str) -> bool:
        """Whether a stage is finished."""

    def result(self, kind: type[R]) -> R:
        """The result of a finished stage.

        Raises:
            RunFolderError: the stage is not finished, or its file is damaged.
        """

    def results(self) -> Results:
        """The results of all finished stages; see `result`."""

    def finish(self, result: StageResult) -> None:
        """Keep the result of a stage, which makes it finished."""

    def put(self, version: Version, model: nn.Module, plan: Plan, base: nn.Module) -> None:
        """Keep a network of the run.

        Args:
            version: which.
            model: the network.
            plan: that it was cut by.
            base: the network that the plan was made for.
        """

    def network(self, version: Version, base: nn.Module) -> nn.Module:
        """A network that was put, in evaluation mode, on the device of `base`; the caller may change it."""

    def plan(self) -> Plan:
        """The plan of the network as it was cut."""


@dc.dataclass
class MemoryStore:
    """Keeps results in this process, for as long as it lives; run state."""

    path: None = None
    kept: None = None
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
