"""The masked reading of fake quantisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from edakari.graph.operators import named

if TYPE_CHECKING:
    from edakari.surgery.masked_reads import MaskedReads

__all__ = ["QUANTIZED"]


def _observed(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Removed positions repeat a kept one, so that the observed range is that of the kept positions."""
    x = args[0]
    along, each = (args[10], args[11]) if len(args) > 11 else (kwargs.get("ch_axis", 0), False)
    mixed = [dim for dim in range(x.dim()) if not each or dim != along % x.dim()]
    for dim, keep in reads.gone(x, mixed).items():
        index = torch.where(keep, torch.arange(len(keep)), keep.nonzero()[0])
        x = x.index_select(dim, index.to(x.device))
    return func(x, *args[1:], **kwargs)


QUANTIZED: dict[str, Callable[..., Any]] = dict.fromkeys(named("observed_quantisation"), _observed)
"""Functions by name, with their masked readings."""
