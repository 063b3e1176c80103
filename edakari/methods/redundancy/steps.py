"""The next smaller width of a group in a search that cuts by fractions."""

from __future__ import annotations

from edakari.core.space import Group, legal_sizes

__all__ = ["step_down"]


def step_down(group: Group, width: int, step: float, blocks: int = 0) -> int | None:
    """Return the next width to try.

    differs: in residual streams the authors' formula always removes two filters or more. Here, a step of less than one
    filter removes one, so that the smallest step is one filter everywhere.

    Args:
        group: the group, with its legal sizes.
        width: current width.
        step: fraction of the width to remove.
        blocks: number of blocks that write into the group's residual stream; 0 if the group is no residual stream.

    Returns:
        The smaller legal width nearest to the width after the step; None if no smaller one is legal.
    """
    removed = width * step / blocks if blocks else width * step
    wanted = int(width - (removed + 1)) if blocks and removed >= 1 else int(width - removed)
    smaller = [size for size in legal_sizes(group) if size < width]
    return min(smaller, key=lambda size: (abs(size - wanted), -size), default=None)
