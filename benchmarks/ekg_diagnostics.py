"""Which figure foretells what a sub-network becomes: its reward, its loss, or the condition number of its loss surface?

    python benchmarks/ekg_diagnostics.py --output benchmarks/results/ekg_diagnostics.json
    python benchmarks/ekg_diagnostics.py --recipe recipes/cifar10_resnet20_ekg.yaml --networks 50 \
        --set "data.train=[train.npz]" --set data.val=test.npz --set model.weights=resnet20.safetensors

The recipe's search runs first. Sub-networks of the same cost lie around the one that it found: the width of every
group is drawn near the found one, with the channels that scored best for the dense network. Each is judged on the
search images before any training: minus label loss and distance to the search's knowledge (the reward), the label loss
alone, and the condition number |smallest| / |largest| of the Hessian's eigenvalues. Then all are fine-tuned alike; the
correlations are those with the loss on the validation images after that. `--search-data` instead compares searches on
images as they are, augmented, and held out; it says most with a dense network that knows its training images by heart
and has not seen those that are held out:

    edakari train recipes/fashion_cnn_ekg.yaml --output dense.safetensors --set model.weights=random \
        --set data.hold_out=true --set data.augment=none --set train.epochs=15 --set train.lr=0.1
    python benchmarks/ekg_diagnostics.py --search-data --set model.weights=dense.safetensors
"""

from __future__ import annotations

import argparse
import copy
import dataclasses as dc
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from core import environment
from records import write_record

from edakari.core.budget import Limits
from edakari.core.method import Job
from edakari.core.protocols import Schedule
from edakari.cost import bind
from edakari.graph import trace
from edakari.methods.ekg import EnsembleKnowledgePruning, balanced_parts
from edakari.methods.knowledge.ensemble import EnsembleSearch, SearchSettings, SearchStep
from edakari.methods.masking.masks import Masks, maskable
from edakari.models import build
from edakari.pipeline import read_recipe
from edakari.solve import fill
from edakari.surgery import apply
from edakari.tasks import task_from_settings
from edakari.train import FitSettings, batch_statistics, fit, fitter, recalibrate_, task_objective
from edakari.train.curvature import curvature

FIGURES = ("reward", "loss", "condition")


def job_of(recipe: Any) -> Job:
    model, task = build(recipe.model), task_from_settings(recipe.data, recipe.seed)
    graph = trace(model, task.example())
    budget = recipe.budget.absolute({cost.name: cost.total({}) for cost, _ in bind(recipe.budget, graph).terms})
    fitting = FitSettings(device="cpu", seed=recipe.seed)
    return Job(model, graph, maskable(graph, graph.groups), task, budget, fitter(task, fitting), seed=recipe.seed)


def searched(job: Job, method: EnsembleKnowledgePruning) -> tuple[EnsembleSearch, tuple[SearchStep, ...], list[Any]]:
    """The search of the recipe, its way, and the images of its warm-up."""
    labels = job.task.labels("train")
    warmup, found = balanced_parts(labels, method.warmup_images, method.search_images, method.search_batch, job.seed)
    warmup_batches = list(job.task.batches_at("train", warmup))
    job.fit(job.model, task_objective(job.task), method.warmup_schedule, batches=warmup_batches)
    masks = Masks(job.model, job.graph, job.groups, "hard")
    settings = SearchSettings(cut=method.cut, knowledge=method.knowledge, filtered=method.candidates == "otsu")
    search = EnsembleSearch(job, masks, settings, list(job.task.batches_at("train", found)))
    return search, search.run(bind(job.budget, job.graph)), warmup_batches


def around(
    search: EnsembleSearch, search_step: SearchStep, limits: Limits, count: int, spread: float, seed: int
) -> list[torch.Tensor]:
    """Masks of sub-networks near one, all at most as dear as the limits say, and hardly cheaper."""
    rng = np.random.default_rng(seed)
    with search.working():
        scores = search.scores(search.start.mask)
    found = search.plan(search_step).sizes()
    values = {group.name: np.concatenate([[0.0], np.cumsum(rng.random(group.size))]) for group in search.masks.groups}
    masks = []
    for _ in range(count):
        shrunk, factor = {}, 1.0
        drawn = {g.name: found.get(g.name, g.size) * rng.uniform(1 - spread, 1 + spread) for g in search.masks.groups}
        while not shrunk or limits.excess(shrunk) > 0:
            shrunk = {g.name: int(np.clip(drawn[g.name] * factor, 1, g.size)) for g in search.masks.groups}
            factor *= 0.99
        sizes = fill(search.masks.groups, values, limits, shrunk)
        kept = torch.zeros(search.masks.size, dtype=torch.bool)
        for group in search.masks.groups:
            part = search.masks.part(group.name)
            best = torch.argsort(scores[part], descending=True, stable=True)[: sizes[group.name]]
            kept[part.start + best] = True
        masks.append(kept)
    return masks


