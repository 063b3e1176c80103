"""What a finished run prints as: its networks side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edakari.core.tables import Table
from edakari.report import formatting

__all__ = ["of_results"]

COSTS = ("macs", "params")


def of_results(report: Mapping[str, Any]) -> Table:
    """The networks of a run as a table, and what was gained between them.

    Args:
        report: as `edakari.report.collect` gives it.
    """
    networks = [each for each in report["networks"] if each["name"] != "fine-tuned" or report["epochs"]]
    metrics = list(networks[0]["metrics"])[:3]
    runtimes = list(networks[0]["latency"])
    facts = [("method", report["method"]), ("budget", report["budget"])]
    if report["as_cut"]:
        name = report["metric"]
        facts.append((f"{formatting.title_of(name)} as cut, before recalibration", _metric(name, report["as_cut"])))
    if report.get("advice") and not report["epochs"]:
        facts.append(("next", report["advice"]))
    if report.get("masked"):
        facts.append(("masked weights", formatting.masked_line(report["masked"])))
    if report.get("dropped"):
        facts.append(("dropped branches and paths", formatting.dropped_line(report["dropped"])))
    rows = []
    for network in networks:
        timed = network["latency"]
        row = [network["name"], *(formatting.cost(network["costs"][cost]) for cost in COSTS)]
        row += [formatting.size(network["bytes"]), *(_metric(name, network["metrics"]) for name in metrics)]
        rows.append((*row, *(f"{timed[name]['median_ms']:.3g}" if name in timed else "–" for name in runtimes)))
    head = ("network", *(formatting.COSTS[cost] for cost in COSTS), "size", *map(formatting.title_of, metrics))
    head = (*head, *(f"ms in {name}" for name in runtimes))
    return Table(f"Pruned {report['model']}", tuple(facts), head, tuple(rows))


def _metric(name: str, metrics: Mapping[str, float]) -> str:
    return formatting.metric(name, metrics[name]) if name in metrics else "–"
