"""The width that each group keeps, against how sensitive it is by the method's scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edakari.core.optional import needs
from edakari.report.charts import Point, stations

with needs("report", "a report"):
    from markupsafe import Markup

__all__ = ["sensitivity_chart", "sensitivity_rows"]


def sensitivity_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the figures of each group that was scored, in %: the width it keeps, and fractions of its score.

    Args:
        report: the report from `collect`.
    """
    groups = {group["name"]: group for group in report["groups"]}
    return [
        {
            "name": each["name"],
            "width": groups[each["name"]]["kept"] / groups[each["name"]]["size"] * 100,
            "weaker_half": each["weaker_half"] * 100,
            "removed": each["removed"] * 100,
        }
        for each in report.get("sensitivity", ())
        if each["name"] in groups
    ]


def sensitivity_chart(rows: list[dict[str, Any]]) -> Markup | None:
    """Draw a dot for each group; None for a single group.

    Args:
        rows: figures from `sensitivity_rows`.
    """
    if len(rows) < 2:
        return None
    points = [
        Point(
            row["weaker_half"],
            row["width"],
            f"{row['name']}: keeps {row['width']:.0f} % of its width; its weaker half of channels holds "
            f"{row['weaker_half']:.0f} % of its score, and the removed ones held {row['removed']:.0f} %",
            "finetuned",
        )
        for row in rows
    ]
    return stations(points, "score of the weaker half of its channels, %", "width kept, %", joined=False)