def judged(
    search: EnsembleSearch, kept: torch.Tensor, warmup_batches: list[Any], schedule: Schedule, seed: int
) -> dict[str, float]:
    """Figures before and after training."""
    job, count = search.job, sum(search.counts)
    with search.working():
        outputs = torch.split(search.outputs(kept), search.counts)
        terms = torch.stack([search.terms(part, index) for index, part in enumerate(outputs)]).sum(0) / count
    network = apply(job.model, search.plan(SearchStep(kept, 0.0)))
    params = [param for param in network.parameters() if param.requires_grad]

    def loss(batch: Any) -> torch.Tensor:
        return sum(job.task.loss(job.task.outputs(network, batch), batch).values()) * len(batch[1]) / count

    start = time.perf_counter()
    with batch_statistics(network):
        ends = curvature([lambda batch=batch: loss(batch) for batch in search.batches], params, seed=seed)
    seconds = time.perf_counter() - start
    recalibrate_(network, job.task.outputs, warmup_batches)
    fit(
        network,
        task_objective(job.task),
        job.task.batches("train"),
        schedule,
        settings=FitSettings(device="cpu", seed=seed),
    )
    after = job.task.evaluate(network)
    return {
        "reward": -float(terms.sum()),
        "loss": float(terms[0]),
        "condition": ends.condition,
        "smallest": ends.smallest,
        "largest": ends.largest,
        "curvature_seconds": seconds,
        "loss_after": after["loss"],
        "metric_after": after[job.task.metric],
    }


def correlations(rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Pearson and Spearman correlation of each figure with the loss after fine-tuning."""
    after = np.array([row["loss_after"] for row in rows])
    found = {}
    for name in FIGURES:
        before = np.array([row[name] for row in rows])
        ranks = [np.argsort(np.argsort(values)) for values in (before, after)]
        found[name] = {
            "pearson": float(np.corrcoef(before, after)[0, 1]),
            "spearman": float(np.corrcoef(*ranks)[0, 1]),
        }
    return found


def foretold(arguments: argparse.Namespace) -> dict[str, Any]:
    recipe = read_recipe(arguments.recipe, arguments.settings)
    job, schedule = job_of(recipe), Schedule(epochs=arguments.epochs, lr=arguments.lr)
    search, way, warmup_batches = searched(job, recipe.method)
    limits = bind(job.budget, job.graph)
    masks = [way[-1].mask, *around(search, way[-1], limits, arguments.networks, arguments.spread, recipe.seed)]
    rows = []
    for kept in masks:
        rows.append(judged(search, kept, warmup_batches, schedule, recipe.seed))
        print(len(rows), {key: round(value, 4) for key, value in rows[-1].items()}, flush=True)
    return {"networks": rows, "correlations": correlations(rows)}


def start_loss(job: Job, method: EnsembleKnowledgePruning) -> float:
    """Label loss of the network before it is cut, on images like those of its search."""
    split = "calibration" if method.search_data == "held_out" else "train"
    labels = job.task.labels(split)
    _, found = balanced_parts(labels, 0, method.search_images, method.search_batch, job.seed)
    losses, counts = [], []
    with torch.no_grad(), batch_statistics(job.model):
        for batch in job.task.batches_at(split, found, augmented=method.search_data == "augmented"):
            terms = job.task.loss(job.task.outputs(job.model, batch), batch)
            losses.append(float(sum(terms.values())))
            counts.append(len(batch[1]))
    return float(np.average(losses, weights=counts))


def search_data(arguments: argparse.Namespace) -> dict[str, Any]:
    """Accuracy after fine-tuning when the search sees images as they are, augmented or held out, over seeds.

    All arms leave the held-out images out of training; the dense network has seen them unless it was trained so.
    """
    found: dict[str, Any] = {}
    for kind in ("training", "augmented", "held_out"):
        for seed in range(arguments.seeds):
            recipe = read_recipe(arguments.recipe, [*arguments.settings, "data.hold_out=true", f"seed={seed}"])
            job = job_of(recipe)
            said: list[str] = []
            job = dc.replace(job, log=lambda stage, figures, said=said: said.append(stage))
            method = dc.replace(recipe.method, search_data=kind)
            outcome = method.prune(job)
            before = job.task.evaluate(outcome.model)
            model = copy.deepcopy(outcome.model)
            schedule = Schedule(epochs=arguments.epochs, lr=arguments.lr)
            settings = FitSettings(device="cpu", seed=seed)
            fit(model, task_objective(job.task), job.task.batches("train"), schedule, settings=settings)
            after = job.task.evaluate(model)
            row = {
                "start": start_loss(job, method),
                "warned": any("overfitted" in remark for remark in said),
                "before": before[job.task.metric],
                "after": after[job.task.metric],
                "loss_after": after["loss"],
            }
            found.setdefault(kind, []).append(row)
            print(kind, seed, row, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/fashion_cnn_ekg.yaml")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--spread", type=float, default=0.25, help="how far widths lie from the found ones, as a share")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--search-data", action="store_true", help="compare kinds of search images instead")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/ekg_diagnostics.json"))
    arguments = parser.parse_args()
    key = "search_data" if arguments.search_data else "foretold"
    asked = {
        name: getattr(arguments, name) for name in ("recipe", "settings", "networks", "spread", "epochs", "lr", "seeds")
    }
    results = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {}
    found = search_data(arguments) if arguments.search_data else foretold(arguments)
    write_record(
        arguments.output,
        {**results, key: {"environment": environment(["python", *sys.argv]), "arguments": asked, **found}},
    )
    print(json.dumps(found.get("correlations", found), indent=2))


if __name__ == "__main__":
    main()
