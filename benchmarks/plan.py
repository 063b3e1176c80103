"""Time and memory of ImageNet runs on several GPUs, derived from recipes, measured costs and assumptions.

    python benchmarks/plan.py                                     # the tables of docs/explanation/planning.md
    python benchmarks/plan.py --gpus 4 --macs-per-second 4e12     # with other assumptions
    python benchmarks/plan.py --measure                           # measures what benchmarks/results/plan.json holds

No run is made. The work of each phase is counted from a recipe: images, multiply-accumulates (MACs) of an image, and
choices that every process waits for. Seconds of the processor come from committed results. What a GPU, a processor core
and a disk do are assumptions: they are arguments. Processes divide jobs as `edakari.core.processes.Processes` does.
"""

from __future__ import annotations

import argparse
import dataclasses as dc
import json
import resource
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from core import environment
from records import write_record

import edakari
from edakari.core.budget import Budget
from edakari.core.choosing import choose
from edakari.core.copying import copied
from edakari.core.graph import Graph
from edakari.core.processes import Processes
from edakari.core.space import Group
from edakari.cost import bind, dense
from edakari.graph import trace
from edakari.methods.knowledge.ensemble import group_steps
from edakari.methods.masking.masks import Masks, maskable
from edakari.models import build
from edakari.pipeline import Recipe, read_recipe
from edakari.solve.greedy import GreedyDescent
from edakari.surgery.differences import differences, other_inputs

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TRAIN, VAL, CLASSES = 1_281_167, 50_000, 1000
FORWARD, BACKWARD, INPUTS = 1, 3, 2
"""MACs of a forward pass, of one with the gradients of weights, and of one with those of activations only, each as a
multiple of the network's."""


@dc.dataclass(frozen=True)
class Machine:
    """What is assumed.

    Args:
        gpus: number of processes, each with a GPU.
        macs_per_second: MACs that a GPU computes per second in training and evaluation, with all that is lost.
        cores: processor cores of all machines together.
        images_per_core: images that a core reads, decodes and augments per second.
    """

    gpus: int = 8
    macs_per_second: float = 12e12
    cores: int = 64
    images_per_core: float = 300.0


@dc.dataclass(frozen=True)
class Phase:
    """A part of a run.

    Args:
        name: what is done.
        images: images that the networks run on, over all processes.
        macs: MACs of an image.
        decoded: images that are decoded.
        everywhere: whether every process decodes all of these images, and runs its part.
        waiting: seconds in which a processor works and the GPUs wait.
        part: largest part of the work that one process has, by the number of processes; None divides evenly.
    """

    name: str
    images: float = 0.0
    macs: float = 0.0
    decoded: float = 0.0
    everywhere: bool = False
    waiting: float = 0.0
    part: Callable[[int], float] | None = None

    def seconds(self, machine: Machine) -> dict[str, float]:
        """Seconds that the phase needs of each resource; the first two run at the same time."""
        part = 1 / machine.gpus if self.part is None else self.part(machine.gpus)
        return {
            "GPUs": self.images * self.macs * part / machine.macs_per_second,
            "loading": self.decoded
            * (machine.gpus if self.everywhere else 1)
            / (machine.cores * machine.images_per_core),
            "waiting": self.waiting,
        }

    def total(self, machine: Machine) -> float:
        """Seconds of the phase."""
        needed = self.seconds(machine)
        return max(needed["GPUs"], needed["loading"]) + needed["waiting"]


@dc.dataclass(frozen=True)
class Counted:
    """What is counted of a network.

    Args:
        macs: MACs of an image.
        params: parameters.
        activations: outputs of its layers for an image, in entries.
        groups: groups that can be pruned.
        kept: fraction of the MACs that the budget leaves.
        searched: candidates in each step of the search of EKG.
    """

    macs: float
    params: float
    activations: float
    groups: int
    kept: float
    searched: tuple[int, ...] = ()


def training(name: str, epochs: float, macs: float, views: int = 1) -> Phase:
    """Epochs of training, with the evaluation after each of them."""
    images = epochs * TRAIN * views
    evaluated = epochs * VAL * macs / BACKWARD / max(images * macs, 1)
    return Phase(name, images * (1 + evaluated), macs, epochs * (TRAIN * views + VAL))


def largest_part(jobs: Iterable[int]) -> Callable[[int], float]:
    """Largest part of some rounds of equal jobs that one process has, as processes divide them."""
    rounds = list(jobs)

    def part(world: int) -> float:
        most = sum(max(len(Processes(rank, world).share(count)) for rank in range(world)) for count in rounds)
        return most / sum(rounds)

    return part


