"""The report as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edakari.core.optional import needs
from edakari.report import formatting as figures
from edakari.report.charts import curve, scatter, tradeoffs
from edakari.report.search_charts import trail
from edakari.report.template import template
from edakari.report.ticket_charts import layer_rows, ticket_sections

with needs("report", "a report"):
    import yaml
    from markupsafe import Markup

__all__ = ["render"]


def render(report: Mapping[str, Any], pictures: Mapping[str, str] = {}) -> str:
    """Render the page.

    Args:
        report: the report from `collect`.
        pictures: URLs of the explanations' pictures, by file name.
    """
    return template("page.html.j2").render(
        report=report,
        pictures=pictures,
        rows=figures.rows(report),
        budgeted=_budgeted(report["latency"]),
        int8=figures.int8_rows(report["int8"]) if report.get("int8") else [],
        tiles=_tiles(report),
        headline=_headline(report),
        tradeoffs=_tradeoff_charts(report),
        curves=_curves(report),
        search=trail(report),
        ticket=ticket_sections(report),
        layers=layer_rows(report),
        logged=list(dict.fromkeys(key for entry in report["log"] for key in entry)),
        recipe=yaml.safe_dump(report["recipe"], sort_keys=False, allow_unicode=True),
        pruned_groups=[group for group in report["groups"] if group["kept"] < group["size"]],
    )


def _headline(report: Mapping[str, Any]) -> dict[str, str]:
    model = report["model"].rpartition(":")[2]
    dense, last = report["networks"][0], report["networks"][-1]
    if last is dense:
        return {"title": f"{model}, not pruned yet", "asked": report["budget"], "reached": "nothing yet"}
    reached = [
        f"{figures.COSTS[cost]} at {figures.change(dense['costs'][cost], last['costs'][cost])}"
        for cost in report["limits"]
        if cost in figures.COSTS
    ]
    timed = report["latency"]
    if timed and timed["measured"]:
        share = figures.change(timed["dense"]["median_ms"], timed["measured"]["median_ms"])
        reached.append(f"latency at {share} ({timed['measured']['median_ms']:.3g} ms in {timed['runtime']})")
    if report.get("advice") and not report["epochs"]:
        reached.append(report["advice"])
    return {
        "title": f"{model}, {figures.change(dense['costs']['macs'], last['costs']['macs'])} of the MACs",
        "asked": report["budget"],
        "reached": ", ".join(reached),
    }


def _tiles(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """The main numbers at the top of the page."""
    dense, last = report["networks"][0], report["networks"][-1]
    if last is dense:
        return []
    tiles = []
    name = report["metric"]
    if name in dense["metrics"] and name in last["metrics"]:
        before, after = dense["metrics"][name], last["metrics"][name]
        difference = figures.rows(report)[list(dense["metrics"]).index(name)]
        tiles.append(
            {
                "name": figures.title_of(name),
                "figure": figures.metric(name, after),
                "note": f"{difference['change']} against {figures.metric(name, before)}",
            }
        )
    for cost in ("macs", "params"):
        before, after = dense["costs"][cost], last["costs"][cost]
        tiles.append(
            {
                "name": figures.COSTS[cost],
                "figure": figures.change(before, after),
                "note": f"{figures.cost(after)} of {figures.cost(before)}",
            }
        )
    for runtime, timing in dense["latency"].items():
        after = last["latency"][runtime]["median_ms"]
        tiles.append(
            {
                "name": f"speed in {runtime}",
                "figure": f"{timing['median_ms'] / after:.2f} ×",
                "note": f"{after:.3g} ms instead of {timing['median_ms']:.3g} ms",
            }
        )
    return tiles


def _budgeted(timed: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Describe the latency of the budget."""
    if timed is None:
        return None
    measured = timed["measured"]
    return {
        "runtime": timed["runtime"],
        "batch": timed["batch"],
        "threads": timed["settings"]["threads"],
        "asked": f"{timed['limit_ms']:.3g} ms",
        "dense": figures.latency(timed["dense"]),
        "predicted": figures.predicted(timed),
        "measured": figures.latency(measured) if measured else "–",
        "relative_error": figures.signed(timed["relative_error"]) if measured else "",
        "finished": timed["finished"],
        "fitted": timed["fit"] is not None,
        "rounds": figures.rounds(timed),
    }


def _tradeoff_charts(report: Mapping[str, Any]) -> list[Markup]:
    return [scatter(chart["points"], chart["title"], report["metric"], chart["limit"]) for chart in tradeoffs(report)]


def _curves(report: Mapping[str, Any]) -> list[Markup]:
    epochs, name = report["epochs"], report["metric"]
    if not epochs:
        return []
    networks = {network["name"]: network for network in report["networks"]}
    charts = [curve([(epoch["epoch"], epoch["loss"]) for epoch in epochs], "training loss", "pruned", None)]
    judged = [(epoch["epoch"], epoch[f"val_{name}"]) for epoch in epochs if f"val_{name}" in epoch]
    if judged:
        start = networks["pruned"]["metrics"].get(name)
        first = [(0.0, start)] if start is not None else []
        charts.append(curve([*first, *judged], name, "finetuned", ("dense", networks["dense"]["metrics"][name])))
    return charts
