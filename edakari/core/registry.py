"""One way to name what may be chosen: methods, criteria, allocators, tasks, runtimes, costs and the like.

    CRITERIA: Registry[type[Criterion]] = Registry(
        "criterion", "edakari.criteria", {"magnitude": "edakari.criteria.magnitude:Magnitude"}, members=("score",)
    )

A name is one of four: built in (imported when it is asked for), registered by a program, offered by an installed
package through an entry point, or `path/to/file.py:name`, a file of the user's own, which is run.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from edakari.core.user_code import attribute, names_file, parted_file, used_file
from edakari.errors import EdakariError, UnknownName

__all__ = ["Registry"]

T = TypeVar("T")
C = TypeVar("C")


class Registry(Mapping[str, T]):
    """Classes, or other callables that make a thing, by name.

    Args:
        what: kind of thing, for errors, such as "criterion".
        group: of entry points, whose names are the things' names, such as "edakari.criteria".
        built_in: name to "package.module:attribute".
        members: what a thing of this kind must have, such as `("score",)`.
        files: whether a name may be a file of the user's own.
        adapt: makes a thing of this kind of what a program, a package or a file offers; None takes it as it is.
    """

    def __init__(
        self,
        what: str,
        group: str,
        built_in: Mapping[str, str] | None = None,
        *,
        members: tuple[str, ...] = (),
        files: bool = True,
        adapt: Callable[[Any], T] | None = None,
    ) -> None:
        self.what, self.group, self.members, self.files = what, group, members, files
        self._adapt: Callable[[Any], Any] = adapt or (lambda thing: thing)
        self._built_in = dict(built_in or {})
        self._registered: dict[str, T] = {}
        self._short: tuple[Mapping[str, Any], str, str] | None = None

    def __repr__(self) -> str:
        return f"Registry({self.what!r}, {', '.join(self.names()) or 'empty'})"

    def __getitem__(self, name: str) -> T:
        return self.named(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.known(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def register(self, name: str) -> Callable[[C], C]:
        """Decorator that makes a class or function known under a name.

        Raises:
            EdakariError: the name is taken.
        """

        def add(thing: C) -> C:
            self.add(name, thing)
            return thing

        return add

    def add(self, name: str, thing: Any) -> None:
        """Make a class or function known under a name; the same one may be added twice.

        Args:
            name: in recipes and calls.
            thing: what it stands for.

        Raises:
            EdakariError: the name is taken by another one.
        """
        other = self._registered.get(name)
        taken = _home(other) if other is not None else self._built_in.get(name)
        if other is not thing and taken is not None and taken.partition(":")[2] != _home(thing).partition(":")[2]:
            raise EdakariError(f"{self.what} {name!r} is registered twice: {taken} and {_home(thing)}; rename one")
        self._registered[name] = self._adapt(thing)

    def shorten(self, others: Mapping[str, Any], name: str, key: str) -> None:
        """Let the names of other things stand for a thing with one of them as a setting.

        Args:
            others: the other things by name, such as `CRITERIA`.
            name: of the thing.
            key: of its setting.
        """
        self._short = (others, name, key)

    def expanded(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """A name and settings with the short form written out: "taylor" becomes "score" with `criterion: taylor`.

        Args:
            content: settings beside the key "name".

        Raises:
            EdakariError: the setting that the short form stands for names another thing.
        """
        short = content.get("name")
        if self._short is None or not isinstance(short, str) or short in self.names():
            return dict(content)
        others, name, key = self._short
        if short not in list(others):
            return dict(content)
        given = content.get(key, {})
        setting = {"name": given} if isinstance(given, str) else given
        if not isinstance(setting, Mapping) or setting.get("name", short) != short:
            raise EdakariError(
                f"{short!r} is short for {name!r} with {key} {short!r}, but {key} is {given!r}; keep one"
            )
        return {**content, "name": name, key: {"name": short, **setting}}

    def named(self, name: str) -> T:
        """What a name stands for; runs the file where it names one.

        Raises:
            UnknownName: there is none; says the nearest, and how to add one.
            EdakariError: the package or file that offers it cannot be used.
        """
        if name in self._registered:
            return self._registered[name]
        if name in self._built_in:
            built_in: T = _imported(self._built_in[name])
            return built_in
        if self.files and names_file(name):
            return self._from_file(name)
        entry = self._entries().get(name)
        if entry is None:
            raise self.unknown(name)
        return self._from_package(name, entry)

    def unknown(self, name: str) -> UnknownName:
        """The error for a name that stands for nothing."""
        return UnknownName(self.what, name, self.choices(), self.advice)

    @property
    def advice(self) -> str:
        """How to add a name, a sentence."""
        way = ", or name your own as path/to/file.py:NAME" if self.files else ""
        return f"Others are added by the entry point group {self.group!r}{way}."

    def known(self, name: str) -> bool:
        """Whether a name stands for something, or is of the form of a file; imports and runs nothing."""
        return (self.files and names_file(name)) or name in self.names()

    def names(self) -> tuple[str, ...]:
        """Every name but those of files, sorted; imports nothing.

        Raises:
            EdakariError: an installed package offers a name that is taken.
        """
        return tuple(sorted({*self._built_in, *self._registered, *self._entries()}))

    def choices(self) -> tuple[str, ...]:
        """Every name with the short forms, sorted; see `shorten`."""
        return tuple(sorted({*self.names(), *(self._short[0] if self._short else ())}))

    def name_of(self, thing: Any) -> str | None:
        """The name that a recipe gives to a thing, or to the class of an instance; None where it has none."""
        thing = thing if hasattr(thing, "__qualname__") else type(thing)
        home = _home(thing)
        for name, at in {**self._built_in, **{key: _home(value) for key, value in self._registered.items()}}.items():
            if at == home:
                return name
        named: str | None = getattr(thing, "__edakari_name__", None)
        return named

    def require(self, thing: Any, name: str) -> None:
        """Refuse a thing that is not of this kind.

        Raises:
            EdakariError: says what it lacks.
        """
        missing = [member for member in self.members if not hasattr(thing, member)]
        if missing:
            raise EdakariError(f"{name!r} is no {self.what}: it has no {missing[0]!r}")

    def makes(self, thing: Any) -> bool:
        """Whether what a name stands for makes a thing of this kind when it is called; False where it is one itself.

        A function is a thing itself in a registry of functions, whose `members` are `("__call__",)`.
        """
        return isinstance(thing, type) or not self.members or not all(hasattr(thing, each) for each in self.members)

    def _from_file(self, name: str) -> T:
        path, short = parted_file(name)
        module = used_file(Path(path), f"{self.what} {name!r}")
        thing: T = self._adapt(attribute(module, Path(path), short, self.what))
        _mark(thing, name)
        return thing

    def _from_package(self, name: str, entry: importlib.metadata.EntryPoint) -> T:
        try:
            found = entry.load()
        except Exception as error:
            raise EdakariError(
                f"{self.what} {name!r} of the installed package {_package(entry)} cannot be imported: "
                f"{type(error).__name__}: {error}"
            ) from error
        if name in self._registered:  # a decorator in the module has done so
            return self._registered[name]
        if isinstance(found, ModuleType):
            raise EdakariError(
                f"the entry point {name!r} of {_package(entry)} in {self.group!r} names the module {found.__name__!r}, "
                f"which registers no {self.what} {name!r}; let it name the class, as module:Class"
            )
        thing: T = self._adapt(found)
        _mark(thing, name)
        return thing

    def _entries(self) -> dict[str, importlib.metadata.EntryPoint]:
        """What installed packages offer."""
        entries: dict[str, importlib.metadata.EntryPoint] = {}
        for entry in importlib.metadata.entry_points(group=self.group):
            own = self._registered.get(entry.name)
            home = _home(own) if own is not None else self._built_in.get(entry.name)
            if home is not None and home.partition(":")[0] != entry.module:
                raise self._taken(entry, home)
            other = entries.setdefault(entry.name, entry)
            if other.value != entry.value:
                raise self._taken(entry, f"{other.value} of {_package(other)}")
        return entries

    def _taken(self, entry: importlib.metadata.EntryPoint, by: str) -> EdakariError:
        return EdakariError(
            f"{self.what} {entry.name!r}, which the installed package {_package(entry)} offers as {entry.value}, is "
            f"taken by {by}; rename one, or uninstall that package"
        )


def _imported(where: str) -> Any:
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)


def _home(thing: Any) -> str:
    """Where a thing is defined, as "package.module:attribute"; what is no class or function has no such place."""
    if not hasattr(thing, "__qualname__"):
        return f"{type(thing).__module__}:{thing!r}"
    return f"{thing.__module__}:{thing.__qualname__}"


def _mark(thing: Any, name: str) -> None:
    """Note on a thing by which name a recipe reaches it."""
    try:
        thing.__edakari_name__ = name
    except (AttributeError, TypeError):
        return


def _package(entry: importlib.metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "unknown"
