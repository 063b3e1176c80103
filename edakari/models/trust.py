"""Consent to run code that a file names: run folders, plans and recipes may come from somebody else.

A user who writes a name such as `nets.py:make` in a program or on the command line asks to run that file. A name in a
run folder, plan or recipe may come from another author. Its code runs only if the user agrees.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edakari.core.user_code import names_file, parted_file
from edakari.errors import UntrustedCode
from edakari.models.zoo import SOURCES, ModelSpec, parted

__all__ = ["check_code", "check_command", "check_trusted", "code_in", "remember", "remember_command", "trusted_before"]

FILE = "trusted_code.txt"
"""File in the user's configuration folder with a digest of each trusted Python file and function."""
ALLOW = (
    "If you trust it, allow it: `--trust` on the command line, `trust_code=True` in Python. See "
    "docs/explanation/trust.md."
)
UNPICKLED = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")
"""Options of timm's constructors that name files or URLs of weights; some versions of timm unpickle them."""


def check_trusted(spec: ModelSpec, where: str | Path, *, trust_code: bool) -> None:
    """Raise an error if building a network that a file names would run code without the user's consent.

    Args:
        spec: description of the network in the file.
        where: path of the file, for the message.
        trust_code: whether the user agrees to run the code that the file names.

    Raises:
        UntrustedCode: the user has not agreed; the message says what would run and how to allow it.
    """
    if trust_code:
        return
    path, function = parted(spec.name)
    if path.endswith(".py") and not trusted_before(spec.name):
        raise UntrustedCode(
            f"{where} names Python code that builds its network: the function {function!r} of {path}. Nothing was run; "
            f"read {Path(path).absolute()} first, because it can do everything that you can. {ALLOW}"
        )
    named = [option for option in UNPICKLED if path in SOURCES and spec.options.get(option)]
    if named:
        raise UntrustedCode(
            f"{where} gives {spec.name} the option {named[0]!r} ({spec.options[named[0]]!r}), and weights read in this "
            f"way may run code. Set model.weights to a .safetensors file instead. {ALLOW}"
        )


def check_code(name: str, what: str, where: str | Path, *, trust_code: bool) -> None:
    """Raise an error for a name from a file if it means Python code that the user has not agreed to run.

    Args:
        name: "path/to/file.py:name"; other names need no trust.
        what: kind of the code, such as "criterion".
        where: path of the file that contains the name, for the message.
        trust_code: whether the user agrees to run the code that the file names.

    Raises:
        UntrustedCode: the user has not agreed; the message says what would run and how to allow it.
    """
    if trust_code or not names_file(name) or trusted_before(name):
        return
    path, function = parted_file(name)
    raise UntrustedCode(
        f"{where} names Python code for its {what}: {function!r} of {path}. Nothing was run; read "
        f"{Path(path).absolute()} first, because it can do everything that you can. {ALLOW}"
    )


def check_command(text: str, what: str, where: str | Path, *, trust_code: bool) -> None:
    """Raise an error for a command line or library from a file that the user has not agreed to run.

    Args:
        text: the command line, or the path of the library.
        what: kind of the text, such as "command".
        where: path of the file that contains it, for the message.
        trust_code: whether the user agrees to run what the file names.

    Raises:
        UntrustedCode: the user has not agreed; the message says what would run and how to allow it.
    """
    if not trust_code and not _written(_command_digest(text)):
        raise UntrustedCode(
            f"{where} names a {what}: {text!r}. Nothing was run; it can do everything that you can. {ALLOW}"
        )


def code_in(content: Any) -> Iterator[str]:
    """Every name of Python code in plain values, such as a recipe's.

    Args:
        content: texts, also budgets with such names, in mappings and lists.
    """
    if isinstance(content, Mapping):
        content = list(content.values())
    if isinstance(content, list | tuple):
        for each in content:
            yield from code_in(each)
    elif isinstance(content, str):
        yield from (part.strip() for part in re.split("[,<]", content) if names_file(part.strip()))


def trusted_before(name: str) -> bool:
    """Return whether the user has run this function with `--trust`, and its file has not changed since then.

    Args:
        name: "path/to/file.py:function".
    """
    return _written(_digest(name))


def _written(digest: str | None) -> bool:
    """Whether a digest is in the user's file of trusted code."""
    file = _remembered()
    if digest is None or file is None:
        return False
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return any(line.split(maxsplit=1)[:1] == [digest] for line in file.read_text(encoding="utf-8").splitlines())
    return False


def remember(name: str) -> None:
    """Trust a function of a file until the file changes; no effect if the configuration folder is read-only.

    Args:
        name: "path/to/file.py:function"; other names need no trust.
    """
    _write(_digest(name), str(Path(name.rpartition(":")[0]).resolve()))


def remember_command(text: str) -> None:
    """Trust a command line or library from now on; see `remember`.

    Args:
        text: the command line, or the path of the library.
    """
    _write(_command_digest(text), " ".join(text.split()))


def _write(digest: str | None, about: str) -> None:
    file = _remembered()
    if digest is None or file is None or _written(digest):
        return
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(f"{digest}  {about}\n")


def _command_digest(text: str) -> str:
    return hashlib.sha256(b"command\0" + text.encode()).hexdigest()


def _digest(name: str) -> str | None:
    """SHA-256 of a file's path, the function's name and the file's content; None if there is no file."""
    source, function = parted(name)
    path = Path(source)
    if not source.endswith(".py"):
        return None
    try:
        if not path.is_file():
            return None
        content = path.read_bytes()
    except OSError:
        return None
    return hashlib.sha256(b"\0".join((str(path.resolve()).encode(), function.encode(), content))).hexdigest()


def _remembered() -> Path | None:
    """Path of the file of trusted code; None if there is no home folder."""
    if named := os.environ.get("EDAKARI_CONFIG"):
        return Path(named) / FILE
    try:
        return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "edakari" / FILE
    except RuntimeError:
        return None
