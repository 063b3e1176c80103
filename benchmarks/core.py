"""Graph, scores, plan and cut against torch-pruning and torch-kirigami, in one run.

    python benchmarks/core.py --output benchmarks/results/core.json

CPU time of this process in seconds on one thread; every figure is the median over the repeats, and the least is stored
too. edakari and torch-pruning run alternately, and each starts with a warm-up. The dense network and its weights are
copied for each repeat, which is not timed. `apply` is handed the graph that the plan was made from, so the network is
traced once, and its trial pass is timed. torch-kirigami has an entry only if it is installed. MACs are counted
by torch's own counter before and after, so that the budgets met are compared by the same ruler.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import gc
import importlib
import importlib.metadata
import importlib.util
import platform
import resource
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from records import write_record
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

TORCHVISION = (
    *("resnet50", "densenet121", "resnext50_32x4d", "mobilenet_v2", "efficientnet_b0", "regnet_y_1_6gf"),
    *("convnext_tiny", "shufflenet_v2_x1_0", "swin_t"),
)
MAIN = ("resnet50", "vit_base_patch16_224", "densenet121")
TIMM = ("vit_base_patch16_224", "mixer_b16_224", "resnest50d")


def _of_torchvision(name: str) -> nn.Module:
    network: nn.Module = importlib.import_module("torchvision.models").get_model(name)
    return network


def _of_timm(name: str) -> nn.Module:
    network: nn.Module = importlib.import_module("timm").create_model(name)
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    # imported when they are built: other benchmarks use this file too
    **{name: functools.partial(_of_torchvision, name) for name in TORCHVISION},
    **{name: functools.partial(_of_timm, name) for name in TIMM},
}
LIBRARIES = (
    *("transformers", "ultralytics", "monai", "segmentation_models_pytorch", "diffusers", "open_clip_torch"),
    *("vit-pytorch", "kornia", "spandrel"),
)
EXAMPLE = (1, 3, 224, 224)
KIRIGAMI_SECONDS = 60
PRUNING_SECONDS = 60
SLOW_SECONDS = 3
"""CPU seconds after which one call of torch-pruning is stopped."""


class Stopped(BaseException):
    """A library took too long."""


@contextlib.contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Raise `Stopped` after so many CPU seconds."""

    def stop(*_: Any) -> None:
        raise Stopped

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def macs(model: nn.Module) -> float:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(EXAMPLE))
    torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() / 2


def ours(model: nn.Module) -> tuple[nn.Module, dict[str, float]]:
    import edakari
    from edakari.criteria import Magnitude

    clock = time.process_time
    start = clock()
    graph = edakari.trace(model, torch.zeros(EXAMPLE))
    traced = clock()
    scores = Magnitude(p=2).score(model, graph, (), None)
    scored = clock()
    plan = edakari.allocate(graph, scores, edakari.Budget.parse("macs<=50%"))
    allocated = clock()
    small = edakari.apply(model, plan, graph)
    end = clock()
    stages = {
        "trace": traced - start,
        "score": scored - traced,
        "allocate": allocated - scored,
        "apply": end - allocated,
    }
    return small, {**stages, "total": end - start}


def torch_pruning(ratio: float) -> Callable[[nn.Module], tuple[nn.Module, dict[str, float]]]:
    def run(model: nn.Module) -> tuple[nn.Module, dict[str, float]]:
        import torch_pruning as tp

        example = torch.zeros(EXAMPLE)
        classifier = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]
        heads = {m.qkv: m.num_heads for m in model.modules() if hasattr(m, "qkv")}
        start = time.process_time()
        with stopped_after(PRUNING_SECONDS):
            pruner = pruned(tp, model, example, ratio, classifier, heads)
        for module in model.modules():
            if hasattr(module, "qkv") and hasattr(module, "head_dim"):
                module.num_heads = pruner.num_heads[module.qkv]
                module.head_dim = module.qkv.out_features // (3 * module.num_heads)
                module.attn_dim = module.qkv.out_features // 3
        return model, {"total": time.process_time() - start}

    return run


def pruned(
    tp: Any, model: nn.Module, example: torch.Tensor, ratio: float, ignored: list[nn.Module], heads: dict[Any, int]
) -> Any:
    pruner = tp.pruner.MetaPruner(
        model,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        global_pruning=True,
        ignored_layers=ignored,
        num_heads=heads,
    )
    pruner.step()
    return pruner


def kirigami(name: str) -> dict[str, Any]:
    """torch-kirigami's own automatic planning, in a process of its own that is stopped after a minute."""
    code = f"""
import sys, time
sys.path.insert(0, "benchmarks")
import core, torch
from torch_kirigami import DependencyGraph
from torch_kirigami.pruning import Greedy, GroupMagnitude, ParameterBudget, Pruner
torch.set_num_threads(1)
model = core.NETWORKS[{name!r}]().eval()
start = time.process_time()
graph = DependencyGraph.build(model, args=(torch.zeros(core.EXAMPLE),))
print("graph", time.process_time() - start, flush=True)
pruner = Pruner(model, graph=graph)
candidates = pruner.discover_candidates()
half = sum(p.numel() for p in model.parameters()) // 2
pruner.prune(candidates, budget=ParameterBudget(max_params=half), strategy=Greedy(GroupMagnitude(p=2)))
print("total", time.process_time() - start)
"""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=KIRIGAMI_SECONDS)
    except subprocess.TimeoutExpired as error:
        return {"ended": False, "limit_s": KIRIGAMI_SECONDS, "cpu_s": seconds((error.stdout or b"").decode())}
    return {"ended": done.returncode == 0, "cpu_s": seconds(done.stdout), "error": done.stderr[-300:]}


