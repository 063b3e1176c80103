"""The allocator Knapsack and its separable solver against HiGHS and OR-Tools CP-SAT.

    OMP_NUM_THREADS=1 python benchmarks/solvers.py --output benchmarks/results/solvers.json
    OMP_NUM_THREADS=1 python benchmarks/solvers.py resnet50 synthetic --output benchmarks/results/solvers.json

The second form runs some networks only and leaves the others' results in the file, if they are from the same processor
and the same versions; else it refuses.

Networks are real, scores are random: in every group log-normal with a level and a spread of its own.

*Separable* instances are the cost curves of all groups around sizes of 70 %: multiple-choice knapsacks that HiGHS
(mixed integer programme) and CP-SAT (one Boolean per choice) solve too; their linear relaxation is a bound.

*Coupled* instances are the networks' true costs, in which layers depend on two groups and more. CP-SAT gets them as
they are, with products of integer variables, where that is small enough. The optimum is also bounded from above: at
prices on the costs, the best sizes are found exactly by variable elimination, and the prices are moved by cutting
planes. DenseNet's groups are too entangled for it.

Every gap is the share by which a solution's value is below the least upper bound known: never of our own solver. Times
are CPU seconds of this process, on one thread; the limit is wall time.
"""

from __future__ import annotations

import argparse
import dataclasses as dc
import functools
import importlib.metadata
import json
import math
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from bounds import Instance, cp_sat_coupled, dual_bound, solved
from core import processor
from ortools.sat.python import cp_model
from records import write_record
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_matrix

import edakari
from edakari.core.budget import Budget, Limits
from edakari.core.graph import Graph
from edakari.core.layout import Axis
from edakari.core.space import Group, legal_sizes, limited
from edakari.cost import Count, bind
from edakari.solve import Knapsack, Threshold, Uniform, solve_choices

NETWORKS: dict[str, tuple[Callable[[], torch.nn.Module], int]] = {
    "resnet50": (lambda: torchvision.models.resnet50(), 224),
    "densenet121": (lambda: torchvision.models.densenet121(), 224),
    "mobilenetv2": (lambda: torchvision.models.mobilenet_v2(), 224),
    "vit_small": (lambda: timm.create_model("vit_small_patch16_224"), 224),
    "resnet20": (lambda: edakari.build("edakari:resnet20"), 32),
    "fashion_cnn": (lambda: edakari.build("edakari:fashion_cnn"), 28),
}
BUDGETS = ("macs<=50%", "params<=50%", "macs<=50%, params<=50%")
LARGE = ("resnet50", "densenet121", "mobilenetv2", "vit_small")
MOST_CHOICES = 100_000
"""With more, only the linear relaxation is solved for comparison: HiGHS does not heed its limit then."""
MOST_COUPLED = 3000
"""Most sizes of all groups together with which CP-SAT is given a coupled instance."""
SMALL = (("fashion_cnn", 8), ("resnet20", 8), ("resnet20", 4))
SYNTHETIC = 500
ALL = (*NETWORKS, "synthetic")
SEED = 0
REPEATS = 3


@dc.dataclass(frozen=True)
class Choices:
    """A multiple-choice knapsack: whole costs [terms, choices] and values [choices] by class, and the capacities."""

    name: str
    costs: list[np.ndarray]
    values: list[np.ndarray]
    room: np.ndarray

    def worth(self, picks: Sequence[int]) -> float:
        return float(sum(value[pick] for value, pick in zip(self.values, picks, strict=True)))

    def feasible(self, picks: Sequence[int]) -> bool:
        spent = sum(cost[:, pick] for cost, pick in zip(self.costs, picks, strict=True))
        return bool((spent <= self.room).all())


@functools.cache
def graph_of(network: str) -> Graph:
    build, pixels = NETWORKS[network]
    return edakari.trace(build().eval(), torch.zeros(1, 1 if network == "fashion_cnn" else 3, pixels, pixels))


def scores(groups: Sequence[Group]) -> dict[str, np.ndarray]:
    """Value of the k best channels of each group."""
    rng = np.random.default_rng(SEED)
    values = {}
    for group in groups:
        level, spread = rng.lognormal(0, 0.5), rng.uniform(0.3, 1.2)
        falling = np.sort(level * rng.lognormal(0, spread, group.size))[::-1]
        values[group.name] = np.concatenate([[0.0], np.cumsum(falling)])
    return values


def network_instance(network: str, step: int, budget: str) -> Instance:
    graph = graph_of(network)
    groups = limited(graph.groups, round_to=step)
    return Instance(f"{network}, step {step}, {budget}", groups, scores(groups), bind(Budget.parse(budget), graph))


