"""Graph, scores, plan and cut against torch-pruning and torch-kirigami, in one run.

    python benchmarks/core.py --output benchmarks/results/core.json

CPU time of this process in seconds on one thread; every figure is the median over the repeats. The dense network and
its weights are built anew for each repeat and are not timed. MACs are counted by torch's own counter before and after,
so that the budgets met are compared by the same ruler.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib
import importlib.metadata
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from records import write_record
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    # imported when they are built: other benchmarks use this file too
    "resnet50": lambda: importlib.import_module("torchvision.models").resnet50(),
    "vit_base_patch16_224": lambda: importlib.import_module("timm").create_model("vit_base_patch16_224"),
    "densenet121": lambda: importlib.import_module("torchvision.models").densenet121(),
}
LIBRARIES = (
    *("transformers", "ultralytics", "monai", "segmentation_models_pytorch", "diffusers", "open_clip_torch"),
    *("vit-pytorch", "kornia", "spandrel"),
)
EXAMPLE = (1, 3, 224, 224)
KIRIGAMI_SECONDS = 60


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
    small = edakari.apply(model, plan)
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
        pruner = tp.pruner.MetaPruner(
            model,
            example,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            global_pruning=True,
            ignored_layers=classifier,
            num_heads=heads,
        )
        pruner.step()
        for module in model.modules():
            if hasattr(module, "qkv") and hasattr(module, "head_dim"):
                module.num_heads = pruner.num_heads[module.qkv]
                module.head_dim = module.qkv.out_features // (3 * module.num_heads)
                module.attn_dim = module.qkv.out_features // 3
        return model, {"total": time.process_time() - start}

    return run


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


def measure(build: Callable[[], nn.Module], run: Callable[[nn.Module], Any], repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    dense = build().eval()
    stages: dict[str, list[float]] = {}
    for _ in range(repeats + 1):
        model = copy.deepcopy(dense)
        gc.collect()
        small, seconds = run(model)
        for name, value in seconds.items():
            stages.setdefault(name, []).append(value)
    with torch.no_grad():
        output = small.eval()(torch.zeros(EXAMPLE))
    return {
        "cpu_s": {name: statistics.median(values[1:]) for name, values in stages.items()},
        "cpu_s_spread": {name: [min(values[1:]), max(values[1:])] for name, values in stages.items()},
        "macs_share": macs(small) / macs(dense),
        "outputs": list(output.shape),
    }


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


def trace_memory(name: str) -> float:
    """Peak resident memory in MB that tracing adds to a process which holds the network on meta tensors."""
    code = (
        "import sys, resource, torch; sys.path.insert(0, 'benchmarks'); import core, edakari;"
        "edakari.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2));"
        f"\nwith torch.device('meta'): m = core.NETWORKS[{name!r}]()\n"
        "a = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "edakari.trace(m, torch.zeros(core.EXAMPLE));"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - a) / 1024)"
    )
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


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
        entry: dict[str, Any] = {"edakari": measure(NETWORKS[name], ours, arguments.repeats)}
        entry["edakari"]["trace_added_mb"] = trace_memory(name)
        repeats = 1 if name == "densenet121" else arguments.repeats
        for ratio in (0.5, 0.7):
            label = f"torch-pruning, ratio {ratio}"
            try:
                entry[label] = measure(NETWORKS[name], torch_pruning(ratio), repeats)
            except (RuntimeError, ValueError, IndexError, ZeroDivisionError, AttributeError) as error:
                entry[label] = {"failed": f"{type(error).__name__}: {error}"[:300]}
        entry["torch-kirigami"] = kirigami(name)
        results["networks"][name] = entry
        show(name, entry)
    results["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if arguments.output:
        write_record(arguments.output, results)


def show(name: str, entry: dict[str, Any]) -> None:
    own = entry["edakari"]
    stages = ", ".join(f"{stage} {value:.3f}" for stage, value in own["cpu_s"].items())
    print(f"{name}: edakari {stages} s; MACs {own['macs_share']:.3f}; trace adds {own['trace_added_mb']:.0f} MB")
    for label, other in entry.items():
        if "macs_share" in other and label != "edakari":
            ratio = own["cpu_s"]["total"] / other["cpu_s"]["total"]
            print(
                f"  {label}: {other['cpu_s']['total']:.3f} s, MACs {other['macs_share']:.3f}; we take {ratio:.2f} of it"
            )
        elif label != "edakari":
            print(f"  {label}: {other}")


if __name__ == "__main__":
    main()
