"""The tables of docs/explanation/planning.md: hours and memory of runs, and how evenly processes divide work."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from plan import RECIPES, RESULTS, VAL, Counted, Machine, Phase, largest_part, named, phases

from edakari.pipeline import Recipe

CLASSES = 1000
ALONE = ("cut_cpu_s", "check_cpu_s")
HEADER = (
    "method, network",
    "hours",
    "longest phase",
    "limited by",
    "GPUs, h",
    "loading, h",
    "waiting, min",
    "GB a GPU",
)


def common(net: Counted, measured: Mapping[str, Any], network: str) -> list[Phase]:
    """The stages that all runs have: two evaluations beside those of the trainings, and what process 0 does alone."""
    alone = measured["alone"].get(network, {})  # not measured of the supernet
    return [
        Phase("evaluation", 2 * VAL, net.macs, 2 * VAL),
        Phase("graph, cut and check in float64, on process 0", waiting=sum(alone.get(key, 0.0) for key in ALONE)),
    ]


def memory(recipe: Recipe, net: Counted, machine: Machine) -> dict[str, float]:
    """Bytes of a process: of weights and their copies, of activations in 16 bits, and of the check in float64."""
    schedules = [each for each in (recipe.finetune, getattr(recipe.method, "schedule", None), recipe.method) if each]
    adam = any(getattr(each, "optimizer", "sgd") == "adamw" for each in schedules) or hasattr(recipe.method, "training")
    copies = 2 + (2 if adam else 1) + bool(recipe.finetune and recipe.finetune.ema) + 1  # and a teacher or its like
    batch = recipe.data.batch_size / machine.gpus
    return {
        "weights": 4.0 * copies * net.params,
        "activations": 2.0 * batch * net.activations,
        "check": 8.0 * 4 * net.params,
    }


def loaded() -> dict[str, Any]:
    """Measured costs, from the results that are committed."""
    content = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in ("core", "rfc_overhead", "plan")}
    return {
        "core": content["core"]["networks"]["resnet50"]["edakari"]["cpu_s"],
        "rfc": content["rfc_overhead"]["time"],
        "masks": json.loads((RESULTS / "mask_overhead.json").read_text()),
        "alone": content["plan"]["alone"],
        "counted": {name: Counted(**{**each, "searched": tuple(each["searched"])})
                    for name, each in content["plan"]["counted"].items()},
        "rounds": 8,
    }  # fmt: skip


def times(machine: Machine, measured: Mapping[str, Any]) -> str:
    """Hours of a run of each method, what most of them go to, and what limits that."""
    lines = [f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
    for method in RECIPES:
        recipe, net = named(method), measured["counted"][method]
        found = [*phases(method, recipe, net, measured), *common(net, measured, recipe.model.name)]
        needed = {key: sum(each.seconds(machine)[key] for each in found) for key in ("GPUs", "loading", "waiting")}
        longest = max(found, key=lambda each: each.total(machine))
        limit = max(longest.seconds(machine).items(), key=lambda each: each[1])[0]
        bytes_of = memory(recipe, net, machine)
        cells = [
            f"{method}, {recipe.model.name.split(':')[1]}",
            f"{sum(each.total(machine) for each in found) / 3600:.1f}",
            f"{longest.name} ({longest.total(machine) / 3600:.1f} h)",
            limit,
            f"{needed['GPUs'] / 3600:.1f}",
            f"{needed['loading'] / 3600:.1f}",
            f"{needed['waiting'] / 60:.1f}",
            f"{(bytes_of['weights'] + bytes_of['activations']) / 1e9:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def balance(measured: Mapping[str, Any], worlds: Iterable[int] = (1, 2, 4, 8, 16, 32, 64)) -> str:
    """Work of the process that has most, compared with the mean, where processes divide whole batches or candidates."""
    own: Any = named("ekg").method
    batches = max(1, -(-own.search_images * CLASSES // own.search_batch))
    searched = measured["counted"]["ekg"].searched
    jobs = {
        f"ekg: {sum(searched)} candidates in {len(searched)} steps, each on {batches} batches":
            largest_part(count * batches for count in searched),
        f"ekg: scores on {batches} batches": largest_part([batches]),
        "rfc: scores and trial cuts on 25 batches of 512 images": largest_part([25]),
        "taylor: scores on 16 batches": largest_part([16]),
    }  # fmt: skip
    worlds = list(worlds)
    lines = [f"| processes | {' | '.join(map(str, worlds))} |", "|---" * (len(worlds) + 1) + "|"]
    for name, part in jobs.items():
        lines.append(f"| {name} | {' | '.join(f'{part(world) * world:.2f}' for world in worlds)} |")
    return "\n".join(lines)
