"""Formatting of numbers for tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edakari.core.steady import STEADY
from edakari.report.speeds import speeds

__all__ = [
    "calls_line",
    "change",
    "cost",
    "dropped_line",
    "int8_rows",
    "is_share",
    "latency",
    "masked_line",
    "metric",
    "metric_change",
    "noisy",
    "predicted",
    "rounds",
    "rows",
    "seconds",
    "signed",
    "size",
    "title_of",
]

FEW = 4
"""Names that one line lists; the others are counted."""
COSTS = {"macs": "MACs", "params": "Parameters", "activations": "Activations"}
SHARES = (
    "accuracy",
    "top1",
    "top5",
    "precision",
    "recall",
    "f1",
    "map",
    "miou",
    "pixel_accuracy",
    "mean_accuracy",
    "mask_map",
    "oks_map",
    "delta1",
)
TITLES = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "map": "mean average precision",
    "map50": "mean average precision at IoU 0.5",
    "map75": "mean average precision at IoU 0.75",
    "miou": "mean IoU",
    "pixel_accuracy": "accuracy of pixels",
    "mean_accuracy": "mean accuracy of classes",
    "mask_map": "mean average precision of masks",
    "mask_map50": "mean average precision of masks at IoU 0.5",
    "oks_map": "mean average precision of keypoints",
    "oks_map50": "mean average precision of keypoints at OKS 0.5",
    "delta1": "depths within a factor of 1.25",
    "abs_rel": "relative error of depths",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
}


def cost(value: float) -> str:
    """Format a count with three digits and a suffix: 12.3 M."""
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * limit:
            return f"{float(f'{value / limit:.3g}'):g} {suffix}"
    return f"{value:.0f}"


def size(value: float) -> str:
    """Format bytes in kB or MB."""
    return f"{value / 1e6:.3g} MB" if value >= 999_500 else f"{value / 1e3:.3g} kB"


def metric(name: str, value: float) -> str:
    """Format a metric: fractions in per cent, others with four digits."""
    return f"{value * 100:.2f} %" if is_share(name) else f"{value:.4g}"


def title_of(name: str) -> str:
    """Return a metric's readable name."""
    return TITLES.get(name, name)


def is_share(name: str) -> bool:
    """Return whether a metric is a fraction."""
    return any(name.lower().startswith(share) for share in SHARES)


def latency(timing: Mapping[str, float]) -> str:
    """Format a median with its spread, and mark a spread that is too wide."""
    return f"{timing['median_ms']:.3g} ± {timing['spread'] / 2:.1g} ms{noisy(timing)}"


def noisy(*timings: Mapping[str, float]) -> str:
    """Return a mark for a timing with too wide a spread, otherwise an empty text."""
    return " (noisy)" if any(timing["spread"] > STEADY * timing["median_ms"] for timing in timings) else ""


def predicted(budgeted: Mapping[str, Any]) -> str:
    """Format the predicted latency of the budget, with the median error of predictions."""
    value = budgeted["predicted_ms"]
    if value is None or budgeted["fit"] is None:  # a runtime that only times whole networks predicts nothing
        return "–"
    return f"{value:.3g} ± {value * budgeted['fit']['median_error']:.1g} ms"


def calls_line(budgeted: Mapping[str, Any]) -> str:
    """Format a latency as a fraction of the dense network's, for each kind of calls; empty without another kind."""
    others: Mapping[str, float] = budgeted.get("other_calls", {})
    if not others or not budgeted["measured"]:
        return ""
    own = {budgeted["calls"]: budgeted["measured"]["median_ms"] / budgeted["dense"]["median_ms"]}
    return ", ".join(f"{kind} {share * 100:.0f} %" for kind, share in {**own, **others}.items())


def signed(share: float) -> str:
    """Format a relative difference with its sign."""
    return f"{share * 100:+.1f} %".replace("-", "−")


def rounds(budgeted: Mapping[str, Any]) -> list[list[str]]:
    """Rounds of the closed loop: number, factor, predicted, measured, dense, relative error."""
    return [
        [
            str(number),
            f"{each['factor']:.3f}",
            f"{each['predicted_ms']:.3g} ms",
            latency(each["timing"]["pruned"]),
            latency(each["timing"]["dense"]),
            signed(each["relative_error"]),
        ]
        for number, each in enumerate(budgeted["rounds"], start=1)
    ]


