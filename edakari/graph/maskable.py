"""Which weights of a network are masked by default, when single weights are pruned."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence

from edakari.core.graph import Graph, Operator
from edakari.errors import PlanError, nearest
from edakari.graph.operators import named

__all__ = ["maskable_weights", "output_weights", "weights_read"]

CONVOLUTIONS = frozenset(named("convolution"))
LINEAR = frozenset(named("linear_function", "linear", "matrix_product", "added_matrix_product", "batched_product"))
TRANSPOSED = frozenset(named("transposition"))
"""Operators between a stored weight and its product in code that does not call a layer."""


def maskable_weights(
    graph: Graph, excluded: Sequence[str] = (), *, linear: bool = False, outputs: bool = False
) -> tuple[str, ...]:
    """Find the weights that are masked when single weights are pruned, in the network's order.

    By default these are the weights of convolutions, except of layers that give the network's outputs (its final
    classifier). Norms, biases, embeddings and linear layers, such as those of Transformers, are left as they are.

    Args:
        graph: graph of the network.
        excluded: names of parameters or dotted paths of modules whose weights are not masked, perhaps with wildcards:
            "stem.conv1.weight", "stem", "blocks.*.attn".
        linear: whether weights of linear layers and of attention are masked too.
        outputs: whether layers that give the network's outputs are masked too.

    Raises:
        PlanError: a pattern of `excluded` matches no parameter; the message names the nearest.
    """
    left_out = {name for pattern in excluded for name in _matched(pattern, graph)}
    last = () if outputs else output_weights(graph)
    kinds = CONVOLUTIONS | LINEAR if linear else CONVOLUTIONS
    reads: dict[str, set[str]] = {}
    for index, operator in enumerate(graph.operators):
        for name in weights_read(graph, index):
            reads.setdefault(name, set()).add(operator.name)
        if not operator.macs and operator.name not in TRANSPOSED:  # such as an embedding of the same weight
            for name in operator.weights:
                reads.setdefault(name, set()).add(operator.name)
    return tuple(
        name
        for name in graph.parameters
        if reads.get(name) and reads[name] <= kinds and name not in left_out and name not in last
    )


def output_weights(graph: Graph) -> tuple[str, ...]:
    """Find the weights of layers that give the network's outputs, with nothing but operators without weights after."""
    called = [call for call in graph.calls if not call.module]
    waiting = [source for call in called for source in call.output_sources if source is not None]
    seen, found = set(waiting), list[str]()
    while waiting:
        index = waiting.pop()
        operator = graph.operators[index]
        found += weights_read(graph, index)
        if operator.macs or operator.weights:
            continue
        for source in operator.sources:
            if source is not None and source not in seen:
                seen.add(source)
                waiting.append(source)
    return tuple(dict.fromkeys(found))


def weights_read(graph: Graph, index: int) -> Iterator[str]:
    """Yield the matrices and kernels that a convolution, linear layer or product multiplies its input with."""
    operator = graph.operators[index]
    if not operator.macs or operator.name not in CONVOLUTIONS | LINEAR:
        return
    parts: list[Operator] = [operator]
    for source in operator.sources:
        if source is not None and graph.operators[source].name in TRANSPOSED and not graph.operators[source].sources:
            parts.append(graph.operators[source])
    for name in dict.fromkeys(name for part in parts for name in part.weights):
        if name in graph.layouts and len(graph.layouts[name]) >= 2 and name in graph.parameters:
            yield name


def _matched(pattern: str, graph: Graph) -> list[str]:
    found = [name for name in graph.parameters if _matches(name, pattern)]
    if not found:
        paths = {name: None for each in graph.parameters for name in (each, each.rpartition(".")[0])}
        close = nearest(pattern, paths)
        hint = f"; did you mean {close!r}?" if close else ""
        raise PlanError(f"excluded: no parameter and no module with parameters matches {pattern!r}{hint}")
    return found


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern matches a parameter's name or the path of a module that contains it."""
    parts = name.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[:count]), pattern) for count in range(1, len(parts) + 1))
