"""The table of operator rules; one function per operator (or family of operators that act alike)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from edakari.graph.axis_tracer import Rule

__all__ = ["FUNCTIONS", "RULES", "function_rule", "rule"]

RULES: dict[str, Rule] = {}
"""Rule of each operator by name, such as "aten.convolution". "pointwise" serves all operators that torch tags so."""

FUNCTIONS: dict[Callable[..., Any], tuple[str, Rule]] = {}
"""Torch functions that are traced as a whole, with their names and rules."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Decorator that makes a function the rule of operators; a later rule replaces an earlier one.

    Args:
        names: operator names without their overload, such as "aten.relu".
    """

    def add(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return add


def function_rule(name: str, functions: Iterable[Callable[..., Any]]) -> Callable[[Rule], Rule]:
    """Decorator that makes a function the rule of torch functions, which are then not traced operator by operator."""

    def add(rule: Rule) -> Rule:
        for function in functions:
            FUNCTIONS[function] = (name, rule)
        return rule

    return add