def phases(method: str, recipe: Recipe, net: Counted, measured: Mapping[str, Any]) -> list[Phase]:
    """The phases of a run, without the stages that all runs have."""
    own: Any = recipe.method
    size, tuned = recipe.data.batch_size, recipe.finetune
    found = WORK[method](own, size, net, measured)
    if tuned is not None:
        views = tuned.views
        found.append(training("fine-tuning", tuned.epochs, BACKWARD * net.kept * net.macs, views))
        if tuned.teacher == "bank":
            images = tuned.bank.teachers * TRAIN * views
            found.append(Phase("outputs of teachers", images, net.macs, TRAIN * views))
    return found


def _magnitude(own: Any, size: int, net: Counted, measured: Mapping[str, Any]) -> list[Phase]:
    return [Phase("scores", waiting=measured["core"]["score"])]


def _taylor(own: Any, size: int, net: Counted, measured: Mapping[str, Any]) -> list[Phase]:
    batches = own.criterion.max_batches
    part = largest_part([batches])
    return [Phase("scores", batches * size, BACKWARD * net.macs, batches * size, part=part)]


def _rfc(own: Any, size: int, net: Counted, measured: Mapping[str, Any]) -> list[Phase]:
    """Every round tries each group once; the number of rounds depends on the data, and is assumed."""
    seen, rounds, overhead = own.criterion.responses.images, measured["rounds"], measured["rfc"]
    trial = own.trial.images or seen
    scored, tried = largest_part([-(-seen // size)]), largest_part([-(-trial // size)])
    return [
        Phase("scores", rounds * seen, overhead["ratio_median"] * net.macs, rounds * seen, part=scored),
        Phase("scores, without data", waiting=rounds * overhead["scores_s"]),
        Phase("trial cuts", rounds * net.groups * trial, net.macs, rounds * net.groups * trial, part=tried),
        training("training after cuts", rounds * own.trial.recovery_epochs, BACKWARD * net.macs),
    ]


def _smcp(own: Any, size: int, net: Counted, measured: Mapping[str, Any]) -> list[Phase]:
    choices = own.epochs * (TRAIN // size) / own.interval
    masked = BACKWARD * measured["masks"]["ratio_steps"] * net.macs
    return [training("training with masks", own.epochs, masked), Phase(
        f"{choices:.0f} choices of masks", waiting=choices * measured["masks"]["choice_s"]
    )]  # fmt: skip


def _ekg(own: Any, size: int, net: Counted, measured: Mapping[str, Any]) -> list[Phase]:
    images, warm = own.search_images * CLASSES, own.warmup_images * CLASSES
    batches = max(1, -(-images // own.search_batch))
    tried = sum(net.searched)
    return [
        Phase("training before the search", warm, BACKWARD * net.macs, warm),
        Phase(f"scores of {len(net.searched)} steps", len(net.searched) * images, BACKWARD * net.macs, images, True,
              part=largest_part([batches])),
        Phase(f"{tried} candidates", tried * images, net.macs,
              part=largest_part(count * batches for count in net.searched)),
    ]  # fmt: skip


def _isp(own: Any, size: int, net: Counted, measured: Mapping[str, Any]) -> list[Phase]:
    """The decoder of the explainer is not counted; gates are trained on a twentieth of the images, as in the paper."""
    share, some = own.explain_share, TRAIN // 20
    explainer = FORWARD + INPUTS  # the network, and the predictor, whose inputs have gradients
    return [
        training("predictor", own.predictor_epochs * share, (FORWARD + BACKWARD) * net.macs),
        training("explainer", own.explainer_epochs * share, explainer * net.macs),
        Phase("gates", own.gate_epochs * some, INPUTS * net.macs, own.gate_epochs * some, True),
    ]


def _spvit(own: Any, size: int, net: Counted, measured: Mapping[str, Any]) -> list[Phase]:
    """Tokens are masked in training, not removed, and the network before pruning is the teacher."""
    training_of = own.training
    return [
        training("selectors alone", training_of.selector_epochs, (BACKWARD + FORWARD) * net.macs),
        training("selectors and network", training_of.joint_epochs, (BACKWARD + FORWARD) * net.macs),
    ]


def _supertickets(own: Any, size: int, net: Counted, measured: Mapping[str, Any]) -> list[Phase]:
    """Gates close during the search: the unpruned supernet in all epochs is an upper bound."""
    ratio = max(row["ratio"] for row in measured["masks"]["tickets"]["rows"])
    return [training("search, and masks of weights", own.schedule.epochs, BACKWARD * ratio * net.macs)]


WORK: Mapping[str, Callable[[Any, int, Counted, Mapping[str, Any]], list[Phase]]] = {
    "magnitude": _magnitude,
    "taylor": _taylor,
    "rfc": _rfc,
    "smcp": _smcp,
    "ekg": _ekg,
    "isp": _isp,
    "spvit": _spvit,
    "supertickets": _supertickets,
}
BASE = "imagenet_resnet50.yaml"
RECIPES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "magnitude": (BASE, ("method.name=magnitude",)),
    "taylor": (BASE, ()),
    "rfc": (BASE, ('method={"name": "dlrfc"}',)),
    "smcp": ("imagenet_resnet50_smcp.yaml", ("data.batch_size=2048", "method.interval=10", "method.lr=2.048")),
    "ekg": ("imagenet_resnet50_ekg.yaml", ("data.batch_size=2048", "finetune.lr=0.08")),
    "isp": (BASE, ('method={"name": "isp"}',)),
    "spvit": ("imagenet_deit_small_spvit.yaml", ("data.batch_size=2048",)),
    "supertickets": ("imagenet_supertickets.yaml", ()),
}
"""Recipes, with batch sizes for 8 GPUs as their comments have them; methods without one take that of ResNet-50."""


def counted(method: str, recipe: Recipe, model: torch.nn.Module, graph: Graph) -> Counted:
    """Count what a run's network costs; its weights do not matter."""
    costs = dense(graph, Budget.parse("macs<=50%, params<=50%, activations<=50%"))
    relative = [term.limit for term in recipe.budget.limits.terms if term.cost == "macs" and term.relative]
    kept = relative[0] if relative else 1.0
    groups = choose(graph, recipe.groups).every
    steps = searched(model, graph, groups, recipe) if method == "ekg" else ()
    return Counted(costs["macs"], costs["params"], costs["activations"], len(groups), kept, steps)


def searched(model: torch.nn.Module, graph: Graph, groups: Iterable[Group], recipe: Recipe) -> tuple[int, ...]:
    """Candidates of each step of the search of EKG to a budget, if each step took a random one."""
    own: Any = recipe.method
    rng, counts = np.random.default_rng(0), list[int]()
    cut = maskable(graph, tuple(groups))
    limits = bind(recipe.budget.absolute(dense(graph, recipe.budget)), graph)

    def any_one(sizes: Any, candidates: Any) -> tuple[int, float]:
        counts.append(len(candidates))
        return int(rng.integers(len(candidates))), 0.0

    descent = GreedyDescent(group_steps(Masks(model, graph, cut, "hard"), own.cut))
    for _ in descent.search(cut, limits, any_one):
        pass
    return tuple(counts)


def named(method: str) -> Recipe:
    """The recipe of a method."""
    file, settings = RECIPES[method]
    return read_recipe(ROOT / "recipes" / file, list(settings))


def measure(path: Path) -> None:
    """Measure what process 0 does alone for each network, in seconds of one core, and count what recipes need.

    What the file holds already stays, so that a measurement that was stopped goes on.
    """
    torch.set_num_threads(1)
    found = json.loads(path.read_text()) if path.is_file() else {"alone": {}, "counted": {}}
    networks: dict[str, tuple[torch.nn.Module, Graph]] = {}
    for method in (each for each in RECIPES if each not in found["counted"]):
        recipe = named(method)
        name = recipe.model.name
        if name not in networks:
            model = build(dc.replace(recipe.model, weights="random")).eval()
            networks[name] = model, trace(model, torch.zeros(1, 3, 224, 224))
        if name not in found["alone"] and not name.startswith("edakari:"):  # the supernet's check takes too long here
            found["alone"][name] = _alone(networks[name][0])
        found["counted"][method] = dc.asdict(counted(method, recipe, *networks[name]))
        write_record(path, {**found, "environment": environment(["python benchmarks/plan.py --measure"])})
        print(method, name, found["alone"].get(name), flush=True)


def _alone(model: torch.nn.Module) -> dict[str, float]:
    """Seconds of one core for graph, plan and cut, and for the check after them, and the largest memory so far."""
    example, start = torch.zeros(1, 3, 224, 224), time.process_time()
    graph = trace(model, example)
    plan = edakari.allocate(graph, edakari.criteria.Magnitude().score(model, graph), "macs<=50%")
    edakari.apply(model, plan, graph)
    cut = time.process_time()
    images = torch.randn(4, 3, 224, 224).double()
    difference = differences(copied(model).double(), plan, [images, other_inputs(images)], graph).worst
    check = time.process_time() - cut
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cut_cpu_s": cut - start, "check_cpu_s": check, "difference": difference, "maxrss_mb": largest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dc.fields(Machine):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    parser.add_argument("--measure", action="store_true", help="measure and count again, and write the results")
    parser.add_argument("--write", action="store_true", help="write the tables into the page")
    arguments = vars(parser.parse_args())
    written = arguments.pop("write")
    if arguments.pop("measure"):
        measure(RESULTS / "plan.json")
    from plan_page import balance, loaded, times
    from tables import write

    measured = loaded()
    sections = {"times": times(Machine(**arguments), measured), "balance": balance(measured)}
    print(*sections.values(), sep="\n\n")
    if written:
        write(ROOT / "docs" / "explanation" / "planning.md", sections)


if __name__ == "__main__":
    main()
