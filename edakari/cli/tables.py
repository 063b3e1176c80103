"""Tables that the commands print."""

from __future__ import annotations

import dataclasses as dc
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from edakari.cli.layout import Column, Grid
from edakari.core.steady import LATENCY
from edakari.core.wording import counted
from edakari.report.formatting import (
    calls_line,
    cost,
    int8_rows,
    latency,
    masked_line,
    metric,
    noisy,
    predicted,
    rows,
    signed,
    title_of,
)
from edakari.report.log_figures import figures_text

if TYPE_CHECKING:
    from edakari.report.inspection import Inspection
    from edakari.results import AnswersResult, QuantizeResult, StageResult

__all__ = [
    "comparison",
    "costs_line",
    "groups_table",
    "int8_table",
    "latency_line",
    "metrics_line",
    "skipped",
    "stage_line",
    "timings_table",
    "totals",
    "unprunable_table",
]

NOISY, MARK = " (noisy)", "*"
TONES = {"good": "green", "bad": "yellow", "": ""}


def comparison(report: Mapping[str, Any]) -> Grid:
    """Compare the dense, pruned and fine-tuned network side by side."""
    found, doubtful = [], False
    for row in rows(report):
        texts = [text.replace(NOISY, f" {MARK}").removesuffix(" ms") for text in row["texts"]]
        doubtful = doubtful or any(NOISY in text for text in row["texts"])
        change = Text(row["change"].removesuffix(" as fast"), style=TONES[row["tone"]])
        found.append([row["name"].replace("Latency, ", "ms in "), *(_before(MARK, text) for text in texts), change])
    columns = [Column("", figures=False), *(Column(network["name"]) for network in report["networks"]), Column("now")]
    return Grid(columns, found, f"{MARK} the timing is noisy" if doubtful else "")


def _before(mark: str, text: str) -> str:
    """A time in ms whose unit stands in the row's name, without it before a mark."""
    return text.replace(f" ms {mark}", f" {mark}")


def groups_table(groups: Sequence[Mapping[str, Any]]) -> Grid:
    """List prunable groups, and the fraction of each cost that every group is part of."""
    names = (Column("group", figures=False), Column("kind", figures=False))
    return Grid(
        [*names, *map(Column, ("size", "in MACs", "in params"))],
        [
            [
                group["name"],
                group["kind"],
                str(group["size"]),
                f"{group['macs_share'] * 100:.1f} %",
                f"{group['params_share'] * 100:.1f} %",
            ]
            for group in groups
        ],
    )


def unprunable_table(unprunable: Sequence[Mapping[str, Any]]) -> Grid:
    """List what cannot be pruned, with reasons."""
    columns = (Column("left alone", figures=False), Column("size"), Column("why", figures=False))
    return Grid(columns, [[entry["where"], str(entry["size"]), entry["reason"]] for entry in unprunable])


def totals(found: Inspection, width: int) -> Text:
    """Summarise what can be pruned, and what cannot, by reason.

    Args:
        found: inspection of a network.
        width: characters in a line.
    """
    params = found.costs["params"]
    hold = counted(len(found.graph.groups), "group holds", "groups hold")
    share = _percent(found.prunable, params)
    text = Text(f"{hold} {cost(found.prunable)} of {cost(params)} parameters ({share}).")
    text.append(f"\n{_for_tickets(found)}")
    if found.pinned:
        text.append("\nLeft alone, and the fraction of the parameters that contain it:", "bold")
    for reason in found.pinned:
        dims = f"{counted(reason.dims, 'dimension')} of {_some(reason.tensors)}"
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


def timings_table(runtimes: Mapping[str, Mapping[str, Any]]) -> Grid:
    """List latencies of the dense and the pruned network."""
    columns = (Column("runtime", figures=False), *map(Column, ("dense", "pruned", "now")))
    return Grid(
        columns,
        [
            [runtime, latency(found["dense"]), latency(found["pruned"]), _times_as_fast(found)]
            for runtime, found in runtimes.items()
        ],
    )


def _times_as_fast(found: Mapping[str, Mapping[str, float]]) -> str:
    return f"{found['dense']['median_ms'] / found['pruned']['median_ms']:.2f} × as fast"


