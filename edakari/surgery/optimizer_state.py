"""States of optimizers, cut like the parameters that they belong to."""

from __future__ import annotations

import dataclasses as dc
import enum
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.optim import LBFGS, Optimizer
from torch.utils._pytree import tree_leaves

from edakari.errors import StateError
from edakari.surgery.counterparts import Counterpart

__all__ = ["Changes", "changes_of", "parts_of"]

PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, enum.Enum, np.generic),
    *(torch.dtype, torch.device, torch.Generator),
)
"""Types of values that do not depend on a parameter's shape."""
OWN = ("state", "param_groups", "defaults")
"""Attributes of an optimizer that are not searched for tensors."""
UNABLE = (RuntimeError, NotImplementedError, TypeError, IndexError)
"""Errors of tensors of other classes, such as quantised ones, that cannot be indexed."""
ListChange = tuple[list[Any], Sequence[Any]]
CutState = Callable[[Counterpart, torch.Tensor], torch.Tensor]


@dc.dataclass(frozen=True)
class Changes:
    """New content of an optimizer.

    Args:
        states: pairs of a dict of states and its new content.
        lists: pairs of a list, such as the parameters of a group, and its new content.
        flat: optimizers that remember how many weights they have.
    """

    states: Sequence[tuple[dict[Any, Any], Mapping[Any, Any]]]
    lists: Sequence[ListChange]
    flat: Sequence[LBFGS]

    def make(self) -> None:
        """Change the optimizer, in place."""
        for state, content in self.states:
            state.clear()
            state.update(content)
        for values, wanted in self.lists:
            values[:] = wanted
        for optimizer in self.flat:
            optimizer._numel_cache = None


def parts_of(optimizer: Optimizer) -> list[Optimizer]:
    """Return an optimizer and the optimizers inside it: wrappers, such as Lookahead, hold one."""
    found = [optimizer]
    for outer in found:
        for value in vars(outer).values():
            values = value if isinstance(value, list | tuple) else [value]
            found += [each for each in values if isinstance(each, Optimizer) and not any(each is o for o in found)]
    return found


def changes_of(optimizer: Optimizer, pairs: Mapping[int, Counterpart]) -> Changes:
    """Find the new content of an optimizer; nothing changes yet.

    Args:
        optimizer: the optimizer.
        pairs: parameters before and after the cut, by the id of the one before.

    Raises:
        StateError: a state cannot be cut exactly; the message names the parameter, the state's key, and what to do.
    """
    parts = parts_of(optimizer)
    states = {id(part.state): part.state for part in parts}
    groups = {id(group): group for part in parts for group in part.param_groups}
    lists = [pair for group in groups.values() for pair in _lists_of_group(group, pairs)]
    lists += [pair for part in parts for pair in _lists_elsewhere(part, pairs)]
    faults = [fault for part in parts for fault in _faults_of_part(part, pairs)]
    made: list[tuple[dict[Any, Any], Mapping[Any, Any]]] = []
    for state in states.values():
        cut = _StateCut(_kinds(state, pairs), faults)
        made.append((state, cut.content(state, pairs)))
    if faults:
        raise StateError(_advice(optimizer, faults))
    return Changes(made, lists, [part for part in parts if isinstance(part, LBFGS)])


def _lists_of_group(group: Mapping[str, Any], pairs: Mapping[int, Counterpart]) -> Iterator[ListChange]:
    """The lists of a group that have one entry for each parameter."""
    there = [id(each) not in pairs or pairs[id(each)].after is not None for each in group["params"]]
    yield group["params"], _followed(group["params"], pairs)
    names = group.get("param_names")
    if isinstance(names, list):
        yield names, [name for name, stays in zip(names, there, strict=True) if stays]


def _lists_elsewhere(part: Optimizer, pairs: Mapping[int, Counterpart]) -> Iterator[ListChange]:
    """Lists of parameters that an optimizer holds in attributes."""
    for name, value in vars(part).items():
        if name not in OWN and _lists_parameters(value, pairs):
            yield value, _followed(value, pairs)


def _followed(values: Sequence[Any], pairs: Mapping[int, Counterpart]) -> list[Any]:
    kept = [pairs[id(each)].after if id(each) in pairs else each for each in values]
    return [each for each in kept if each is not None]


