"""The table of operator rules; one function per operator (or family of operators that act alike)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from edakari.graph.axis_tracer import Rule

__all__ = ["FUNCTIONS", "RULES", "function_rule", "rule"]

RULES: dict[str, Rule] = {}
"""Operator name, such as "aten.convolution", to its rule. "pointwise" serves every operator that torch tags so."""

FUNCTIONS: dict[Callable[..., Any], tuple[str, Rule]] = {}
"""Torch functions that are traced as a whole, with their name and rule."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Decorator that makes a function the rule of operators; a later one replaces an earlier one.

    Args:
        names: operator names without their overload, such as "aten.relu".
    """

    def add(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return add


def function_rule(name: str, functions: Iterable[Callable[..., Any]]) -> Callable[[Rule], Rule]:
    """Decorator that makes a function the rule of torch functions, which are then not traced by their operators."""

    def add(rule: Rule) -> Rule:
        for function in functions:
            FUNCTIONS[function] = (name, rule)
        return rule

    return add