def seconds(value: float) -> str:
    """Format a time in seconds, minutes or hours."""
    if value < 60:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 3600 else f"{value / 3600:.1f} h"


def change(dense: float, now: float) -> str:
    """Format a cost as a fraction of the dense network's cost."""
    return f"{now / dense * 100:.1f} %" if dense else "–"


def rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the table: a quantity's name, one text for each network, and the change.

    `tone` is "good" if the pruned network costs less, "bad" if it is worse, otherwise "".
    """
    networks = report["networks"]
    dense = networks[0]
    table = []
    for name in dense["metrics"]:
        values = [network["metrics"].get(name) for network in networks]
        texts = [metric(name, value) if value is not None else "–" for value in values]
        known = values[0] is not None and values[-1] is not None and len(values) > 1
        table.append(
            {
                "name": title_of(name)[:1].upper() + title_of(name)[1:],
                "texts": texts,
                **(_metric_row(name, values[0], values[-1]) if known else NONE),
            }
        )
    for name, title in COSTS.items():
        values = [network["costs"][name] for network in networks]
        table.append({"name": title, "texts": [cost(value) for value in values], **_cost_change(values[0], values[-1])})
    sizes = [network["bytes"] for network in networks]
    table.append(
        {"name": "Size on disk", "texts": [size(value) for value in sizes], **_cost_change(sizes[0], sizes[-1])}
    )
    if report.get("masked"):
        table += _masked_rows(report)
    for speed in speeds(report):
        texts = ["" for _ in networks]
        texts[0], texts[-1] = latency(speed.dense), latency(speed.pruned)
        name = f"Latency, {speed.title}{' (budget)' if speed.asked else ''}"
        faster = {"change": f"{speed.ratio:.2f} × as fast", "tone": _tone(speed.ratio > 1)}
        table.append({"name": name, "texts": texts, **faster})
    return table


NONE = {"change": "", "tone": ""}


def _masked_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of a network whose single weights are masked; the dense costs are those of the first network."""
    masked, networks = report["masked"], report["networks"]
    dense = networks[0]["costs"]
    figures = (
        ("Parameters, without masked weights", dense["params"], masked["params"]),
        ("MACs, without masked weights", dense["macs"], masked["macs"]),
        ("MACs, as SuperTickets counts", dense["macs"], masked["uniform_macs"]),
    )
    return [
        {"name": name, "texts": [cost(before), *[cost(now)] * (len(networks) - 1)], **_cost_change(before, now)}
        for name, before, now in figures
    ]


def dropped_line(names: Sequence[str]) -> str:
    """Format which branches and parallel paths are gone: how many, and the first of them."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return f"{len(names)}: {', '.join(names[:FEW])}{more}"


def masked_line(masked: Mapping[str, Any]) -> str:
    """Format which fraction of the maskable weights is masked."""
    left, every = masked["kept"], masked["weights"]
    return f"{change(every, every - left)} of {cost(every)} weights"


def metric_change(name: str, before: float, after: float) -> str:
    """Format the difference of two values of a metric: fractions in points."""
    difference = after - before
    text = f"{difference * 100:+.2f} points" if is_share(name) else f"{difference:+.3g}"
    return text.replace("-", "−")


def _metric_row(name: str, before: float, after: float) -> dict[str, str]:
    better = after - before if name != "loss" else before - after
    return {"change": metric_change(name, before, after), "tone": _tone(better > 0) if better else ""}


def _cost_change(before: float, after: float) -> dict[str, str]:
    return {"change": change(before, after), "tone": "good" if after < before else ""}


def _tone(good: bool) -> str:
    return "good" if good else "bad"


def int8_rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Format the dense and the pruned network in fp32 and int8, one row for each.

    Args:
        found: result of the quantisation, as plain values.
    """
    first, name = found["corners"][0]["latency"], found["metric"]
    return [
        {
            "name": f"{corner['network']}, {corner['precision']}",
            "metric": metric(name, corner["metrics"][name]) if name in corner["metrics"] else "–",
            "latency": latency(corner["latency"]),
            "speed": f"{1.0 / corner['latency']['ratio']:.2f} ×" if corner["latency"] is not first else "",
            "size": size(corner["bytes"]),
        }
        for corner in found["corners"]
    ]
