"""A network's groups as one self-contained HTML page."""

from __future__ import annotations

from typing import Any

from edakari.core.layout import extent
from edakari.report import formatting as figures
from edakari.report.inspection import Inspection, input_text
from edakari.report.network_picture import colours, draw_network
from edakari.report.pins import parameter_sizes
from edakari.report.template import template

__all__ = ["render_network"]


def render_network(found: Inspection) -> str:
    """Render the page.

    Args:
        found: inspection of a network.
    """
    groups = _groups(found)
    return template("network.html.j2").render(
        title=found.name.rpartition(":")[2],
        name=found.name,
        input=input_text(found.graph.inputs),
        device=found.graph.device,
        device_reason=found.graph.device_reason,
        tiles=_tiles(found),
        picture=draw_network(found),
        groups=groups,
        droppable=[
            (title, kind, branches)
            for title, kind, branches in (
                ("Branches", "branch", found.graph.branches),
                ("Parallel paths", "path", found.graph.paths),
            )
            if branches
        ],
        pinned=found.pinned,
        uncounted=found.uncounted,
        details=[
            {key: group[key] for key in ("name", "kind", "size", "macs", "params", "members")} for group in groups
        ],
    )


def _tiles(found: Inspection) -> list[dict[str, str]]:
    costs, sizes = found.costs, parameter_sizes(found.graph)
    share = figures.change(costs["params"], found.prunable)
    return [
        {"name": "MACs", "figure": figures.cost(costs["macs"]), "note": "for the input above"},
        {"name": "parameters", "figure": figures.cost(costs["params"]), "note": f"in {len(sizes)} tensors"},
        {
            "name": "groups",
            "figure": str(len(found.graph.groups)),
            "note": f"{sum(group.size for group in found.graph.groups):,} positions".replace(",", " "),
        },
        {"name": "in groups", "figure": share, "note": f"{figures.cost(found.prunable)} parameters can be pruned"},
    ]


def _groups(found: Inspection) -> list[dict[str, Any]]:
    tones = colours(found)
    return [
        {
            "number": number,
            "name": group.name,
            "kind": group.kind,
            "size": group.size,
            "tone": tones[group.name],
            "macs": found.shares[group.name]["macs"],
            "params": found.shares[group.name]["params"],
            "members": [
                f"{member.tensor}[{member.dim}] of {int(extent(member.layout, {}))}"
                for member in found.graph.members(group.name)
            ],
        }
        for number, group in enumerate(found.graph.groups)
    ]
