"""Tables that the commands print."""

from __future__ import annotations

import dataclasses as dc
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from edakari.core.budget import LATENCY
from edakari.report.formatting import cost, int8_rows, latency, masked_line, noisy, predicted, rows, signed

if TYPE_CHECKING:
    from edakari.report.inspection import Inspection
    from edakari.results import QuantizeResult, StageResult

__all__ = [
    "comparison",
    "costs_line",
    "groups_table",
    "int8_table",
    "latency_line",
    "stage_line",
    "timings_table",
    "totals",
    "unprunable_table",
]

TONES = {"good": "green", "bad": "yellow", "": ""}


def comparison(report: Mapping[str, Any]) -> Table:
    """Compare the dense, pruned and fine-tuned network side by side."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for network in report["networks"]:
        table.add_column(network["name"], justify="right", no_wrap=True)
    table.add_column("now", justify="right", no_wrap=True)
    for row in rows(report):
        # so that five columns go into 80 characters
        texts = [text.removesuffix(" ms") or "as fine-tuned" for text in row["texts"]]
        table.add_row(
            row["name"].replace("Latency, ", "ms in "),
            *texts,
            Text(row["change"].removesuffix(" as fast"), style=TONES[row["tone"]]),
        )
    return table


def groups_table(groups: Sequence[Mapping[str, Any]]) -> Table:
    """List prunable groups, and the fraction of each cost that every group is part of."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("group", overflow="fold")
    table.add_column("kind")
    for name in ("size", "in MACs", "in params"):
        table.add_column(name, justify="right")
    for group in groups:
        table.add_row(
            Text(group["name"]),
            group["kind"],
            str(group["size"]),
            f"{group['macs_share'] * 100:.1f} %",
            f"{group['params_share'] * 100:.1f} %",
        )
    return table


def unprunable_table(unprunable: Sequence[Mapping[str, Any]]) -> Table:
    """List what cannot be pruned, with reasons."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("left alone", overflow="fold")
    table.add_column("size", justify="right")
    table.add_column("why", overflow="fold")
    for entry in unprunable:
        table.add_row(Text(entry["where"]), str(entry["size"]), Text(entry["reason"]))
    return table


def totals(found: Inspection, width: int) -> Text:
    """Summarise what can be pruned, and what cannot, by reason.

    Args:
        found: inspection of a network.
        width: characters in a line.
    """
    params = found.costs["params"]
    count = len(found.graph.groups)
    hold = "group holds" if count == 1 else "groups hold"
    share = _percent(found.prunable, params)
    text = Text(f"{count} {hold} {cost(found.prunable)} of {cost(params)} parameters ({share}).")
    text.append(f"\n{_for_tickets(found)}")
    if found.pinned:
        text.append("\nLeft alone, and the fraction of the parameters that contain it:", "bold")
    for reason in found.pinned:
        dims = f"{reason.dims} dimension{'' if reason.dims == 1 else 's'} of {_some(reason.tensors)}"
        head = f"\n{_percent(reason.params_share, 1.0):>8}  "
        text.append(head, "yellow").append(_hanging(f"{reason.reason}: {dims}", width, len(head) - 1))
    if found.uncounted:
        names = ", ".join(f"{name.removeprefix('aten.')} × {count}" for name, count in found.uncounted.items())
        text.append("\nNot counted in the MACs: ", "bold").append(_hanging(names, width, 0))
    return text


def _for_tickets(found: Inspection) -> str:
    """What searches by gates and masks of weights can work on."""
    groups, gated = len(found.graph.groups), len(found.graph.groups) - len(found.ungated)
    share = _percent(found.maskable_count, found.costs["params"])
    return f"{gated} of {groups} groups have gates; {cost(found.maskable_count)} weights can be masked ({share})."


def _percent(part: float, whole: float) -> str:
    return f"{part / whole * 100:.1f} %" if whole else "–"


def _some(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _hanging(text: str, width: int, indent: int) -> str:
    """Wrap text to several lines with a hanging indent."""
    lines: Iterable[str] = textwrap.wrap(text, max(width - indent, 30), break_long_words=False)
    return f"\n{' ' * indent}".join(lines)


def timings_table(runtimes: Mapping[str, Mapping[str, Any]]) -> Table:
    """List latencies of the dense and the pruned network."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("runtime", "dense", "pruned", "now"):
        table.add_column(name, justify="left" if name == "runtime" else "right")
    for runtime, found in runtimes.items():
        table.add_row(runtime, latency(found["dense"]), latency(found["pruned"]), _times_as_fast(found))
    return table