def seconds(lines: str) -> dict[str, float]:
    return {name: float(value) for name, value in (line.split() for line in lines.splitlines())}


def measure(
    build: Callable[[], nn.Module], runs: dict[str, Callable[[nn.Module], Any]], repeats: int
) -> dict[str, dict[str, Any]]:
    """Run libraries alternately on copies of a network; one whose first call takes seconds has no further calls."""
    torch.manual_seed(0)
    dense = build().eval()
    rounds: dict[str, list[dict[str, float]]] = {label: [] for label in runs}
    found: dict[str, dict[str, Any]] = {}
    for _ in range(repeats + 1):
        for label, run in runs.items():
            if "failed" in found.get(label, {}) or (rounds[label] and rounds[label][0]["total"] > SLOW_SECONDS):
                continue
            try:
                small, seconds = run(copy.deepcopy(dense))
            except Stopped:
                found[label] = {"failed": f"did not end within {PRUNING_SECONDS} s of CPU time"}
                continue
            except (RuntimeError, ValueError, IndexError, ZeroDivisionError, AttributeError, TypeError) as error:
                found[label] = {"failed": f"{type(error).__name__}: {error}"[:300]}
                continue
            rounds[label].append(seconds)
            if label not in found:
                found[label] = after(dense, small)
            del small
            gc.collect()
    return {label: entry if "failed" in entry else {**times(rounds[label]), **entry} for label, entry in found.items()}


def times(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Medians and spreads of each stage; the first round is a warm-up if there are others."""
    counted = rounds[1:] or rounds
    values = {stage: [each[stage] for each in counted] for stage in counted[0]}
    return {
        "cpu_s": {stage: statistics.median(each) for stage, each in values.items()},
        "cpu_s_spread": {stage: [min(each), max(each)] for stage, each in values.items()},
    }


def after(dense: nn.Module, small: nn.Module) -> dict[str, Any]:
    try:
        with torch.no_grad():
            output = small.eval()(torch.zeros(EXAMPLE))
    except RuntimeError as error:
        return {"failed": f"the pruned network does not run: {error}"[:300]}
    return {"macs_share": macs(small) / macs(dense), "outputs": list(output.shape)}


def environment(command: list[str]) -> dict[str, Any]:
    packages = ("torch", "torchvision", "timm", "torch-pruning", "torch-kirigami", *LIBRARIES)
    installed = {found.metadata["Name"]: found.version for found in importlib.metadata.distributions()}
    return {
        "command": " ".join(command),
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.machine(),
        "processor": processor(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "versions": {name: installed[name] for name in packages if name in installed},
        "seed": 0,
    }


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def trace_memory(name: str) -> float | None:
    """Peak resident memory in MB that tracing adds to a process which holds the network on meta tensors.

    None for networks that cannot be built there, such as RegNets.
    """
    code = (
        "import sys, resource, torch; sys.path.insert(0, 'benchmarks'); import core, edakari;"
        "edakari.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2));"
        f"\ntry:\n with torch.device('meta'): m = core.NETWORKS[{name!r}]()\n"
        "except NotImplementedError: sys.exit()\n"
        "a = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "edakari.trace(m, torch.zeros(core.EXAMPLE));"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - a) / 1024)"
    )
    told = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout
    return float(told) if told else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    results: dict[str, Any] = {"environment": environment(["python", *sys.argv]), "networks": {}}
    for name in arguments.networks:
        runs = {"edakari": ours, **{f"torch-pruning, ratio {ratio}": torch_pruning(ratio) for ratio in (0.5, 0.7)}}
        entry = measure(NETWORKS[name], runs, arguments.repeats)
        entry["edakari"]["trace_added_mb"] = trace_memory(name)
        if importlib.util.find_spec("torch_kirigami"):
            entry["torch-kirigami"] = kirigami(name)
        results["networks"][name] = entry
        show(name, entry)
        results["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if arguments.output:
            write_record(arguments.output, results)


def show(name: str, entry: dict[str, Any]) -> None:
    own = entry["edakari"]
    stages = ", ".join(f"{stage} {value:.3f}" for stage, value in own["cpu_s"].items())
    print(f"{name}: edakari {stages} s; MACs {own['macs_share']:.3f}; trace adds {own['trace_added_mb']} MB")
    for label, other in entry.items():
        if "macs_share" in other and label != "edakari":
            ratio = own["cpu_s_spread"]["total"][0] / other["cpu_s_spread"]["total"][0]
            print(
                f"  {label}: {other['cpu_s']['total']:.3f} s, MACs {other['macs_share']:.3f}; "
                f"of its least time we take {ratio:.2f}",
                flush=True,
            )
        elif label != "edakari":
            print(f"  {label}: {other}")


if __name__ == "__main__":
    main()
