"""Registries of everything that a recipe chooses by name: methods, criteria, allocators, tasks, runtimes, costs.

    CRITERIA: Registry[type[Criterion]] = Registry(
        "criterion", "edakari.criteria", {"magnitude": "edakari.criteria.magnitude:Magnitude"}, members=("score",)
    )

A name has one of four origins: it is built in (and imported at its first use), registered by a program, offered by an
installed package through an entry point, or `path/to/file.py:name` in the user's own file, which is executed.
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
    """A mapping from names to classes or factory functions.

    Args:
        what: kind of the entries, for errors, such as "criterion".
        group: entry point group of installed packages, such as "edakari.criteria".
        built_in: place of each built-in entry, as "package.module:attribute", by name.
        members: attributes that every entry must have, such as `("score",)`.
        files: whether a name may refer to the user's own file.
        adapt: function from what a program, a package or a file offers to an entry; None takes it unchanged.
        others: for another library, the place of a function that returns the entries it offers. The function is called
            for names that are not found elsewhere; its names are no part of lists.
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
        others: Mapping[str, str] | None = None,
    ) -> None:
        self.what, self.group, self.members, self.files = what, group, members, files
        self._other_places = dict(others or {})
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
        """Return a decorator that registers a class or function under a name.

        Args:
            name: name of the entry.

        Raises:
            EdakariError: the name is taken.
        """

        def add(thing: C) -> C:
            self.add(name, thing)
            return thing

        return add

    def add(self, name: str, thing: Any) -> None:
        """Register a class or function under a name; the same one may be added twice.

        Args:
            name: name in recipes and calls.
            thing: class or function.

        Raises:
            EdakariError: the name is taken by another class or function.
        """
        other = self._registered.get(name)
        taken = _home(other) if other is not None else self._built_in.get(name)
        if other is not thing and taken is not None and taken.partition(":")[2] != _home(thing).partition(":")[2]:
            raise EdakariError(f"{self.what} {name!r} is registered twice: {taken} and {_home(thing)}; rename one")
        self._registered[name] = self._adapt(thing)

    def shorten(self, others: Mapping[str, Any], name: str, key: str) -> None:
        """Let the names of another registry stand for one entry of this one, with the other entry as a setting.

        Args:
            others: entries of the other registry by name, such as `CRITERIA`.
            name: name of the entry of this registry, such as "score".
            key: name of its setting, such as "criterion".
        """
        self._short = (others, name, key)

    def expanded(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Expand a short form: "taylor" becomes "score" with `criterion: taylor`.

        Args:
            content: settings, and the key "name".

        Raises:
            EdakariError: the setting for which the short form stands has another value.
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
        """Return the entry of a name; executes the file if the name refers to one.

        Args:
            name: name of the entry.

        Raises:
            UnknownName: no entry has this name; the error gives the nearest name, and how to add one.
            EdakariError: the package or file of the entry cannot be used.
        """
        if name in self._registered:
            return self._registered[name]
        if name in self._built_in:
            built_in: T = _imported(self._built_in[name])
            return built_in
        if self.files and names_file(name):
            return self._from_file(name)
        entry = self._entries().get(name)
        if entry is not None:
            return self._from_package(name, entry)
        others = self.others()
        if name not in others:
            raise self.unknown(name)
        return others[name]

    def unknown(self, name: str) -> UnknownName:
        """Return the error for a name without an entry."""
        return UnknownName(self.what, name, self.choices(), self.advice, also=self.others())

    @property
    def advice(self) -> str:
        """The sentence that says how to add an entry."""
        way = ", or name your own as path/to/file.py:NAME" if self.files else ""
        libraries = "".join(f"Any of {library}'s can be named too. " for library in self._other_places)
        return f"{libraries}Others are added by the entry point group {self.group!r}{way}."

    def known(self, name: str) -> bool:
        """Whether a name has an entry or refers to a file; imports and executes nothing but another library."""
        if name in self._registered or name in self._built_in:
            return True  # without reading the metadata of all installed packages
        return (self.files and names_file(name)) or name in self._entries() or name in self.others()

    def names(self) -> tuple[str, ...]:
        """Return all names except those of files, sorted; imports nothing.

        Raises:
            EdakariError: an installed package offers a name that is taken.
        """
        return tuple(sorted({*self._built_in, *self._registered, *self._entries()}))

    def choices(self) -> tuple[str, ...]:
        """Return all names and short forms, sorted; see `shorten`."""
        return tuple(sorted({*self.names(), *(self._short[0] if self._short else ())}))

    def others(self) -> Mapping[str, T]:
        """Return the entries that other libraries offer, by name; imports the libraries."""
        return {name: thing for place in self._other_places.values() for name, thing in _imported(place)().items()}

    def name_of(self, thing: Any) -> str | None:
        """Return the name of an entry in recipes; None if it has none.

        Args:
            thing: class or function, or an instance of a class.
        """
        thing = thing if hasattr(thing, "__qualname__") else type(thing)
        home = _home(thing)
        for name, at in {**self._built_in, **{key: _home(value) for key, value in self._registered.items()}}.items():
            if at == home:
                return name
        named: str | None = getattr(thing, "__edakari_name__", None)
        return named

    def require(self, thing: Any, name: str) -> None:
        """Check that an entry has all members of its kind.

        Args:
            thing: class, function or instance.
            name: its name, for the error.

        Raises:
            EdakariError: the entry lacks a member.
        """
        missing = [member for member in self.members if not hasattr(thing, member)]
        if missing:
            raise EdakariError(f"{name!r} is not a valid {self.what}: it has no {missing[0]!r}")

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
        if name in self._registered:  # a decorator in the module has registered it
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
        """Return the entry points of installed packages by name."""
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
    """Place where a class or function is defined, as "package.module:attribute"; the type and `repr` of an instance."""
    if not hasattr(thing, "__qualname__"):
        return f"{type(thing).__module__}:{thing!r}"
    return f"{thing.__module__}:{thing.__qualname__}"


def _mark(thing: Any, name: str) -> None:
    """Record an entry's name in recipes on the entry itself."""
    try:
        thing.__edakari_name__ = name
    except (AttributeError, TypeError):
        return


def _package(entry: importlib.metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "unknown"