def synthetic_instance(budget: str) -> Instance:
    """A chain of layers of 16 to 2,048 channels in which every fifth also reads the layer five places on."""
    rng = np.random.default_rng(SEED)
    widths = np.exp(rng.uniform(math.log(16), math.log(2049), SYNTHETIC)).astype(int)
    groups = tuple(Group(f"layer{index}", "channel", int(width)) for index, width in enumerate(widths))
    axes = [Axis(group.name, group.size) for group in groups]
    area = rng.choice([1, 4, 16, 49, 196], SYNTHETIC).tolist()
    ends = [(index, index + 1) for index in range(SYNTHETIC - 1)]
    ends += [(index, index + 5) for index in range(0, SYNTHETIC - 5, 5)]
    layers = [(area[left], (axes[left], axes[right])) for left, right in ends]
    macs = Count("macs", "MAC", tuple(layers))
    params = Count("params", "parameter", tuple((1, layouts) for _, layouts in layers))
    costs = {cost.name: cost for cost in (macs, params)}
    absolute = Budget.parse(budget).absolute({name: cost.total({}) for name, cost in costs.items()})
    limits = Limits(tuple((costs[term.cost], term.limit) for term in absolute.terms))
    return Instance(f"{SYNTHETIC} groups of up to 2,048, {budget}", groups, scores(groups), limits)


def separable(instance: Instance) -> Choices:
    """Cost curves of all groups around sizes of 70 %."""
    legal = {group.name: np.array(legal_sizes(group)) for group in instance.groups}
    around = {
        group.name: int(legal[group.name][np.abs(legal[group.name] - 0.7 * group.size).argmin()])
        for group in instance.groups
    }
    terms = instance.limits.terms
    room = np.floor([limit - cost.total(around) for cost, limit in terms])
    costs = []
    for group in instance.groups:
        curves = np.stack([cost.curve(group, around) for cost, _ in terms])
        costs.append(curves[:, legal[group.name]] - curves[:, around[group.name], None])
    values = [instance.values[group.name][legal[group.name]] for group in instance.groups]
    return Choices(instance.name, costs, values, room)


def by_highs(choices: Choices, limit: float) -> tuple[list[int] | None, float]:
    """The choices found and an upper bound."""
    worths, one_each, spent = matrices(choices)
    result = milp(
        -worths,
        integrality=np.ones(len(worths)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(spent, -np.inf, np.sign(choices.room))],
        options={"time_limit": limit, "mip_rel_gap": 1e-9},
    )
    bound = math.inf if result.mip_dual_bound is None else -result.mip_dual_bound
    if result.x is None:
        return None, bound
    return [int(part.argmax()) for part in np.split(result.x, one_each.indptr[1:-1])], bound


def linear_bound(choices: Choices) -> float:
    """What the best mixture of choices is worth: the linear relaxation, by HiGHS's interior point method."""
    worths, one_each, spent = matrices(choices)
    ones = np.ones(len(choices.values))
    result = linprog(-worths, spent, np.sign(choices.room), one_each, ones, bounds=(0, None), method="highs-ipm")
    return -result.fun if result.status == 0 else math.inf


def matrices(choices: Choices) -> tuple[np.ndarray, csr_matrix, csr_matrix]:
    """Values in a row, a row of ones for each class, and costs as shares of the capacities."""
    worths = np.concatenate(choices.values)
    ends = np.cumsum([0, *map(len, choices.values)])
    one_each = csr_matrix((np.ones(len(worths)), np.arange(len(worths)), ends))
    return worths, one_each, csr_matrix(np.concatenate(choices.costs, axis=1) / np.abs(choices.room)[:, None])


def by_cp_sat(choices: Choices, limit: float) -> tuple[list[int] | None, float]:
    """The choices found and an upper bound; values are rounded up to integers, for which the bound allows."""
    model = cp_model.CpModel()
    scale = 2**40 / sum(float(np.abs(value).max()) for value in choices.values)
    picked = [[model.new_bool_var("") for _ in value] for value in choices.values]
    for row in picked:
        model.add_exactly_one(row)
    every = [variable for row in picked for variable in row]
    for term, room in enumerate(choices.room):
        costs = np.concatenate([cost[term] for cost in choices.costs]).astype(np.int64)
        model.add(cp_model.LinearExpr.weighted_sum(every, costs.tolist()) <= int(room))
    worths = np.ceil(np.concatenate(choices.values) * scale).astype(np.int64)
    model.maximize(cp_model.LinearExpr.weighted_sum(every, worths.tolist()))
    solver, found = solved(model, limit, SEED)
    if not found:
        return None, math.inf
    picks = [next(index for index, variable in enumerate(row) if solver.value(variable)) for row in picked]
    return picks, solver.best_objective_bound / scale


def by_us(choices: Choices, limit: float) -> tuple[list[int] | None, float]:
    return solve_choices(choices.costs, choices.values, choices.room), math.inf


