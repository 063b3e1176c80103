"""Why a knapsack over scores loses accuracy under a budget of latency: values of sizes against measured losses.

    python benchmarks/latency_spending.py DATA --output benchmarks/results/latency_spending.json

ResNet-20 on CIFAR-10 with the dense network, data and training of `cifar10.py`; all is judged by training images that
nothing trains on. (1) Scores are gathered as `smcp` does before its first choice of masks. (2) Each group is cut by
itself to each legal size, and the loss is measured with statistics of the batch. (3) Value models choose plans within
budgets, beside plans at random; the loss of each is measured right after the cut, and for those of --recover after a
short training. (4) Rank correlations tell how well the models foresee these losses. Latency is predicted from one table
of this machine, so that equal widths cost the same in all of it. A run goes on where an earlier one stopped.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cifar10
import numpy as np
import numpy.typing as npt
import torch
from core import environment
from records import write_record

import edakari as ek
from edakari.core.budget import Budget, Limits
from edakari.core.plan import Plan
from edakari.core.protocols import Batch, Values
from edakari.core.space import Group, Scores, Sizes, limited
from edakari.cost import bind, macs
from edakari.criteria import Magnitude
from edakari.criteria.reduce import normalized
from edakari.methods.masking.masks import Masks, maskable
from edakari.methods.sensitivity import slopes
from edakari.methods.smcp import input_taylor
from edakari.models import build
from edakari.pipeline.recipe import read_recipe
from edakari.solve import Knapsack, Threshold, Uniform, fill, keep_best, scarce, values_of
from edakari.solve.spend import worth_of
from edakari.surgery import apply
from edakari.tasks import task_from_settings
from edakari.train import FitSettings, batch_statistics, fit, task_objective

BUDGETS = ("latency<=45%", "latency<=35%", "macs<=30%")
SCORED, JUDGED, RANDOM = 32, 4, 12
"""Batches of training by which channels are scored, batches by which cut networks are judged, and plans at random."""
POWERS = (0.0, 0.5, 1.0, 2.0)
LEAST_RISE = 0.01
"""Smaller increases of the loss are noise, and do not count in fits of powers."""


class Lab:
    """The dense network, its scores, and the losses of networks that are cut from it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        settings = argparse.Namespace(**{**vars(arguments), "limit": arguments.steps * arguments.batch})
        settings.data = cifar10.held_out(settings)
        changes = ["finetune.epochs=1", f"finetune.lr={arguments.lr}", "budget=macs<=50%"]
        recipe = read_recipe(cifar10.RECIPE, [*cifar10.common(arguments.dense, 0, settings), *changes])
        assert recipe.finetune is not None
        self.recovery = recipe.finetune
        self.model, self.task = build(recipe.model), task_from_settings(recipe.data, recipe.seed)
        self.graph = ek.trace(self.model, self.task.example())
        self.groups: Sequence[Group] = limited(self.graph.groups, round_to=cifar10.ROUND_TO)
        self.latency = ek.measure_latency(self.model, torch.zeros(1, 3, 32, 32), cache=arguments.cache, tell=print)
        self.judged = list(itertools.islice(self.task.batches("val"), arguments.batches))

    def limits(self, budget: str) -> Limits:
        return bind(Budget.parse(budget), self.graph, [self.latency])

    def scores(self) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
        """Mean squared change of the loss without each channel, as `smcp` scores them, and each group's readers."""
        model = copy.deepcopy(self.model).train()
        masks = Masks(model, self.graph, maskable(self.graph, self.graph.groups), "soft", scale_norms=False)
        objective, total = task_objective(self.task), torch.zeros(masks.size, dtype=torch.float64)
        with masks.installed():
            for batch in itertools.islice(self.task.batches("train"), SCORED):
                model.zero_grad()
                sum(objective(model, batch).values()).backward()
                figures = input_taylor(masks)
                assert figures is not None
                total += figures.double().square() / SCORED
        return {g.name: total[masks.part(g.name)] for g in masks.groups}, {
            g.name: masks.readers(g.name) for g in masks.groups
        }

    def cut(self, scores: Scores, sizes: Sizes) -> torch.nn.Module:
        return apply(self.model, Plan(keep_best(scores, sizes), self.graph.fingerprint, self.graph.inputs), self.graph)

    @torch.no_grad()
    def loss(self, model: torch.nn.Module, batches: Sequence[Batch]) -> float:
        objective = task_objective(self.task)
        with batch_statistics(model):
            return float(np.mean([float(sum(objective(model, batch).values())) for batch in batches]))

    def recovered(self, model: torch.nn.Module) -> dict[str, float]:
        """Loss and top-1 on held-out images after a training as short as --steps."""
        torch.manual_seed(0)
        objective = task_objective(self.task)
        fit(model, objective, self.task.batches("train"), self.recovery, settings=FitSettings(seed=0, progress=False))
        found = self.task.evaluate(model)
        return {"loss": found["loss"], "top1": found["top1"]}


