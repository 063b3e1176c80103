"""Upper bounds on what a budget is worth where layers depend on several groups; exact solutions of small networks.

Used by benchmarks/solvers.py. All of it reads the polynomials of counted costs; the package's own solvers do not.
"""

from __future__ import annotations

import collections
import dataclasses as dc
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ortools.sat.python import cp_model
from scipy.optimize import linprog

from edakari.core.budget import Limits
from edakari.core.layout import Axis, Concat, Fixed, Layout, Product
from edakari.core.space import Group, dense_sizes, legal_sizes

CELLS = 3e7
"""Most entries of a table in the elimination of variables."""
CUTS = 60
Monomials = dict[tuple[str, ...], float]


@dc.dataclass(frozen=True)
class Instance:
    """Groups with values, and the limits on their costs; `name` says the network, the step and the budget."""

    name: str
    groups: tuple[Group, ...]
    values: Mapping[str, np.ndarray]
    limits: Limits

    def worth(self, sizes: Mapping[str, int]) -> float:
        return float(sum(self.values[group.name][sizes[group.name]] for group in self.groups))


def polynomial(cost: Any, share: float) -> Monomials:
    """A counted cost times a factor, as a polynomial in the groups' sizes; axes of one position stay whole."""
    total: Monomials = collections.Counter()
    for constant, layouts in cost.terms:
        for names, factor in functools.reduce(_times, map(_extent, layouts), {(): constant * share}).items():
            total[names] += factor
    return total


def _extent(layout: Layout) -> Monomials:
    match layout:
        case Fixed(size) | Axis(_, 1 as size):
            return {(): size}
        case Axis(group):
            return {(group,): 1}
        case Product(parts):
            return functools.reduce(_times, map(_extent, parts), {(): 1})
        case Concat(parts):
            total: Monomials = collections.Counter()
            for part in parts:
                for names, factor in _extent(part).items():
                    total[names] += factor
            return total


def _times(left: Monomials, right: Monomials) -> Monomials:
    product: Monomials = collections.Counter()
    for names, factor in left.items():
        for others, other in right.items():
            product[tuple(sorted(names + others))] += factor * other
    return product


def dual_bound(instance: Instance) -> float | None:
    """The least of the Lagrangian bounds that cutting planes find; None where elimination is beyond its tables."""
    terms = [polynomial(cost, 1 / limit) for cost, limit in instance.limits.terms]
    width = {group.name: len(legal_sizes(group)) for group in instance.groups}
    scopes = {tuple(dict.fromkeys(names)) for term in terms for names in term}
    if sum(math.prod(width[name] for name in scope) for scope in scopes) > 10 * CELLS:
        return None
    corners = (dense_sizes(instance.groups), {group.name: legal_sizes(group)[0] for group in instance.groups})
    cuts = [(instance.worth(sizes), _loads(instance, sizes)) for sizes in corners]
    ceiling, least = 100 * cuts[0][0], math.inf
    for _ in range(CUTS):
        plane = linprog(
            np.ones(len(terms) + 1),
            A_ub=[np.concatenate([[-1.0], -loads]) for _, loads in cuts],
            b_ub=[-worth for worth, _ in cuts],
            bounds=[(None, None), *[(0, ceiling)] * len(terms)],
        )
        sizes = best_at(instance, terms, plane.x[1:])
        if sizes is None:
            return None
        worth, loads = instance.worth(sizes), _loads(instance, sizes)
        least = min(least, worth - float(plane.x[1:] @ (loads - 1)))
        if least - plane.fun <= 1e-7 * abs(least):
            break
        cuts.append((worth, loads))
    return least


def _loads(instance: Instance, sizes: Mapping[str, int]) -> np.ndarray:
    return np.array([cost.total(sizes) / limit for cost, limit in instance.limits.terms])


