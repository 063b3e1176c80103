"""Settings of tasks: a class that makes the task, or the signature of a function that does."""

from __future__ import annotations

import dataclasses as dc
import inspect
import typing
from typing import TYPE_CHECKING, Any, Protocol

from edakari.core.protocols import Task
from edakari.core.settings import settings
from edakari.core.user_code import cause
from edakari.errors import DataError, EdakariError, SettingsError

if TYPE_CHECKING:
    from edakari.tasks.settings import DataSettings

__all__ = ["TaskSettings", "settings_of_task"]

GIVEN = ("data", "seed")
"""Parameters that a function is given by the recipe, if it has them."""


class TaskSettings(Protocol):
    """Settings of a task, a frozen dataclass.

    A class attribute `indexed = True` says that the task may be an `edakari.core.protocols.IndexedTask`.
    """

    def make(self, data: DataSettings, seed: int) -> Task:
        """Make the task; reads the data as far as needed.

        Args:
            data: settings of the data.
            seed: seed of the training's order and augmentation.
        """


def settings_of_task(thing: Any) -> type[TaskSettings]:
    """Return a class of settings for a function that makes a task; a class with `make` is returned as it is.

    The function's parameters become settings, except for `data` (`DataSettings`) and `seed`, which it is given:

        def flowers(data, root="images", margin=0.5):
            return edakari.Task.of(...)

    Args:
        thing: function or class that returns a task (`edakari.core.protocols.Task`).

    Raises:
        SettingsError: the function has parameters that no key of a recipe can name.
    """
    if not callable(thing) or hasattr(thing, "make"):
        return typing.cast("type[TaskSettings]", thing)
    parameters = inspect.signature(thing).parameters
    unnamed = [
        each.name for each in parameters.values() if each.kind not in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    ]
    if unnamed:
        raise SettingsError(f"the task {thing.__name__!r} takes {', '.join(unnamed)}; give every parameter a name")
    hints = typing.get_type_hints(thing if inspect.isfunction(thing) else thing.__init__, include_extras=True)
    own = [each for each in parameters.values() if each.name not in GIVEN]

    def make(self: Any, data: DataSettings, seed: int) -> Task:
        given = {name: value for name, value in zip(GIVEN, (data, seed), strict=True) if name in parameters}
        try:
            task: Task = thing(**given, **{each.name: getattr(self, each.name) for each in own})
        except EdakariError:
            raise
        except (Exception, SystemExit) as error:
            raise DataError(f"data.task: {thing.__name__!r} fails: {cause(error)}") from error
        return task

    fields = [(each.name, hints.get(each.name, Any), _default(each)) for each in own]
    namespace = {"make": make, "__doc__": thing.__doc__, "__module__": thing.__module__, "indexed": True}
    # its methods are added by `settings`
    made = dc.make_dataclass(thing.__name__, fields, namespace=namespace, init=False, repr=False, eq=False)
    made.__qualname__ = thing.__qualname__
    return settings(made)


def _default(parameter: inspect.Parameter) -> Any:
    return dc.field() if parameter.default is parameter.empty else dc.field(default=parameter.default)