def models_of(scores: Scores, readers: Mapping[str, int], curves: Mapping[str, float], lab: Lab) -> dict[str, Values]:
    """Values of sizes by the name of the model."""
    shared = {name: score / readers[name] ** 0.5 for name, score in scores.items()}
    bases = {"scores": scores, "scores shared": shared, "scores normalised": normalized(scores, "mean")}
    found = {f"{name}, power {p:g}": scarce(values_of(base), p) for name, base in bases.items() for p in POWERS}
    return {**found, "measured curves": measured_values(curves, lab)}


def measured_values(curves: Mapping[str, float], lab: Lab) -> Values:
    """Values of sizes from the losses of networks in which one group alone was cut."""
    values = {}
    for group in lab.groups:
        sizes = range(group.size - cifar10.ROUND_TO, 0, -cifar10.ROUND_TO)
        rises = [curves[f"{group.name}:{size}"] - curves["dense"] for size in sizes]
        rising = slopes([group.size - size for size in sizes], rises, group.size)
        values[group.name] = np.concatenate([[0.0], np.cumsum(rising[::-1])])
    return values


def fits(scores: Scores, curves: Mapping[str, float]) -> dict[str, Any]:
    """How sums of scores, and scarce values, follow the losses of networks in which one group alone was cut.

    Returns:
        The power that fits each group best up to a factor, by logarithms; and by power, the rank correlation over the
        cuts of all groups, as the scores are and normalised within groups.
    """
    cuts = [(*key.split(":"), loss - curves["dense"]) for key, loss in curves.items() if key != "dense"]
    powers = {}
    for name in scores:
        own = [(int(size), rise) for group, size, rise in cuts if group == name and rise > LEAST_RISE]
        if len(own) > 2:
            logs = {
                p: [np.log(rise / _lost_at(scores, p, name, k)) for k, rise in own] for p in np.arange(0, 4.1, 0.25)
            }
            powers[name] = min((float(np.std(found)), float(p)) for p, found in logs.items())[1]
    pooled = {
        label: {
            f"{p:g}": spearman(np.array([(_lost_at(base, p, name, int(size)), rise) for name, size, rise in cuts]))
            for p in POWERS
        }
        for label, base in (("scores", scores), ("scores normalised", normalized(scores, "mean")))
    }
    return {"powers": powers, "correlations": pooled, "cuts": len(cuts)}


def _lost_at(scores: Scores, power: float, name: str, size: int) -> float:
    value = scarce(values_of({name: scores[name]}), power)[name]
    return float(value[-1] - value[size])


def chosen(budget: str, models: Mapping[str, Values], scores: Scores, lab: Lab) -> dict[str, Sizes]:
    """Sizes within a budget: by each model's knapsack, by thresholds, and at random."""
    groups, limits = lab.groups, lab.limits(budget)
    found: dict[str, Sizes] = {name: Knapsack().allocate(groups, values, limits) for name, values in models.items()}
    normal = values_of(normalized(scores, "mean"))
    found["scores normalised, threshold"] = Threshold().allocate(groups, normal, limits)
    magnitude = values_of(Magnitude().score(lab.model, lab.graph, [], None))
    found["magnitude, threshold"] = Threshold().allocate(groups, magnitude, limits)
    found["uniform"] = Uniform().allocate(groups, normal, limits)
    rng = np.random.default_rng(0)
    least = {group.name: min(cifar10.ROUND_TO, group.size) for group in groups}
    for index in range(RANDOM):
        weights, power = np.exp(rng.normal(0, 1.2, len(groups))), rng.uniform(0.2, 0.9)
        values = {
            group.name: weight * (np.arange(group.size + 1) / group.size) ** power
            for group, weight in zip(groups, weights, strict=True)
        }
        found[f"random {index}"] = fill(groups, values, limits, least)
    return found