def compare_separable(choices: Choices, limit: float) -> dict[str, Any]:
    count = sum(map(len, choices.values))
    entry: dict[str, Any] = {"choices": count, "solvers": {}}
    bounds = [linear_bound(choices)]
    others = [("highs", by_highs, 1), ("cp_sat", by_cp_sat, 1)] if count <= MOST_CHOICES else []
    for name, solver, repeats in (("edakari", by_us, REPEATS), *others):
        times = []
        for _ in range(repeats):
            start = time.process_time()
            picks, bound = solver(choices, limit)
            times.append(time.process_time() - start)
        bounds.append(bound)
        fits = picks is not None and choices.feasible(picks)
        entry["solvers"][name] = {"cpu_s": statistics.median(times), "value": choices.worth(picks) if fits else None}
    return with_gaps(entry, min(bounds))


def with_gaps(entry: dict[str, Any], bound: float | None) -> dict[str, Any]:
    known = bound is not None and math.isfinite(bound)
    entry["bound"] = bound if known else None
    for found in entry["solvers"].values():
        found["gap"] = 1 - found["value"] / bound if known and found["value"] is not None else None
    return entry


def compare_coupled(instance: Instance, limit: float) -> dict[str, Any]:
    entry: dict[str, Any] = {"groups": len(instance.groups), "solvers": {}, "bound_cpu_s": {}}
    for allocator in (Knapsack(), Threshold(), Uniform()):
        times = []
        for _ in range(REPEATS):
            start = time.process_time()
            sizes = allocator.allocate(instance.groups, instance.values, instance.limits)
            times.append(time.process_time() - start)
        used = [cost.total(sizes) / most for cost, most in instance.limits.terms]
        name = f"edakari, {type(allocator).__name__.lower()}"
        entry["solvers"][name] = {"cpu_s": statistics.median(times), "value": instance.worth(sizes), "used": used}
    start = time.process_time()
    bounds = [dual_bound(instance)]
    entry["bound_cpu_s"]["elimination"] = time.process_time() - start
    if sum(len(legal_sizes(group)) for group in instance.groups) <= MOST_COUPLED:
        start = time.process_time()
        found, bound = cp_sat_coupled(instance, limit, SEED)
        spent = time.process_time() - start
        fits = found is not None and instance.limits.excess(found) <= 0
        entry["solvers"]["cp_sat"] = {"cpu_s": spent, "value": instance.worth(found) if found and fits else None}
        bounds.append(bound)
    return with_gaps(entry, min((bound for bound in bounds if bound is not None), default=None))


def environment(command: Sequence[str], limit: float) -> dict[str, Any]:
    packages = ("numpy", "scipy", "ortools", "torch", "torchvision", "timm")
    return {
        "command": " ".join(command),
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.machine(),
        "processor": processor(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "seed": SEED,
        "repeats": REPEATS,
        "limit_s": limit,
    }


def show(name: str, entry: Mapping[str, Any]) -> None:
    cells = []
    for solver, found in entry["solvers"].items():
        gap = "no solution" if found["value"] is None else "?" if found["gap"] is None else f"{found['gap']:.2e}"
        cells.append(f"{solver} {gap} in {found['cpu_s']:.3f} s")
    print(f"{name}: {'; '.join(cells)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=[], metavar="NETWORK", help=f"{', '.join(ALL)}; all by default")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds of HiGHS and CP-SAT on one instance")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if unknown := set(arguments.networks) - set(ALL):
        parser.error(f"unknown networks {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    results = begun(arguments.output, environment(["python", *sys.argv], arguments.limit), bool(arguments.networks))
    for instance in instances(arguments.networks or ALL):
        entry = results["separable"][instance.name] = compare_separable(separable(instance), arguments.limit)
        show(f"separable {instance.name}", entry)
        entry = results["coupled"][instance.name] = compare_coupled(instance, arguments.limit)
        show(f"coupled {instance.name}", entry)
        if arguments.output:
            write_record(arguments.output, results)


def begun(path: Path | None, now: dict[str, Any], some: bool) -> dict[str, Any]:
    """The results to add to: where only some networks are run, those in the file."""
    results: dict[str, Any] = {"environment": now, "separable": {}, "coupled": {}}
    if path is None or not path.exists() or not some:
        return results
    found = json.loads(path.read_text())
    before = found["environment"]
    differing = [key for key in now if key not in ("command", "date") and before.get(key) != now[key]]
    if differing:
        sys.exit(f"{path} is from another {', '.join(differing)}: run all networks, or write to another file")
    return {**found, "environment": {**now, "command": f"{before['command']}; {now['command']}"}}


def instances(names: Sequence[str]) -> Iterator[Instance]:
    for network, step in (*SMALL, *((network, step) for network in LARGE for step in (8, 1))):
        for budget in BUDGETS if step > 1 else BUDGETS[::2]:
            if network in names:
                yield network_instance(network, step, budget)
    for budget in BUDGETS[::2]:
        if "synthetic" in names:
            yield synthetic_instance(budget)


if __name__ == "__main__":
    main()
