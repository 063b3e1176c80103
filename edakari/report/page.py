"""The report as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edakari.core.optional import needs
from edakari.core.steady import LATENCY
from edakari.report import formatting as figures
from edakari.report.answer_charts import answer_charts, answers_note
from edakari.report.charts import curve, scatter, tradeoffs
from edakari.report.search_charts import trail
from edakari.report.sensitivity_chart import sensitivity_chart, sensitivity_rows
from edakari.report.template import template
from edakari.report.ticket_charts import layer_rows, ticket_sections
from edakari.report.verdict import Verdict, verdict

with needs("report", "a report"):
    import yaml
    from markupsafe import Markup

__all__ = ["render"]


def render(report: Mapping[str, Any], pictures: Mapping[str, str] = {}) -> str:
    """Render the page.

    Args:
        report: the report from `collect`.
        pictures: URLs of the explanations' pictures, by file name; others are left out.
    """
    found, sensitivity = verdict(report), sensitivity_rows(report)
    return template("page.html.j2").render(
        report=report,
        pictures=pictures,
        rows=figures.rows(report),
        budgeted=[_budgeted(cost, timed) for cost, timed in report["latencies"].items()],
        int8=figures.int8_rows(report["int8"]) if report.get("int8") else [],
        tiles=_tiles(report, found),
        verdict=found,
        model=report["model"].rpartition(":")[2],
        source=_source(report["recipe"]),
        tradeoffs=[scatter(chart, report["metric"]) for chart in tradeoffs(report)],
        curves=_curves(report),
        answers=answer_charts(report["answers"]) if report["answers"] else [],
        answers_note=answers_note(report["answers"]) if report["answers"] else "",
        sensitivity=sensitivity,
        sensitivity_chart=sensitivity_chart(sensitivity),
        search=trail(report),
        ticket=ticket_sections(report),
        layers=layer_rows(report),
        logged=list(dict.fromkeys(key for entry in report["log"] for key in entry)),
        recipe=yaml.safe_dump(report["recipe"], sort_keys=False, allow_unicode=True),
        pruned_groups=[group for group in report["groups"] if group["kept"] < group["size"]],
    )


def _source(recipe: Mapping[str, Any]) -> str:
    """The data of the run, if a name says it."""
    data = recipe.get("data")
    source = data.get("source") if isinstance(data, Mapping) else None
    return source if isinstance(source, str) else ""


def _tiles(report: Mapping[str, Any], found: Verdict) -> list[dict[str, str]]:
    """The main numbers at the top of the page: the metric, counted costs, and one speed."""
    dense, last = report["networks"][0], report["networks"][-1]
    if last is dense:
        return []
    tiles = []
    if found.judged:
        name, before, after = found.judged.name, found.judged.before, found.judged.after
        note = f"{figures.metric_change(name, before, after)} against {figures.metric(name, before)}"
        tiles.append({"name": figures.title_of(name), "figure": figures.metric(name, after), "note": note})
    for cost in dict.fromkeys(("macs", "params", *(name for name in report["limits"] if name in figures.COSTS))):
        before, after = dense["costs"][cost], last["costs"][cost]
        note = f"{figures.cost(after)} of {figures.cost(before)}"
        tiles.append({"name": figures.COSTS[cost], "figure": figures.change(before, after), "note": note})
    if found.speed:
        times = f"{found.speed.pruned['median_ms']:.3g} ms instead of {found.speed.dense['median_ms']:.3g} ms"
        note = f"{times}{figures.noisy(found.speed.dense, found.speed.pruned)}"
        tiles.append({"name": f"speed in {found.speed.title}", "figure": f"{found.speed.ratio:.2f} ×", "note": note})
    return tiles


def _budgeted(cost: str, timed: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a latency of the budget."""
    measured = timed["measured"]
    return {
        "name": timed["runtime"] if cost == LATENCY else f"{cost}, {timed['runtime']}",
        "batch": timed["batch"],
        "threads": timed["settings"]["threads"],
        "asked": f"{timed['limit_ms']:.3g} ms",
        "dense": figures.latency(timed["dense"]),
        "predicted": figures.predicted(timed),
        "measured": figures.latency(measured) if measured else "–",
        "calls": timed.get("calls", "steady"),
        "other_calls": figures.calls_line(timed),
        "relative_error": figures.signed(timed["relative_error"]) if measured else "",
        "finished": timed["finished"],
        "fitted": timed["fit"] is not None,
        "rounds": figures.rounds(timed),
    }


def _curves(report: Mapping[str, Any]) -> list[Markup]:
    epochs, name = report["epochs"], report["metric"]
    if not epochs:
        return []
    networks = {network["name"]: network for network in report["networks"]}
    charts = [curve([(epoch["epoch"], epoch["loss"]) for epoch in epochs], "training loss", "pruned", None)]
    judged = [(epoch["epoch"], epoch[f"val_{name}"]) for epoch in epochs if f"val_{name}" in epoch]
    if judged:
        start = networks["pruned"]["metrics"].get(name)
        low = min(value for _, value in [*judged, (0.0, networks["dense"]["metrics"][name])])
        # a network that answers at random before the training would stretch the axis
        first = [(0.0, start)] if start is not None and start > 0.8 * low else []
        charts.append(curve([*first, *judged], name, "finetuned", ("dense", networks["dense"]["metrics"][name])))
    return charts
