"""edakari prunes trained vision networks to a budget: multiply-accumulates, parameters, bytes or milliseconds.

    import edakari

    small = edakari.prune(model, example, "macs<=50%").model

Prune
    prune            prunes a network in memory, with or without data
    run              carries out a recipe, as `edakari prune recipe.yaml` does
    sweep            carries out a recipe with many methods, budgets, seeds or other values, and compares the runs
    compare          compares finished runs, over their seeds

Step by step
    trace            finds the prunable groups of a network, and its costs
    criteria         score each channel: criteria.Magnitude().score(model, graph), Taylor, …
    allocate         turns scores and a budget into a plan
    apply            cuts a network by a plan
    simulate         masks a network by a plan, at full size
    mask_weights     makes a plan that sets single weights to zero
    recalibrate      recomputes batch-norm statistics from a few batches without labels
    reconstruct      refits the layers behind a cut to a few batches without labels
    fit              trains a network
    carry            lets your optimizer and averages of weights follow a cut, in the middle of your training
    shrink           cuts a network in place in the middle of your training; optimizer and averages follow
    transfer         moves a pruned network to another task: a new prediction layer, all else stays
    measure_latency  measures layers, and predicts the latency at any sizes

Arguments and results
    Budget           limits on the costs of the pruned network: Budget.parse("macs<=50%, latency<=12ms")
    FeatureHead      a head of your own for `transfer`, on features of a network
    Groups           the groups that may be cut, and their sizes: Groups(round_to=8, widths={"conv1": 32})
    Schedule         epochs, learning rate and other settings of a training
    Task             data, loss and metrics: Task.of(example, train=…, val=…, loss=…, evaluate=…)
    tasks            tasks that come with edakari, on data sets: tasks.task_from_datasets("detection", train, val, …)
    Plan             the removed channels, as data: plan.sizes(), plan.to_json(), plan.then(later)

Files and names
    save             writes a pruned network into a folder
    load             reads a pruned network from a folder
    build            builds a network by name, such as "torchvision:resnet18"

More
    methods          pruning methods, each from a paper; `edakari methods` lists them
    register         registers your own method under a name
    errors           all errors that edakari raises; edakari.errors.EdakariError is the base class
    testing          checks for your own methods, criteria, allocators and costs

Each name has its own `help`. The documentation in `docs` has tutorials and a reference.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edakari import criteria, errors, methods, tasks, testing
    from edakari.core.budget import Budget
    from edakari.core.choosing import Groups
    from edakari.core.method import register
    from edakari.core.plan import Plan
    from edakari.core.protocols import Schedule
    from edakari.graph import trace
    from edakari.latency.measuring import measure_latency
    from edakari.methods.allocation import allocate
    from edakari.pipeline import prune, run
    from edakari.surgery import (
        FeatureHead,
        apply,
        build,
        carry,
        load,
        mask_weights,
        reconstruct,
        save,
        shrink,
        simulate,
        transfer,
    )
    from edakari.sweeps import compare, sweep
    from edakari.tasks.own import Task
    from edakari.train import fit, recalibrate

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "FeatureHead",
    "Groups",
    "Plan",
    "Schedule",
    "Task",
    "__version__",
    "allocate",
    "apply",
    "build",
    "carry",
    "compare",
    "criteria",
    "errors",
    "fit",
    "load",
    "mask_weights",
    "measure_latency",
    "methods",
    "prune",
    "recalibrate",
    "reconstruct",
    "register",
    "run",
    "save",
    "shrink",
    "simulate",
    "sweep",
    "tasks",
    "testing",
    "trace",
    "transfer",
]

_PACKAGES = ("criteria", "errors", "methods", "tasks", "testing")
_HOMES = {
    "Budget": "edakari.core.budget",
    "FeatureHead": "edakari.surgery",
    "Groups": "edakari.core.choosing",
    "Plan": "edakari.core.plan",
    "Schedule": "edakari.core.protocols",
    "Task": "edakari.tasks.own",
    "allocate": "edakari.methods.allocation",
    "apply": "edakari.surgery",
    "build": "edakari.surgery",
    "carry": "edakari.surgery",
    "compare": "edakari.sweeps.comparing",
    "fit": "edakari.train",
    "load": "edakari.surgery",
    "mask_weights": "edakari.surgery",
    "measure_latency": "edakari.latency.measuring",
    "prune": "edakari.pipeline",
    "recalibrate": "edakari.train",
    "reconstruct": "edakari.surgery",
    "register": "edakari.core.method",
    "run": "edakari.pipeline",
    "save": "edakari.surgery",
    "shrink": "edakari.surgery",
    "simulate": "edakari.surgery",
    "sweep": "edakari.sweeps.sweeping",
    "trace": "edakari.graph",
    "transfer": "edakari.surgery",
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and `edakari --help` does not need it
    if name in _PACKAGES:
        return importlib.import_module(f"edakari.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'edakari' has no attribute {name!r}{_hint(name)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def _hint(name: str) -> str:
    from edakari.errors import nearest

    close = nearest(name, __all__)
    return f"; did you mean {close!r}?" if close else "; help(edakari) lists all names"


def __dir__() -> list[str]:
    return __all__
