"""Python files of a user's own, named as `path/to/file.py:name`; to run one is to trust it.

Whoever calls these functions has been told by a user, or by a program, to run the file; what only stands in a file that
may be somebody else's goes through `edakari.models.trust` first.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from edakari.errors import EdakariError, UnknownName

__all__ = ["attribute", "cause", "made_by", "names_file", "own_line", "parted_file", "run_file", "used_file"]

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder of edakari's own code."""


def names_file(name: str) -> bool:
    """Return whether a name has the form `path/to/file.py:name`."""
    path, _ = parted_file(name)
    return path.endswith(".py")


def parted_file(name: str) -> tuple[str, str]:
    """Split a name into path and attribute; a path may contain colons."""
    path, _, attribute_ = name.rpartition(":")
    return path, attribute_


def run_file(path: Path, what: str, kind: type[EdakariError] = EdakariError) -> ModuleType:
    """Run a Python file as a new module.

    Args:
        path: path of the file.
        what: user of the file, as the subject of an error, such as "model 'nets.py:make'".
        kind: type of the error to raise.

    Raises:
        EdakariError: of the kind given: there is no such file, it is no Python file, or running it fails.
    """
    if not path.is_file():
        raise kind(f"{what}: there is no file {str(path)!r}")
    found = importlib.util.spec_from_file_location(_module_name(path), path)
    if found is None or found.loader is None:
        raise kind(f"{what}: {str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(found)
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module  # dataclasses and type hints look up the module of a class there
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        _put_back(module.__name__, before)
        raise kind(f"{what}: running the file fails: {cause(error)}") from error
    return module


def used_file(path: Path, what: str, kind: type[EdakariError] = EdakariError) -> ModuleType:
    """Return the module of a file that was run before and has not changed, so that its classes stay identical.

    Args:
        path: see `run_file`.
        what: see `run_file`.
        kind: see `run_file`.

    Raises:
        EdakariError: see `run_file`.
    """
    ran = sys.modules.get(_module_name(path)) if path.is_file() else None
    return ran if ran is not None else run_file(path, what, kind)


def attribute(module: ModuleType, path: Path, name: str, what: str) -> Any:
    """Look up a class or function in a user's file.

    Args:
        module: module of the file.
        path: path of the file, for the error.
        name: name to look up.
        what: kind of object, for the error, such as "function".

    Raises:
        UnknownName: the file has no such name; the message suggests the nearest.
    """
    found = getattr(module, name, None)
    if not callable(found):
        offered = [key for key, value in vars(module).items() if inspect.isfunction(value) or inspect.isclass(value)]
        raise UnknownName(f"{what} in {path}", name, offered)
    return found


def made_by(name: str, where: str, what: str, kind: type[EdakariError]) -> Any:
    """Call a function or class of a user's file without arguments, and return what it gives.

    Args:
        name: "path/to/file.py:NAME".
        where: what names it, as the subject of a sentence.
        what: kind of object that it gives, for the error, such as "data set".
        kind: class of the error.

    Raises:
        EdakariError: the file cannot be run, has no such name, or the call fails. It is of class `kind`, unless the
            user's code raised an error of edakari.
    """
    path, short = parted_file(name)
    make = attribute(used_file(Path(path), where, kind), Path(path), short, what)
    try:
        return make()
    except EdakariError:
        raise
    except (Exception, SystemExit) as error:
        raise kind(f"{where}: calling it without arguments fails: {cause(error)}") from error


def cause(error: BaseException) -> str:
    """An error of a user's own code, with its line; `sys.exit` must not end the program as if all had gone well."""
    if isinstance(error, SystemExit):
        return f"it ends the program (sys.exit({error.code!r})); a file that is imported must not do so"
    frame = own_line(error)
    place = f" ({frame.filename}:{frame.lineno}, in {frame.name})" if frame else ""
    return f"{type(error).__name__}: {str(error).strip().rstrip('.')}{place}"


def own_line(error: BaseException) -> traceback.FrameSummary | None:
    """Find the last line of a user's own code, not of a library, that an error went through; None without one."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame for frame in reversed(frames) if _is_own(Path(frame.filename))), None)


def _is_own(file: Path) -> bool:
    installed = ("site-packages", f"python{sys.version_info.major}.{sys.version_info.minor}")
    library = PACKAGE in file.parents or any(name in file.parts for name in installed)
    return not library and file.suffix == ".py"


def _module_name(path: Path) -> str:
    """A name that belongs to this file with this content."""
    digest = hashlib.sha256(str(path.resolve()).encode() + b"\0" + path.read_bytes()).hexdigest()[:12]
    return f"edakari_user_{path.stem}_{digest}"


def _put_back(name: str, module: ModuleType | None) -> None:
    if module is None:
        sys.modules.pop(name, None)
    else:
        sys.modules[name] = module
