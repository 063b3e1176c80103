"""Result of a run."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from edakari.core.graph import Graph
from edakari.core.plan import Plan
from edakari.report.summary import of_results
from edakari.results import Results
from edakari.surgery import save

__all__ = ["Result"]


@dc.dataclass(frozen=True)
class Result:
    """Result of a run.

    Args:
        folder: run folder; None if the run was in memory.
        plan: plan by which the network was pruned.
        model: finished network.
        report: all values of the report, as in `report.json`.
        fresh: whether this call ran a stage; False if the run was finished before.
        results: results of the stages.
        dense: unpruned network.
        graph: graph of the unpruned network.
    """

    folder: Path | None
    plan: Plan
    model: nn.Module
    report: Mapping[str, Any]
    fresh: bool
    results: Results
    dense: nn.Module
    graph: Graph

    @property
    def costs(self) -> Mapping[str, float]:
        """Counted costs of the finished network by name; `result.report["networks"]` has those of all networks."""
        assert self.results.check is not None
        return self.results.check.costs

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the finished network for `edakari.load`; see `edakari.save`."""
        save(self.model, self.plan, folder, base=self.dense, overwrite=overwrite)

    def __repr__(self) -> str:
        return of_results(self.report).text()

    def _repr_html_(self) -> str:
        return of_results(self.report).html()