def best_at(instance: Instance, terms: Sequence[Monomials], prices: np.ndarray) -> dict[str, int] | None:
    """The sizes of most value less priced costs, exactly, by elimination of one variable after the other."""
    legal = {group.name: np.array(legal_sizes(group)) for group in instance.groups}
    tables = {(name,): instance.values[name][sizes] for name, sizes in legal.items()}
    for term, price in zip(terms, prices, strict=True):
        for names, factor in term.items():
            scope = tuple(dict.fromkeys(names))
            if scope:
                grids = np.ix_(*(legal[name].astype(float) for name in scope))
                powers = [grid ** names.count(name) for name, grid in zip(scope, grids, strict=True)]
                tables[scope] = tables.get(scope, 0.0) - price * factor * functools.reduce(np.multiply, powers)
    trail = []
    open_names = set(legal)
    while open_names:
        scopes = {name: _scope(name, tables) for name in open_names}
        name = min(open_names, key=lambda each: (math.prod(len(legal[other]) for other in scopes[each]), each))
        rest = [other for other in scopes[name] if other != name]
        if math.prod(len(legal[other]) for other in scopes[name]) > CELLS:
            return None
        joined = sum(_spread(table, scope, [name, *rest]) for scope, table in tables.items() if name in scope)
        joined = np.broadcast_to(joined, [len(legal[other]) for other in (name, *rest)])
        tables = {scope: table for scope, table in tables.items() if name not in scope}
        tables[tuple(rest)] = tables.get(tuple(rest), 0.0) + joined.max(axis=0)
        trail.append((name, rest, joined.argmax(axis=0)))
        open_names.remove(name)
    indices: dict[str, int] = {}
    for name, rest, best in reversed(trail):
        indices[name] = int(best[tuple(indices[other] for other in rest)])
    return {name: int(legal[name][index]) for name, index in indices.items()}


def _scope(name: str, tables: Mapping[tuple[str, ...], np.ndarray]) -> list[str]:
    return sorted({other for scope in tables if name in scope for other in scope})


def _spread(table: np.ndarray, scope: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """A table with its axes in the order of more names, for broadcasting."""
    order = sorted(range(len(scope)), key=lambda axis: names.index(scope[axis]))
    shape = [table.shape[scope.index(name)] if name in scope else 1 for name in names]
    return np.transpose(table, order).reshape(shape)


def cp_sat_coupled(instance: Instance, limit: float, seed: int) -> tuple[dict[str, int] | None, float]:
    """Sizes and an upper bound by CP-SAT: sizes are integer variables, monomials their products."""
    model = cp_model.CpModel()
    scale = 2**40 / sum(float(instance.values[group.name][-1]) for group in instance.groups)
    sizes: dict[str, cp_model.IntVar] = {}
    worths = []
    for group in instance.groups:
        legal = legal_sizes(group)
        sizes[group.name] = model.new_int_var_from_domain(cp_model.Domain.from_values(legal), group.name)
        table = np.ceil(instance.values[group.name][list(legal)] * scale).astype(np.int64)
        picked = [model.new_bool_var("") for _ in legal]
        model.add_exactly_one(picked)
        model.add(cp_model.LinearExpr.weighted_sum(picked, legal) == sizes[group.name])
        worths.append(cp_model.LinearExpr.weighted_sum(picked, table.tolist()))
    products: dict[tuple[str, ...], cp_model.IntVar] = {}
    whole = dense_sizes(instance.groups)
    for cost, most in instance.limits.terms:
        total = []
        for names, factor in polynomial(cost, 1).items():
            if len(names) > 1 and names not in products:
                products[names] = model.new_int_var(0, math.prod(whole[name] for name in names), "")
                model.add_multiplication_equality(products[names], [sizes[name] for name in names])
            total.append(int(factor) * (products[names] if len(names) > 1 else sizes[names[0]] if names else 1))
        model.add(sum(total) <= math.floor(most))
    model.maximize(sum(worths))
    solver, found = solved(model, limit, seed)
    if not found:
        return None, math.inf
    return {name: solver.value(size) for name, size in sizes.items()}, solver.best_objective_bound / scale


def solved(model: cp_model.CpModel, limit: float, seed: int) -> tuple[cp_model.CpSolver, bool]:
    """Run CP-SAT on one thread; whether it found a solution."""
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = limit
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    return solver, solver.solve(model) in (cp_model.OPTIMAL, cp_model.FEASIBLE)
