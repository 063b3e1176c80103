"""Explanation of a failure in the user's network, with the line in the user's code."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

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
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(Path(frame.filename))]
    if frames:
        index = frames[-1]
        lines.append(f"  in {index.filename}:{index.lineno}, {index.name}: {index.line}")
    lines.append("If the network takes another input, give its sizes without the batch, such as --input 1,28,28.")
    return "\n".join(lines)


def _is_own(file: Path) -> bool:
    import edakari

    installed = ("site-packages", f"python{sys.version_info.major}.{sys.version_info.minor}")
    library = Path(edakari.__file__).parent in file.parents or any(name in file.parts for name in installed)
    return not library and file.suffix == ".py"
