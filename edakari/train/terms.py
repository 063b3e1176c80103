"""Normalisation of an objective's result to named loss terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from edakari.core.arguments import found_as
from edakari.errors import WrongArgument

__all__ = ["loss_terms", "total_loss"]


def loss_terms(found: Any) -> Mapping[str, torch.Tensor]:
    """Return an objective's result as named loss terms; a single tensor becomes the term "loss".

    Raises:
        WrongArgument: there is no term, a term is not a tensor with a single value, or no term has a gradient.
    """
    terms: Any = {"loss": found} if isinstance(found, torch.Tensor) else found
    if not isinstance(terms, Mapping) or not terms:
        raise WrongArgument(
            f"fit: an objective returns its loss as a tensor, or a dict of named ones, but got {found_as(found)}"
            if not isinstance(found, Mapping)
            else "fit: the objective returned a dict without a loss in it"
        )
    for name, term in terms.items():
        if not isinstance(term, torch.Tensor) or term.numel() != 1:
            what = f"a tensor of shape {list(term.shape)}" if isinstance(term, torch.Tensor) else found_as(term)
            raise WrongArgument(f"fit: the objective's loss {name!r} must be a tensor with one value, but is {what}")
    if not any(term.requires_grad for term in terms.values()):
        raise WrongArgument(
            f"fit: no loss of the objective ({', '.join(map(repr, terms))}) has a gradient; it computes without the "
            "network, under no_grad, or with .detach() or .item()"
        )
    return {name: term.reshape(()) for name, term in terms.items()}


def total_loss(terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the sum of loss terms, in float32 at least; half precision would lose small terms beside large ones."""
    wide = any(term.dtype == torch.float64 for term in terms.values())
    return torch.stack([term.to(torch.float64 if wide else torch.float32) for term in terms.values()]).sum()
