"""Safe reading of YAML that may be damaged or malicious: always fast, and with a clear error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from edakari.core.optional import needs
from edakari.core.reading import DEPTH, DIGITS, Unreadable, too_deep

with needs("train", "reading a recipe"):
    import yaml

__all__ = ["YAML_BYTES", "parse_yaml"]

YAML_BYTES = 64 * 2**10
"""Recipes have some kilobytes; PyYAML reads some 100 kilobytes a second."""
NODES = 20_000
"""Values of a YAML file once its aliases are written out: ten lines of aliases of aliases would be billions."""


def parse_yaml(text: str) -> tuple[Any, yaml.Node | None]:
    """Parse a YAML text to its value and its tree of nodes, which has line numbers.

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
        raise too_deep() from None
    except Exception as error:
        # such as KeyError for `!!bool maybe`, ValueError for a date of the 99th month
        raise Unreadable(f"a value in it does not fit its type ({type(error).__name__}: {error})") from error
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """Stops early at deep nesting: the time grows with the square of the depth."""

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level > DEPTH:
            raise too_deep()
        super().fetch_flow_collection_start(token)


# as in YAML 1.2: 1e-3 is a number, which YAML 1.1 takes for a text
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _check_tree(root: yaml.Node) -> None:
    """Count the nodes of the tree with aliases expanded; visits each node once, so nested aliases take no time."""
    sizes: dict[int, tuple[int, int]] = {}
    for node, open_nodes in _after_children(root):
        below = [sizes[id(child)] for child in _children(node)]
        size, depth = 1 + sum(each[0] for each in below), 1 + max((each[1] for each in below), default=0)
        if size > NODES:
            raise Unreadable(f"line {node.start_mark.line + 1}: its aliases stand for more than {NODES:,} values")
        if depth > DEPTH or open_nodes > DEPTH:
            raise too_deep()
        if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":int") and len(node.value) > DIGITS:
            raise Unreadable(f"line {node.start_mark.line + 1}: it has a number of {len(node.value)} digits")
        sizes[id(node)] = (size, depth)


def _after_children(root: yaml.Node) -> Iterator[tuple[yaml.Node, int]]:
    """Yield every node once, after its children, with its depth."""
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
