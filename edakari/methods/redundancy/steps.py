"""The next smaller width of a group in a search that cuts by fractions."""

from __future__ import annotations

from edakari.core.space import Group, legal_sizes

__all__ = ["step_down"]


def step_down(group: Group, width: int, step: float, blocks: int = 0) -> int | None:
    """Return the next width to try.

    Args:
        group: the group, with its legal sizes.
        width: current width.
        step: fraction of the width to remove.
        blocks: number of blocks that write into the group's residual stream; 0 if the group is no residual stream.

    Returns:
        The smaller legal width nearest to the width after the step; None if no smaller one is legal.
    """
    wanted = int(width - (width * step / blocks + 1)) if blocks else int(width - width * step)
    smaller = [size for size in legal_sizes(group) if size < width]
    return min(smaller, key=lambda size: (abs(size - wanted), -size), default=None)