def _times_as_fast(found: Mapping[str, Mapping[str, float]]) -> str:
    return f"{found['dense']['median_ms'] / found['pruned']['median_ms']:.2f} × as fast"


def latency_line(cost: str, timed: Mapping[str, Any]) -> str:
    """Format a latency of the budget: limit, dense, predicted and measured.

    Args:
        cost: name of the latency in the budget.
        timed: the latency in a report.
    """
    name = "Latency of the budget" if cost == LATENCY else cost
    return (
        f"{name}, {timed['runtime']}: at most {timed['limit_ms']:.3g} ms; "
        f"dense {latency(timed['dense'])}, predicted {predicted(timed)}, measured {latency(timed['measured'])} "
        f"({signed(timed['relative_error'])}), {len(timed['rounds'])} rounds"
    )


def int8_table(found: Mapping[str, Any]) -> Table:
    """Format the dense and the pruned network in fp32 and int8.

    Args:
        found: result of the quantisation, as plain values.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for name in (found["metric"] or "metric", f"latency in {found['runtime']}", "speed", "file"):
        table.add_column(name, justify="right")
    for row in int8_rows(found):
        table.add_row(row["name"], row["metric"], row["latency"], row["speed"], row["size"])
    return table


def _int8(result: QuantizeResult) -> list[dict[str, str]]:
    return int8_rows(dc.asdict(result)) if result.corners else []


def costs_line(costs: Mapping[str, float]) -> str:
    """Format all costs in one line."""
    return ", ".join(f"{cost(value)} {name}" for name, value in costs.items())


def stage_line(result: StageResult) -> str:
    """Format the result of a finished stage in one line."""
    from edakari.results import (
        CheckResult,
        DenseResult,
        ExportResult,
        FinetuneResult,
        LatencyResult,
        MeasureResult,
        PruneResult,
        QuantizeResult,
        ReportResult,
        TraceResult,
    )

    match result:
        case TraceResult():
            return f"{len(result.groups)} groups, {costs_line(result.costs)}, {result.memory_format}"
        case LatencyResult():
            dense = {
                cost: f"{latency(dc.asdict(each.dense))} dense in {each.key.runtime}"
                for cost, each in result.planned.items()
            }
            return ", ".join(text if cost == LATENCY else f"{cost} {text}" for cost, text in dense.items())
        case DenseResult():
            return f"{result.metric} {result.metrics[result.metric]:.4f}" if result.metric else "cannot be judged"
        case PruneResult():
            return f"{result.method}: {costs_line(result.predicted)}"
        case CheckResult():
            masked = f", {masked_line(dc.asdict(result.masked))} masked" if result.masked else ""
            return f"equal to the masked network to {result.difference:.0e}, {costs_line(result.costs)}{masked}"
        case FinetuneResult():
            main = [f"{name} {value:.4f}" for name, value in result.metrics.items() if name == result.metric]
            return ", ".join([f"{len(result.epochs)} epochs", *main])
        case MeasureResult():
            pairs = {name: dc.asdict(pair) for name, pair in result.runtimes.items()}
            return ", ".join(f"{_times_as_fast(pair)} in {name}{noisy(*pair.values())}" for name, pair in pairs.items())
        case QuantizeResult():
            parts = [f"{row['metric']} in {row['name']}, {row['latency']}" for row in _int8(result)]
            return "; ".join(parts) or "not asked for"
        case ExportResult():
            return ", ".join(file.path for file in result.files) or "none requested"
        case ReportResult():
            return result.page
    return ""