def _faults_of_part(part: Optimizer, pairs: Mapping[int, Counterpart]) -> Iterator[str]:
    """What cannot be cut about an optimizer as a whole."""
    held = [pairs[id(each)] for group in part.param_groups for each in group["params"] if id(each) in pairs]
    changed = any(pair.changed for pair in held)
    if any(base.__name__ == "ZeroRedundancyOptimizer" for base in type(part).__mro__):
        yield "its state is divided among processes, and this one holds a part of it"
    if isinstance(part, LBFGS) and part.state and changed:
        yield "its history joins all parameters in one vector, and what was removed has shaped it"
    for name, value in vars(part).items():
        if name in OWN or _lists_parameters(value, pairs):
            continue
        tensors = [each for each in (*tree_leaves(value), *_keys(value)) if isinstance(each, torch.Tensor)]
        if any(id(each) in pairs or (changed and each.numel() > 1) for each in tensors):
            yield f"its attribute {name!r} holds tensors, and edakari cannot know what belongs to which parameter"


def _lists_parameters(value: Any, pairs: Mapping[int, Counterpart]) -> bool:
    return isinstance(value, list) and any(id(each) in pairs for each in value)


def _keys(value: Any) -> Sequence[Any]:
    return list(value) if isinstance(value, dict) else []


@dc.dataclass(frozen=True)
class _StateCut:
    """Cuts the states of parameters.

    Args:
        kinds: for each key, how tensors of several elements correspond to parameters.
        faults: what cannot be cut is added here.
    """

    kinds: Mapping[str, CutState | None]
    faults: list[str]

    def content(self, state: Mapping[Any, Any], pairs: Mapping[int, Counterpart]) -> dict[Any, Any]:
        """Return the new content of an optimizer's `state`."""
        made = {}
        for key, values in state.items():
            pair = pairs.get(id(key))
            if pair is None:
                made[key] = values
            elif pair.after is not None:
                made[pair.after] = self._value(pair, values, "")
        return made

    def _value(self, pair: Counterpart, value: Any, path: str) -> Any:
        if isinstance(value, dict):
            return _like(value, {key: self._value(pair, each, _joined(path, key)) for key, each in value.items()})
        if isinstance(value, list | tuple):
            return _like(value, [self._value(pair, each, f"{path}[{index}]") for index, each in enumerate(value)])
        if isinstance(value, PLAIN) or callable(value) or (isinstance(value, torch.Tensor) and value.numel() <= 1):
            return value
        cut = self.kinds.get(path)
        if isinstance(value, torch.Tensor) and cut is not None:
            try:
                return cut(pair, value)
            except UNABLE as error:
                if pair.changed:
                    self.faults.append(f"state {path!r} of parameter {pair.name!r}, a {type(value).__name__}: {error}")
                return value
        if pair.changed:
            shape = f" of shape {[*value.shape]}" if isinstance(value, torch.Tensor) else ""
            self.faults.append(
                f"state {path!r} of parameter {pair.name!r} is a {type(value).__name__}{shape}, where the parameter "
                f"has the shape {[*pair.before.shape]}: removed entries may have shaped it"
            )
        return value


def _joined(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _like(value: Any, content: Any) -> Any:
    """Return a container of the same class with other content."""
    if hasattr(value, "_fields"):
        return type(value)(*content)
    if not isinstance(value, dict):
        return type(value)(content)
    made = value.copy()  # of its own class: a defaultdict is not made of its content alone
    made.update(content)
    return made


def _kinds(state: Mapping[Any, Any], pairs: Mapping[int, Counterpart]) -> dict[str, CutState | None]:
    """Find how the tensors of each key correspond to parameters, judged by all parameters.

    One parameter would not do: a matrix over the rows of a square weight has the weight's shape by accident.
    """
    shapes: dict[str, list[tuple[torch.Size, torch.Size]]] = {}
    for key, values in state.items():
        if id(key) in pairs:
            for path, value in _tensors(values, ""):
                shapes.setdefault(path, []).append((value.shape, pairs[id(key)].before.shape))
    return {path: _kind(found) for path, found in shapes.items()}


def _kind(shapes: Sequence[tuple[Any, Any]]) -> CutState | None:
    if all(own == other for own, other in shapes):
        return Counterpart.cut
    if all(tuple(own) == (math.prod(other),) for own, other in shapes):
        return _cut_flat
    return None


def _cut_flat(pair: Counterpart, value: torch.Tensor) -> torch.Tensor:
    return pair.cut(value.view(pair.before.shape)).flatten()


def _tensors(value: Any, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of several elements in a state, with their keys."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _tensors(each, _joined(path, key))
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _tensors(each, f"{path}[{index}]")
    elif isinstance(value, torch.Tensor) and value.numel() > 1:
        yield path, value


def _advice(optimizer: Optimizer, faults: Sequence[str]) -> str:
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return (
        f"the state of {type(optimizer).__name__} cannot be cut exactly: {faults[0]}{more}. Nothing was changed. Train "
        "with an optimizer whose states have the shapes of their parameters (SGD, Adam, RMSprop, …); or clear this "
        "state before carry, by optimizer.state.pop(parameter) or optimizer.state.clear(): it then starts again, while "
        "groups, scheduler and averages continue."
    )
