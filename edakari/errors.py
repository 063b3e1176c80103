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
    "ProcessError",
    "RecipeError",
    "RunFolderError",
    "SettingsError",
    "StateError",
    "SweepError",
    "UnknownName",
    "UntrustedCode",
    "WeightsError",
    "WrongArgument",
    "nearest",
]


class EdakariError(Exception):
    """Base class of every error that edakari raises on purpose; errors about a bad value are `ValueError` too."""


class EdakariWarning(UserWarning):
    """Base class of edakari's warnings: the job continues, and the command line prints the warning as a note."""


class ExperimentalWarning(EdakariWarning):
    """The function or class in use is experimental and may change in any release; see `edakari.core.stability`."""


class ModelError(EdakariError):
    """The network or its example input cannot be used as given."""


class UntrustedCode(ModelError):
    """A file names code that would be run, and the user has not agreed to run it."""


class PlanError(EdakariError, ValueError):
    """A plan does not fit the network, or its file is damaged."""


class WeightsError(EdakariError):
    """Stored weights do not fit the network, or their file is damaged."""


class BudgetError(EdakariError, ValueError):
    """A budget cannot be parsed."""


class InfeasibleBudget(BudgetError):
    """A budget is smaller than the smallest network that the allowed group sizes can give.

    Args:
        message: the text for the user.
        least: smallest reachable total of each cost in the budget, in the cost's unit.
    """

    def __init__(self, message: str, least: dict[str, float]) -> None:
        super().__init__(message)
        self.least = least


class RecipeError(EdakariError, ValueError):
    """A recipe has a wrong key, type or value."""


class SettingsError(EdakariError, ValueError):
    """A setting has an invalid value; the message names the setting and the accepted values."""


class StateError(EdakariError):
    """The state of an optimizer, or an average of weights, cannot follow a cut; the message says which and why."""


class WrongArgument(EdakariError, TypeError):
    """An argument has the wrong type; the message says what was found and what to pass instead."""


class DataError(EdakariError):
    """A data set is missing, empty, unreadable or has the wrong format."""


class RunFolderError(EdakariError):
    """A run folder belongs to another recipe, is damaged, or would be overwritten."""


class SweepError(EdakariError):
    """A sweep cannot go on: its storage is locked or unreachable, its name is taken, or no budget reaches its goal."""


class ExportError(EdakariError):
    """An exported network does not compute what the original computes, or could not be written."""


class MeasurementError(EdakariError):
    """A latency or another quantity could not be measured."""


class ProcessError(EdakariError):
    """Another process of the job failed or ended, or processes cannot reach each other.

    Args:
        message: the text for the user; it names the process and what happened to it.
        told: whether the text has been printed already.
    """

    def __init__(self, message: str, *, told: bool = False) -> None:
        super().__init__(message)
        self.told = told


class MissingPackage(EdakariError, ModuleNotFoundError):
    """An optional package is not installed; the message says what needs it and how to install it."""


class UnknownName(EdakariError, ValueError):
    """A name is unknown; the message suggests the nearest known name.

    Args:
        what: kind of thing that was named, for instance "method".
        name: the name as given.
        known: all valid names.
        advice: what else to do, a sentence.
        also: further valid names, too many for a list; the nearest one may be among them.
    """

    def __init__(self, what: str, name: str, known: Iterable[str], advice: str = "", also: Iterable[str] = ()) -> None:
        known = sorted(known)
        hint = nearest(name, [*known, *also])
        super().__init__(
            f"unknown {what} {name!r}"
            + (f"; did you mean {hint!r}?" if hint else ".")
            + f" Known: {', '.join(known) or 'none'}."
            + (f" {advice}" if advice else "")
        )


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Find the known name that is most like a mistyped one; None if no name is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return close[0] if close else None
