"""Reads a YAML file and the line of each key in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edakari.core.arguments import require
from edakari.core.files import write_text
from edakari.core.optional import needs
from edakari.core.reading import Unreadable, because, inside, read_text
from edakari.core.reading_yaml import YAML_BYTES, parse_yaml
from edakari.errors import RecipeError, RunFolderError

with needs("train", "running a recipe"):
    import yaml

__all__ = ["override", "read_stored", "read_yaml", "replaced", "write_yaml"]


def read_yaml(path: str | Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Read the content of a YAML file, and the line of each dotted key.

    Raises:
        RecipeError: the file does not exist, is not YAML, is no mapping, or has a key twice.
    """
    require("read_recipe(path)", path=(path, (str, Path)))
    try:
        content, node = parse_yaml(read_text(path, YAML_BYTES))
    except (OSError, Unreadable) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RecipeError(f"recipe {path}: cannot be read: {reason}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise RecipeError(f"{where}: not YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys such as 'model' and 'budget', but found {content!r}")
    lines: dict[str, int] = {}
    for key, line in _keys(node, ""):
        if key in lines:
            raise RecipeError(f"{path}:{line}: {key} appears again; it is first in line {lines[key]}. Keep one of them")
        lines[key] = line
    return content, lines


def read_stored(path: Path) -> dict[str, Any]:
    """The recipe that was written into a folder.

    Raises:
        RunFolderError: there is none, or it is damaged.
    """
    try:
        content, _ = parse_yaml(read_text(inside(path.parent, path.name), YAML_BYTES))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunFolderError(f"{path} cannot be read: {because(error)}. Is {path.parent} a run folder?") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} is not a recipe; was it edited?")
    return content


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain values as a YAML file, in their order."""
    write_text(path, yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True))


def override(content: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Return the same content with some values replaced.

    Args:
        content: nested mappings.
        settings: values in the form `dotted.key=value`; the value is read as YAML.

    Raises:
        RecipeError: a text does not have that form, or the key leads through a value that is no mapping.
    """
    changed: dict[str, Any] = _copy(content)
    for setting in settings:
        key, sign, text = setting.partition("=")
        parts = key.strip().split(".")
        if not sign or not all(parts):
            raise RecipeError(f"--set {setting!r}: write it as key=value, such as 'finetune.epochs=2'")
        try:
            value, _ = parse_yaml(text)
        except (yaml.YAMLError, Unreadable) as error:
            raise RecipeError(f"--set {setting!r}: the value is not YAML: {error}") from error
        changed = replaced(changed, ".".join(parts), value, f"--set {setting!r}")
    return changed


def replaced(content: Mapping[str, Any], key: str, value: Any, where: str) -> dict[str, Any]:
    """Return the same content with one value replaced.

    Args:
        content: nested mappings.
        key: dotted key of the value.
        value: its new value.
        where: what asks for it, for errors.

    Raises:
        RecipeError: the key leads through a value that is no mapping.
    """
    changed: dict[str, Any] = _copy(content)
    here, parts = changed, key.split(".")
    for depth, part in enumerate(parts[:-1], start=1):
        below = here.get(part)
        if isinstance(below, str) and parts[0] in ("model", "method"):  # a plain name stands for its section
            below = {"name": below}
        elif below is None:
            below = {}
        if not isinstance(below, dict):
            raise RecipeError(f"{where}: {'.'.join(parts[:depth])} is {below!r}, which has no keys below it")
        here[part] = below
        here = below
    here[parts[-1]] = value
    return changed


def _copy(value: Any) -> Any:
    return {key: _copy(below) for key, below in value.items()} if isinstance(value, Mapping) else value


def _keys(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = f"{prefix}.{key.value}" if prefix else str(key.value)
            yield path, key.start_mark.line + 1
            yield from _keys(value, path)
