"""Check for networks with uninitialised lazy parameters."""

from __future__ import annotations

from torch import nn
from torch.nn.parameter import is_lazy

from edakari.core.modules import buffers_of, parameters_of
from edakari.errors import ModelError

__all__ = ["refuse_uninitialised"]


def refuse_uninitialised(model: nn.Module) -> None:
    """Raise an error for a network with lazy modules that have not seen an input.

    Raises:
        ModelError: a parameter is uninitialised; the message says to run the network once.
    """
    lazy = [name for name, value in (parameters_of(model) | buffers_of(model)).items() if is_lazy(value)]
    if lazy:
        raise ModelError(
            f"{type(model).__name__} has {len(lazy)} uninitialised parameters, such as {lazy[0]!r}: its lazy modules "
            "do not know their sizes. Run it once on an input, under torch.no_grad(), before you hand it over."
        )
