"""Reading files that may be damaged, or made to do harm: whatever they hold, it ends soon and in words."""

from __future__ import annotations

import collections
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from edakari.errors import EdakariError

__all__ = [
    "Unreadable",
    "because",
    "inside",
    "parse_json",
    "parse_yaml",
    "read_bytes",
    "read_json",
    "read_text",
    "require_regular",
]

JSON_BYTES = 16 * 2**20
"""A plan names the channels it keeps, each in some six bytes, so millions fit; parsing it takes about a second."""
BRACKETS = 1_000_000
"""Lists and mappings of a JSON file: empty ones take three bytes of the file and sixty of memory."""
YAML_BYTES = 64 * 2**10
"""Recipes have some kilobytes; PyYAML reads some 100 kilobytes a second."""
DEPTH = 64
"""Brackets within brackets: files of ours have fewer than ten, and code that walks them calls itself as deep."""
NODES = 20_000
"""Values of a YAML file once its aliases are written out: ten lines of aliases of aliases would be billions."""
DIGITS = 100
"""Of an integer: states of random generators have 39."""
KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


class Unreadable(EdakariError, ValueError):
    """The content of a file cannot be used; says why, but not where it lies, which callers add."""


def because(error: Exception) -> str:
    """Why the content of a file cannot be used, for the messages of those who know where it lies.

    Args:
        error: of reading it, or of looking for what should be in it.
    """
    if isinstance(error, Unreadable):
        return str(error)
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    if isinstance(error, KeyError):
        return f"it has no key {error}"
    return f"{type(error).__name__}: {error}"


def read_bytes(path: str | Path, most: int = JSON_BYTES) -> bytes:
    """The content of a file.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        OSError: there is none, or it may not be read.
        Unreadable: it is no regular file (reading a pipe would wait for ever), or too large.
    """
    require_regular(path)
    with Path(path).open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise Unreadable(f"it has more than {most // 2**10:,} kB, which no such file needs")
    return content


def require_regular(path: str | Path) -> None:
    """Refuse what is no file but a pipe, a device, a socket or a folder.

    Raises:
        OSError: there is nothing.
        Unreadable: says what it is.
    """
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind != stat.S_IFREG:
        raise Unreadable(f"it is {KINDS.get(kind, 'something else')}, not a file")


def read_text(path: str | Path, most: int = JSON_BYTES) -> str:
    """The content of a text file; see `read_bytes`.

    Raises:
        Unreadable: it is not UTF-8 either.
    """
    try:
        return read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable("it is not UTF-8 text") from error


def read_json(path: str | Path, most: int = JSON_BYTES) -> Any:
    """The value in a JSON file; see `read_bytes` and `parse_json`."""
    return parse_json(read_text(path, most))


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        Unreadable: it is no JSON, has a key twice or an absurd number, or is nested too deep.
    """
    if text.count("[") + text.count("{") > BRACKETS:
        raise Unreadable(f"it has more than {BRACKETS:,} lists and mappings, which no such file needs")
    try:
        value = json.loads(text, parse_int=_integer, object_pairs_hook=_mapping)
    except RecursionError:
        raise _too_deep() from None
    except Unreadable:
        raise
    except ValueError as error:
        raise Unreadable(f"it is no JSON: {error}") from error
    layer: list[Any] = [value]
    for _ in range(DEPTH + 1):
        layer = [below for each in layer for below in _below(each) if isinstance(below, dict | list)]
        if not layer:
            return value
    raise _too_deep()


def parse_yaml(text: str) -> tuple[Any, yaml.Node | None]:
    """The value of a YAML text, and the tree of nodes, which knows the lines.

    Raises:
        Unreadable: it is nested too deep, its aliases refer to themselves or stand for too much, or a value does not
            fit its tag.
        yaml.YAMLError: it is no YAML; has the line.
    """
    if len(text) > YAML_BYTES:
        raise Unreadable(f"it has more than {YAML_BYTES // 2**10} kB, which no recipe needs")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, None
        _check_tree(node)
        return loader.construct_document(node), node
    except (yaml.YAMLError, Unreadable):
        raise
    except RecursionError:
        raise _too_deep() from None
    except Exception as error:
        # such as KeyError for `!!bool maybe`, ValueError for a date of the 99th month
        raise Unreadable(f"a value in it does not fit its type ({type(error).__name__}: {error})") from error
    finally:
        loader.dispose()


def inside(folder: str | Path, path: str | Path) -> Path:
    """A path that lies in a folder, whatever links and `..` it goes through.

    Args:
        folder: the folder.
        path: in it, or relative to it.

    Raises:
        Unreadable: it leads out of the folder.
    """
    whole = Path(folder) / path
    try:
        leads = whole.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise Unreadable(f"{str(path)!r} leads nowhere: {error}") from error
    if not leads.is_relative_to(Path(folder).resolve()):
        raise Unreadable(f"{str(path)!r} leads out of the folder, to {leads}")
    return whole


class _Loader(yaml.SafeLoader):
    """Ends early in what is nested too deep: its time grows with the square of the depth."""

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level > DEPTH:
            raise _too_deep()
        super().fetch_flow_collection_start(token)


# as in YAML 1.2: 1e-3 is a number, which YAML 1.1 takes for a text
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _check_tree(root: yaml.Node) -> None:
    """Count what a walk through the tree meets, each node once, so that aliases of aliases take no time."""
    sizes: dict[int, tuple[int, int]] = {}
    for node, open_nodes in _after_children(root):
        below = [sizes[id(child)] for child in _children(node)]
        size, depth = 1 + sum(each[0] for each in below), 1 + max((each[1] for each in below), default=0)
        if size > NODES:
            raise Unreadable(f"line {node.start_mark.line + 1}: its aliases stand for more than {NODES:,} values")
        if depth > DEPTH or open_nodes > DEPTH:
            raise _too_deep()
        if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":int") and len(node.value) > DIGITS:
            raise Unreadable(f"line {node.start_mark.line + 1}: it has a number of {len(node.value)} digits")
        sizes[id(node)] = (size, depth)


def _after_children(root: yaml.Node) -> Iterator[tuple[yaml.Node, int]]:
    """Every node once, after those below it, and how many nodes it lies within."""
    stack, within, done = [(root, iter(_children(root)))], {id(root)}, set()
    while stack:
        node, rest = stack[-1]
        child = next(rest, None)
        if child is None:
            stack.pop()
            within.discard(id(node))
            done.add(id(node))
            yield node, len(stack)
        elif id(child) in within:
            raise Unreadable(f"line {child.start_mark.line + 1}: an alias in it refers to itself")
        elif id(child) not in done:
            within.add(id(child))
            stack.append((child, iter(_children(child))))


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _below(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise Unreadable(f"it has a number of {len(text)} digits")
    return int(text)


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = collections.Counter(key for key, _ in pairs)
        twice = counts.most_common(1)[0][0]
        raise Unreadable(f"the key {twice!r} stands twice in one mapping")
    return found


def _too_deep() -> Unreadable:
    return Unreadable(f"it is nested more than {DEPTH} deep, which no such file needs")