def correlations(
    plans: Mapping[str, Mapping[str, Any]], budget: str, models: Mapping[str, Values]
) -> dict[str, dict[str, float]]:
    """Spearman's correlation of the value that each model sees lost in a plan with the measured losses."""
    own = [row for key, row in plans.items() if key.startswith(f"{budget}, ")]
    seen: dict[str, Callable[[Mapping[str, Any]], float]] = {
        name: functools.partial(_lost, values) for name, values in models.items()
    }
    seen["MACs removed"] = lambda row: -float(row["macs"])
    found: dict[str, dict[str, float]] = {}
    for name, foreseen in seen.items():
        found[name] = {}
        for kind, figures in (
            ("cut", [(foreseen(row), row["cut"]) for row in own]),
            ("recovered", [(foreseen(row), row["recovered"]["loss"]) for row in own if "recovered" in row]),
        ):
            if len(figures) > 3:
                found[name][kind] = spearman(np.array(figures))
    return found


def spearman(pairs: npt.NDArray[np.float64]) -> float:
    """Rank correlation of the two columns; equal figures have equal ranks."""
    ranks = [np.unique(column, return_inverse=True)[1] for column in pairs.T]
    return float(np.corrcoef(*ranks)[0, 1])


def _lost(values: Values, row: Mapping[str, Any]) -> float:
    return -worth_of(values, row["sizes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/spending"), help="folder of the held-out images")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--dense", type=Path, default=Path("benchmarks/results/cifar10_resnet20.safetensors"))
    parser.add_argument("--cache", type=Path, help="folder of the latency table; the usual one if not given")
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS))
    parser.add_argument("--recover", nargs="*", default=[], help="names of plans to train; `all` is all of them")
    parser.add_argument("--steps", type=int, default=176, help="of the short training")
    parser.add_argument("--batches", type=int, default=JUDGED, help="of 64 held-out images that judge cut networks")
    parser.set_defaults(batch=64, epochs=1, lr=0.02)
    arguments = parser.parse_args()
    empty: dict[str, Any] = {"curves": {}, "plans": {}, "correlations": {}}
    found = json.loads(arguments.output.read_text()) if arguments.output.is_file() else empty
    found["environment"] = environment(["python", *sys.argv])
    lab = Lab(arguments)
    if "scores" not in found:
        scores, readers = lab.scores()
        found["scores"], found["readers"] = {name: score.tolist() for name, score in scores.items()}, readers
        write_record(arguments.output, found)
    scores = {name: torch.tensor(score, dtype=torch.float64) for name, score in found["scores"].items()}
    curves = found["curves"]
    one_alone = {f"{g.name}:{k}": {g.name: k} for g in lab.groups for k in range(cifar10.ROUND_TO, g.size, 8)}
    for key, sizes in {"dense": {}, **one_alone}.items():
        if key not in curves:
            curves[key] = lab.loss(lab.cut(scores, sizes), lab.judged)
            write_record(arguments.output, found)
    found["fits"] = fits(scores, curves)
    models, cost = models_of(scores, found["readers"], curves, lab), macs(lab.graph)
    for budget in arguments.budgets:
        for name, sizes in chosen(budget, models, scores, lab).items():
            row = found["plans"].setdefault(f"{budget}, {name}", {"sizes": dict(sizes)})
            row.setdefault("macs", cost.total(row["sizes"]) / cost.total({}))
            if "cut" not in row:
                row["cut"] = lab.loss(lab.cut(scores, row["sizes"]), lab.judged)
            if "recovered" not in row and (name in arguments.recover or "all" in arguments.recover):
                row["recovered"] = lab.recovered(lab.cut(scores, row["sizes"]))
            print(f"{budget}, {name}: {row}", flush=True)
            write_record(arguments.output, found)
        found["correlations"][budget] = correlations(found["plans"], budget, models)
        write_record(arguments.output, found)


if __name__ == "__main__":
    main()
