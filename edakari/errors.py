"""The exceptions that edakari raises for bad input: each says what, where, what was found, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BudgetError",
    "DataError",
    "EdakariError",
    "EdakariWarning",
    "ExperimentalWarning",
    "ExportError",
    "InfeasibleBudget",
    "MeasurementError",
    "MissingPackage",
    "ModelError",
    "PlanError",
    "RecipeError",
    "RunFolderError",
    "SettingsError",
    "UnknownName",
    "UntrustedCode",
    "WeightsError",
    "WrongArgument",
    "nearest",
]


class EdakariError(Exception):
    """Root of every error that edakari raises on purpose; those that mean a bad value are `ValueError` too."""


class EdakariWarning(UserWarning):
    """What a user should know, though the job goes on; the command line prints it as a note."""


class ExperimentalWarning(EdakariWarning):
    """What is called may change in any release; see `edakari.core.stability`."""


class ModelError(EdakariError):
    """The network or its example input cannot be used as given."""


class UntrustedCode(ModelError):
    """A file, perhaps somebody else's, names code that would run, and the user has not agreed to that."""


class PlanError(EdakariError, ValueError):
    """A plan does not fit the network, or is damaged."""


class WeightsError(EdakariError):
    """Stored weights do not fit the network, or are damaged."""


class BudgetError(EdakariError, ValueError):
    """A budget cannot be read."""


class InfeasibleBudget(BudgetError):
    """A budget lies below what any legal sizes reach.

    Args:
        message: what to tell the user.
        least: for each cost of the budget, the smallest total that can be reached, in the cost's unit.
    """

    def __init__(self, message: str, least: dict[str, float]) -> None:
        super().__init__(message)
        self.least = least


class RecipeError(EdakariError, ValueError):
    """A recipe has a wrong key, type or value."""


class SettingsError(EdakariError, ValueError):
    """A setting has a value that it cannot have; says which, and what it accepts."""


class WrongArgument(EdakariError, TypeError):
    """An argument is of another kind than what belongs there; says what was found, and what to do."""


class DataError(EdakariError):
    """A data set is missing, empty, unreadable or of the wrong form."""


class RunFolderError(EdakariError):
    """A run folder belongs to another recipe, is damaged, or would be overwritten."""


class ExportError(EdakariError):
    """An exported network is not the network it came from, or could not be written."""


class MeasurementError(EdakariError):
    """Something could not be measured."""


class MissingPackage(EdakariError, ModuleNotFoundError):
    """A package that only some of edakari needs is not installed; says what for, and how to install it."""


class UnknownName(EdakariError, ValueError):
    """A name is not among the known ones.

    Args:
        what: what kind of thing was named, for instance "method".
        name: the name as given.
        known: the names there are.
        advice: what else to do, a sentence.
    """

    def __init__(self, what: str, name: str, known: Iterable[str], advice: str = "") -> None:
        known = sorted(known)
        hint = nearest(name, known)
        super().__init__(
            f"unknown {what} {name!r}"
            + (f"; did you mean {hint!r}?" if hint else ".")
            + f" Known: {', '.join(known) or 'none'}."
            + (f" {advice}" if advice else "")
        )


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like a mistyped one, or None where none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return close[0] if close else None
