"""Explanation of a failure in the user's network, with the line in the user's code."""

from __future__ import annotations

from typing import Any

from edakari.core.user_code import own_line

__all__ = ["explained"]


def explained(network: str, example: Any, error: BaseException) -> str:
    """Explain a failure: the input, the line in the user's code, and what to do.

    Args:
        network: name of the network's class.
        example: the input.
        error: the exception from its forward pass.
    """
    from torch import Tensor
    from torch.utils._pytree import tree_leaves

    shapes = ["×".join(map(str, leaf.shape)) for leaf in tree_leaves(example) if isinstance(leaf, Tensor)]
    lines = [
        f"the forward pass of {network} fails on an input of {', '.join(shapes)}:",
        f"  {type(error).__name__}: {str(error).strip()}",
    ]
    frame = own_line(error)
    if frame is not None:
        lines.append(f"  in {frame.filename}:{frame.lineno}, {frame.name}: {frame.line}")
    lines.append("If the network takes another input, give its sizes without the batch, such as --input 1,28,28.")
    return "\n".join(lines)
