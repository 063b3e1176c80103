"""Charts of searches and masks that interleave with a training, as in SuperTickets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edakari.core.optional import needs
from edakari.report.formatting import metric, title_of
from edakari.report.series import PERCENT, TONES, Series, lines, pairs, ridges
from edakari.report.unit_charts import by_group, by_kernel

with needs("report", "a report"):
    from markupsafe import Markup

__all__ = ["layer_rows", "ticket_sections"]

Section = dict[str, Any]
SEARCH, MASKS = TONES[0], TONES[1]


def ticket_sections(report: Mapping[str, Any]) -> list[Section]:
    """Draw the events of a search and of masks so far; none for methods without them.

    Args:
        report: the report from `collect`.

    Returns:
        For each section its title, a note on how to read it, and charts with their titles and pictures.
    """
    ticket = report["ticket"]
    if not ticket:
        return []
    search, masks, losses = ticket["search"], ticket["masks"], ticket["losses"]
    searches, choices = search["events"] if search else [], masks["events"] if masks else []
    last = max(entry["epoch"] for entry in (*searches, *choices, *losses))
    over = [("Network", _left(search, choices, last))]
    if losses:
        over.append(("Training loss", _losses(losses, last)))
    over += _metrics(report["metric"], searches, choices, last)
    sections = [_section("Events over the epochs", _events_note(searches, choices), over)]
    if searches:
        charts = [*by_kernel(search), ("Units by group", by_group(search)), ("Gates at each event", _gates(search))]
        sections.append(_section("Units and gates of the search", GATES, charts))
    if choices:
        sections.append(_section("Choices of masks", CHURN, [("Weights masked and returned", _churn(choices))]))
    return sections


GATES = (
    "Units are cut once their gates, the sizes of batch norms' scales, have fallen to the threshold. Units by group: "
    "the stronger the colour, the more units of a group are left; groups are in the order of the network. Gates: one "
    "histogram for each event, just before it; gates outside of the axis are in its first and last bin."
)
CHURN = (
    "Masked: weights that a choice masks and the one before did not. Returned: weights that the choice before masked "
    "and this one does not. Weights of removed units count in neither."
)


def layer_rows(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return which weights each layer keeps: exact counts of the pruned network, or else fractions so far.

    Args:
        report: the report from `collect`.

    Returns:
        A note, and for each layer its name, the percentage that is kept, and texts; None if no weight is masked.
    """
    counts = (report["masked"] or {}).get("layers")
    if counts:
        rows = [
            {
                "name": each["parameter"],
                "share": f"{_percent(each['kept'], each['weights']):.1f}",
                "weights": f"{each['kept']:,} of {each['weights']:,}",
                "macs": f"{each['macs'] * each['kept'] // max(each['weights'], 1):,} of {each['macs']:,}",
            }
            for each in counts
        ]
        note = "Of the pruned network: weights that are not masked, and multiply-accumulates with them. Only a runtime "
        return {"note": f"{note}that skips zeros saves these.", "rows": rows}
    masks = report["ticket"].get("masks")
    if not masks:
        return None
    rows = [
        {"name": name, "share": f"{100 - 100 * share:.1f}", "weights": f"{100 - 100 * share:.1f} %", "macs": ""}
        for name, share in masks["layers"].items()
    ]
    return {"note": f"After the choice of masks at epoch {masks['events'][-1]['epoch']}.", "rows": rows}


def _section(title: str, note: str, charts: Sequence[tuple[str, Markup]]) -> Section:
    return {"title": title, "note": note, "charts": [{"title": name, "picture": chart} for name, chart in charts]}


def _events_note(searches: Sequence[Mapping[str, Any]], choices: Sequence[Mapping[str, Any]]) -> str:
    texts = []
    if searches:
        cut = sum(event["executed"] for event in searches)
        dropped = sum(len(event["dropped"]) for event in searches)
        texts.append(f"{len(searches)} events of the search, {cut} of which cut the network; {dropped} paths dropped.")
    if choices:
        texts.append(f"{len(choices)} choices of masks; {choices[-1]['sparsity']:.1%} of the weights are masked.")
    return " ".join(texts)


def _left(search: Mapping[str, Any] | None, choices: Sequence[Mapping[str, Any]], last: int) -> Markup:
    """The multiply-accumulates and the weights that are left after each event, in per cent."""
    series, texts = [], []
    if search and search["events"]:
        points = [(event["epoch"], _percent(event["macs"], search["macs"])) for event in search["events"]]
        series.append(Series("MACs after the search", [(0, 100.0), *points], SEARCH))
        texts.append(f"the search leaves {points[-1][1]:.1f} % of the MACs")
    if choices:
        points = [(event["epoch"], 100 * (1 - event["sparsity"])) for event in choices]
        series.append(Series("weights without masks", [(0, 100.0), *points], MASKS))
        texts.append(f"masks leave {points[-1][1]:.1f} % of the weights")
    return lines(series, "left, %", f"After {last} epochs, {' and '.join(texts)}", last=last, span=PERCENT)


def _losses(losses: Sequence[Mapping[str, float]], last: int) -> Markup:
    points = [(entry["epoch"], entry["loss"]) for entry in losses]
    text = f"The training loss goes from {points[0][1]:.4g} to {points[-1][1]:.4g} in {last} epochs"
    return lines([Series("training loss", points, "dense")], "training loss", text, last=last)


def _metrics(
    name: str | None, searches: Sequence[Mapping[str, Any]], choices: Sequence[Mapping[str, Any]], last: int
) -> list[tuple[str, Markup]]:
    """The metric at the events, if networks were evaluated there."""
    if name is None:
        return []
    known = (("network before the search", searches, SEARCH), ("with masks", choices, MASKS))
    found = [
        Series(title, [(event["epoch"], event["metrics"][name]) for event in events if name in event["metrics"]], tone)
        for title, events, tone in known
    ]
    series = [each for each in found if each.points]
    if not series:
        return []
    ends = [f"{each.name}, {metric(name, each.points[-1][1])} at epoch {each.points[-1][0]}" for each in series]
    title = title_of(name)
    return [
        (f"{title[:1].upper()}{title[1:]} at the events", lines(series, name, f"{title}: {'; '.join(ends)}", last=last))
    ]


def _gates(search: Mapping[str, Any]) -> Markup:
    rows = [(str(event["epoch"]), event["gates"]) for event in search["events"]]
    limit = search["threshold"] * (1 + 1e-9)  # edges are rounded
    below = [
        sum(count for count, edge in zip(counts, search["edges"][1:], strict=True) if edge <= limit)
        for _, counts in rows
    ]
    text = (
        f"Histograms of the gates before {len(rows)} events: of {sum(rows[-1][1])} gates at the last one, at least "
        f"{below[-1]} are within the threshold of {search['threshold']:g}"
    )
    return ridges(rows, search["edges"], search["threshold"], text)


def _churn(choices: Sequence[Mapping[str, Any]]) -> Markup:
    points = [(event["epoch"], event["masked"], event["returned"]) for event in choices]
    total = sum(returned for _, _, returned in points)
    text = f"At {len(points)} choices of masks, {sum(masked for _, masked, _ in points):,} weights were masked and "
    return pairs(points, ("masked", "returned"), "weights", f"{text}{total:,} returned")


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else 0.0
