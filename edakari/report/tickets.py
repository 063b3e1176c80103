"""What a search for a ticket and its masks have done, from the files that they write while the network trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edakari.errors import RunFolderError
from edakari.report.artifacts import read_artifact

__all__ = ["ticket_events"]


def ticket_events(folder: Path) -> dict[str, Any]:
    """Read the events of a search, the choices of masks and the losses of a run, finished or not.

    Args:
        folder: run folder.

    Returns:
        `search` with its groups and events, or None; `masks` with its events and the sparsity of each layer after the
        last one, or None; and `losses`. Empty if there are no events.

    Raises:
        RunFolderError: a file is damaged; says which.
    """
    search = _read_search(folder)
    masks, losses = read_artifact(folder, "masks"), read_artifact(folder, "losses")
    if not (search and search["events"]) and not masks:
        return {}
    return {"search": _search(search) if search else None, "masks": _masks(masks), "losses": losses or []}


def _read_search(folder: Path) -> Any:
    found = read_artifact(folder, "search")
    wrong = [each for each in found["events"] if len(each["gates"]) != len(found["edges"]) - 1] if found else []
    if wrong:
        bins, edges = len(wrong[0]["gates"]), len(found["edges"])
        raise RunFolderError(
            f"{folder / 'kept' / 'search.json'} has wrong content: the histogram of epoch {wrong[0]['epoch']} has "
            f"{bins} bins, and there are {edges} edges; remove it to have a report without it"
        )
    return found


def _search(found: Mapping[str, Any]) -> dict[str, Any]:
    """The search, with the units of each group in a list over the events."""
    events = found["events"]
    units = [event["units"] for event in events]
    return {
        **found,
        "groups": [{**group, "units": [each.get(group["name"], 0) for each in units]} for group in found["groups"]],
        "events": [{**event, "units": sum(event["units"].values())} for event in events],
    }


def _masks(events: Any) -> dict[str, Any] | None:
    if not events:
        return None
    bare = [{key: value for key, value in event.items() if key != "layers"} for event in events]
    return {"events": bare, "layers": events[-1]["layers"]}
