"""edakari prunes trained vision networks to a budget: multiply-accumulates, parameters, bytes or milliseconds.

    import edakari

    small = edakari.prune(model, example, "macs<=50%").model

Prune
    prune            a network that is there, with data or without, in memory or in a folder
    run              carries out a recipe, as `edakari prune recipe.yaml` does

Step by step
    trace            finds what can be pruned in a network, and what it costs
    criteria         say how much each channel matters: criteria.Magnitude().score(model, graph), Taylor, …
    allocate         spends a budget on the best channels and gives a plan
    apply            makes the smaller network of a plan
    simulate         the same network at full size, with masks in place of cuts
    recalibrate      takes batch-norm statistics anew from a few batches without labels
    reconstruct      refits the layers behind a cut to a few batches without labels
    fit              trains a network
    carry            lets your optimizer and averages of weights follow a cut, in the middle of your training
    measure_latency  measures layers, and predicts the latency of any sizes

What they take and give
    Budget           what the pruned network may cost: Budget.parse("macs<=50%, latency<=12ms")
    Groups           which groups may be sized, and to what: Groups(round_to=8, widths={"conv1": 32})
    Schedule         how long and how fast to train
    Task             data, loss and metrics: Task.of(example, train=…, val=…, loss=…, evaluate=…)
    Plan             what to remove, as data: plan.sizes(), plan.to_json(), plan.then(later)

Files and names
    save             writes a pruned network into a folder
    load             reads one
    build            makes a network of its name, such as "torchvision:resnet18"

More
    methods          pruning methods, each from a paper; `edakari methods` lists them
    register         makes a method of yours known by a name
    errors           everything that is raised on purpose; edakari.errors.EdakariError is the root
    testing          checks for methods, criteria, allocators and costs of yours

Each of them has its own `help`. The documentation in `docs` has tutorials and a reference.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edakari import criteria, errors, methods, testing
    from edakari.core.budget import Budget
    from edakari.core.choosing import Groups
    from edakari.core.method import register
    from edakari.core.plan import Plan
    from edakari.core.protocols import Schedule
    from edakari.graph import trace
    from edakari.latency.measuring import measure_latency
    from edakari.methods.allocation import allocate
    from edakari.pipeline import prune, run
    from edakari.surgery import apply, build, carry, load, reconstruct, save, simulate
    from edakari.tasks.own import Task
    from edakari.train import fit, recalibrate

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Groups",
    "Plan",
    "Schedule",
    "Task",
    "__version__",
    "allocate",
    "apply",
    "build",
    "carry",
    "criteria",
    "errors",
    "fit",
    "load",
    "measure_latency",
    "methods",
    "prune",
    "recalibrate",
    "reconstruct",
    "register",
    "run",
    "save",
    "simulate",
    "testing",
    "trace",
]

_PACKAGES = ("criteria", "errors", "methods", "testing")
_HOMES = {
    "Budget": "edakari.core.budget",
    "Groups": "edakari.core.choosing",
    "Plan": "edakari.core.plan",
    "Schedule": "edakari.core.protocols",
    "Task": "edakari.tasks.own",
    "allocate": "edakari.methods.allocation",
    "apply": "edakari.surgery",
    "build": "edakari.surgery",
    "carry": "edakari.surgery",
    "fit": "edakari.train",
    "load": "edakari.surgery",
    "measure_latency": "edakari.latency.measuring",
    "prune": "edakari.pipeline",
    "recalibrate": "edakari.train",
    "reconstruct": "edakari.surgery",
    "register": "edakari.core.method",
    "run": "edakari.pipeline",
    "save": "edakari.surgery",
    "simulate": "edakari.surgery",
    "trace": "edakari.graph",
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and `edakari --help` does not need it
    if name in _PACKAGES:
        return importlib.import_module(f"edakari.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'edakari' has no attribute {name!r}{_meant(name)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def _meant(name: str) -> str:
    from edakari.errors import nearest

    close = nearest(name, __all__)
    return f"; did you mean {close!r}?" if close else "; help(edakari) lists what there is"


def __dir__() -> list[str]:
    return __all__