def latency_line(cost: str, timed: Mapping[str, Any]) -> str:
    """Format a latency of the budget: limit, dense, predicted and measured.

    Args:
        cost: name of the latency in the budget.
        timed: the latency in a report.
    """
    name = "Latency of the budget" if cost == LATENCY else cost
    calls = calls_line(timed)
    return (
        f"{name}, {timed['runtime']}: at most {timed['limit_ms']:.3g} ms; "
        f"dense {latency(timed['dense'])}, predicted {predicted(timed)}, measured {latency(timed['measured'])} "
        f"({signed(timed['relative_error'])}), {counted(len(timed['rounds']), 'round')}"
        f"{f'; of dense, by how calls follow each other: {calls}' if calls else ''}"
    )


def int8_table(found: Mapping[str, Any]) -> Grid:
    """Format the dense and the pruned network in fp32 and int8.

    Args:
        found: result of the quantisation, as plain values.
    """
    names = (found["metric"] or "metric", f"latency in {found['runtime']}", "speed", "file")
    return Grid(
        [Column("", figures=False), *map(Column, names)],
        [[row["name"], row["metric"], row["latency"], row["speed"], row["size"]] for row in int8_rows(found)],
    )


def metrics_line(metrics: Mapping[str, float]) -> str:
    """Format all metrics of a network in one line."""
    return ", ".join(f"{title_of(name)} {metric(name, value)}" for name, value in metrics.items())


def _int8(result: QuantizeResult) -> list[dict[str, str]]:
    return int8_rows(dc.asdict(result)) if result.corners else []


def costs_line(costs: Mapping[str, float]) -> str:
    """Format all costs in one line."""
    return figures_text(costs)


def _answers(result: AnswersResult) -> str:
    if result.outcomes is None:
        return f"{result.images:,} images" if result.images else "not compared"
    return f"of {result.images:,} images, {result.outcomes.only_dense} lost and {result.outcomes.only_pruned} gained"


def stage_line(result: StageResult) -> str:
    """Format the result of a finished stage in one line."""
    from edakari.results import (
        AnswersResult,
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
            return f"{counted(len(result.groups), 'group')}, {costs_line(result.costs)}, {result.memory_format}"
        case LatencyResult():
            dense = {
                cost: f"{latency(dc.asdict(each.dense))} dense in {each.key.runtime}"
                for cost, each in result.planned.items()
            }
            return ", ".join(text if cost == LATENCY else f"{cost} {text}" for cost, text in dense.items())
        case DenseResult():
            return _main_metric(result.metric, result.metrics) or "cannot be judged"
        case PruneResult():
            return f"{result.method}: {costs_line(result.predicted)}"
        case CheckResult():
            masked = f", {masked_line(dc.asdict(result.masked))} masked" if result.masked else ""
            return f"equal to the masked network to {result.difference:.0e}, {costs_line(result.costs)}{masked}"
        case FinetuneResult():
            main = _main_metric(result.metric, result.metrics)
            return ", ".join([counted(len(result.epochs), "epoch"), *([main] if main else [])])
        case AnswersResult():
            return _answers(result)
        case MeasureResult():
            pairs = {name: dc.asdict(pair) for name, pair in result.runtimes.items()}
            return ", ".join(f"{_times_as_fast(pair)} in {name}{noisy(*pair.values())}" for name, pair in pairs.items())
        case QuantizeResult():
            parts = [f"{row['metric']} in {row['name']}, {row['latency']}" for row in _int8(result)]
            return "; ".join(parts)
        case ExportResult():
            return ", ".join(file.path for file in result.files)
        case ReportResult():
            return result.page
    return ""


def skipped(result: StageResult) -> bool:
    """Return whether a finished stage had nothing to do, as the recipe does not ask for it."""
    from edakari.results import (
        AnswersResult,
        ExportResult,
        FinetuneResult,
        LatencyResult,
        MeasureResult,
        QuantizeResult,
        ReportResult,
    )

    match result:
        case LatencyResult():
            return not result.planned
        case FinetuneResult():
            return not result.epochs
        case AnswersResult():
            return not result.images
        case MeasureResult():
            return not result.runtimes and not result.latencies
        case QuantizeResult():
            return not result.corners
        case ExportResult():
            return not result.files
        case ReportResult():
            return not result.page
    return False


def _main_metric(name: str, metrics: Mapping[str, float]) -> str:
    return f"{title_of(name)} {metric(name, metrics[name])}" if name in metrics else ""
