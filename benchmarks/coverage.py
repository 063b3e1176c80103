"""Which networks trace, prune and stay exact: edakari over whole model libraries, compared with its peers.

    python benchmarks/coverage.py timm torchvision transformers own --output benchmarks/results/coverage.json
    python benchmarks/coverage.py timm:resnet18 --peer torch-pruning
    python benchmarks/coverage.py timm-all --shapes --output benchmarks/results/coverage_timm.json
    python benchmarks/coverage.py --sample 150 --output benchmarks/results/coverage_sample.json

A run continues where an earlier one stopped; --again measures anew. Each network has a process of its own with a time
limit. It is traced and cut by random plans that keep 30 to 60 % of every group (every other plan also drops branches),
and compared in float64 with the masked dense network. A plan without edits is compared with the network itself on an
input that was not traced. With --shapes nothing has values: shapes alone are checked. --sample adds networks of timm
at random, other ones every day. tables.py writes the results into docs/results. The exit status is 1 if a network is
wrong or failed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import re
import statistics
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from core import environment
from coverage_page import GOOD, summary, verdict
from coverage_values import in_double, other_values, outputs_of, trains
from networks import SUITES, built, preload, sample, suite
from peers import PEERS
from records import write_record
from torch.utils._pytree import tree_map

LARGEST = 6e7
"""Parameters of a network that is still compared by values; of a larger one, all shapes are checked."""

KEEP, DROP = (0.3, 0.6), 0.3


def examined(name: str, plans: int, shapes: bool) -> dict[str, Any]:
    """What edakari does with a network.

    Args:
        name: of the network, `library:network`.
        plans: the number of random plans.
        shapes: whether only shapes are compared, without values.
    """
    import edakari
    from edakari.cost import COSTS, dense

    shadow, example = _without_data(name)
    example = tree_map(_on_cpu, example)
    start = time.process_time()
    graph = edakari.trace(shadow, example)
    found: dict[str, Any] = {"trace_s": time.process_time() - start, "device": graph.device}
    params, whole = COSTS["params"](graph), dense(graph)
    nothing = {group.name: 0 for group in graph.groups}
    found |= {
        "parameters": whole["params"],
        "groups": len(graph.groups),
        "branches": len(graph.branches),
        "prunable": 1 - params.total(nothing) / whole["params"],
        "unprunable": _reasons(graph),
        "unexplained": sum(not _explained(unprunable.reason) for unprunable in graph.unprunable),
    }
    if shapes or whole["params"] > LARGEST:
        return found | _by_shapes(shadow, graph, whole["macs"])
    return found | _by_values(name, example, plans, whole["macs"])


def _by_values(name: str, example: Any, plans: int, macs: float) -> dict[str, Any]:
    """Cut by random plans and compared with the masked network; without edits, compared with the network itself."""
    import edakari
    from edakari.core.plan import Plan
    from edakari.cost import COSTS
    from edakari.testing import difference, random_plan

    model, example, tolerance = in_double(name, example)
    graph = edakari.trace(model, example)
    with torch.no_grad():
        other, proposals = tree_map(other_values, example), list[Any]()
        same = edakari.apply(model, Plan((), graph.fingerprint, graph.inputs), graph)
        itself = difference(outputs_of(same, other, proposals), outputs_of(model, other, proposals))
    errors, seconds, shares, found = [itself], [], [], {"tolerance": tolerance}
    for seed in range(plans):
        plan = random_plan(graph, keep=KEEP, seed=seed, drop=DROP if seed % 2 else 0.0)
        start = time.process_time()
        small = edakari.apply(model, plan, graph)
        seconds.append(time.process_time() - start)
        if seed % 2 == 0:
            shares.append(COSTS["macs"](graph).total(plan.sizes()) / max(macs, 1))
        with torch.no_grad():
            proposals = []
            found_outputs = outputs_of(small, other, proposals)
            masked = outputs_of(edakari.simulate(model, plan, graph), other, proposals)
            errors.append(difference(found_outputs, masked))
        if seed == 0:
            found |= {"backward": trains(small, example, model), "reloads": _reloads(plan, model, small)}
    return found | {"apply_s": statistics.median(seconds), "macs": statistics.mean(shares), "error": max(errors)}


def _on_cpu(value: Any) -> Any:
    return torch.zeros_like(value, device="cpu") if isinstance(value, torch.Tensor) and value.is_meta else value


def _explained(reason: str) -> bool:
    """Whether the reason for a refusal says more than where it was."""
    return re.fullmatch(r"aten\.\S+ in (the network|\S+)", reason) is None


def _without_data(name: str) -> tuple[torch.nn.Module, Any]:
    """The network on meta tensors, and its example."""
    try:
        with torch.device("meta"):
            return built(name)
    except (NotImplementedError, RuntimeError, TypeError, ValueError):  # its constructor looks at values
        model, example = built(name)
        return model.to("meta"), example


def _by_shapes(shadow: torch.nn.Module, graph: Any, macs: float) -> dict[str, Any]:
    """Cut on meta by a random plan that drops branches too, where every shape is checked."""
    import edakari
    from edakari.cost import COSTS
    from edakari.testing import random_plan

    plan = random_plan(graph, keep=KEEP, drop=DROP)
    start = time.process_time()
    edakari.apply(shadow, plan, graph)
    share = COSTS["macs"](graph).total(plan.sizes()) / max(macs, 1)
    return {"apply_s": time.process_time() - start, "macs": share, "error": None}


def _reasons(graph: Any) -> dict[str, int]:
    """Positions that stay, by reason without its place."""
    found: dict[str, int] = {}
    for unprunable in graph.unprunable:
        reason = unprunable.reason.split(" in ")[0]
        found[reason] = found.get(reason, 0) + unprunable.size
    return dict(sorted(found.items(), key=lambda item: -item[1])[:5])


def _reloads(plan: Any, model: torch.nn.Module, small: torch.nn.Module) -> bool:
    import edakari

    again = edakari.apply(model, plan)
    again.load_state_dict(small.state_dict())
    return all(torch.equal(a, b) for a, b in zip(again.parameters(), small.parameters(), strict=True))


def _in_process(work: Callable[..., dict[str, Any]], name: str, limit: float, *options: Any) -> dict[str, Any]:
    """The result of some work in a process of its own, or how it ended."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, work, name, options))
    process.start()
    theirs.close()
    answer: dict[str, Any] = {"failed": f"no answer within {limit:.0f} s"}
    try:
        if ours.poll(limit):
            answer = ours.recv()
    except EOFError:
        answer = {"failed": "the process died"}
    process.kill()
    process.join()
    return answer


def _answer(pipe: Any, work: Callable[..., dict[str, Any]], name: str, options: tuple[Any, ...]) -> None:
    try:
        pipe.send(work(name, *options))
    except BaseException as error:
        pipe.send({"failed": f"{type(error).__name__}: {error}"[:600], "trace": traceback.format_exc()[-2500:]})


def line(name: str, entry: Mapping[str, Any]) -> str:
    """One network's results in a line."""
    found = entry["edakari"]
    if "failed" in found:
        return f"{name:45} failed   {found['failed'][:300]}"
    where = "" if found["device"] == "meta" else f"  on {found['device']}"
    error = "" if found["error"] is None else f"  error {found['error']:.0e}"
    peers = "".join(f"  {peer} {_share(other)}" for peer, other in entry.items() if peer in PEERS)
    return (
        f"{name:45} {verdict(found):8} {found['groups']:4} groups {found['branches']:3} branches  "
        f"{found['prunable']:6.1%} of the parameters  MACs {found['macs']:.2f}  trace {found['trace_s']:.2f} s  "
        f"apply {found['apply_s']:.2f} s{error}{where}{peers}"
    )


def _share(other: Mapping[str, Any]) -> str:
    return "failed" if "failed" in other else f"{other['prunable']:.1%}" if "prunable" in other else "captures"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"suites ({', '.join(SUITES)}) or single networks, source:name")
    parser.add_argument("--plans", type=int, default=2)
    parser.add_argument("--shapes", action="store_true", help="compare shapes alone, without values")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="N networks of timm at random")
    parser.add_argument("--seed", default=str(datetime.date.today()), help="of the sample; today's date if not given")
    parser.add_argument("--peer", action="append", default=[], choices=list(PEERS))
    parser.add_argument("--limit", type=float, default=300, help="seconds for a network")
    parser.add_argument("--peer-limit", type=float, default=60)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--again", action="store_true", help="measure anew what the output already holds")
    parser.add_argument("--verbose", action="store_true", help="print where failures come from")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    results: dict[str, Any] = {"networks": {}}
    if arguments.output and arguments.output.exists():
        results = json.loads(arguments.output.read_text())
    results["environment"] = environment(["python", *sys.argv])
    names = [full for name in arguments.names for full in (suite(name) if name in SUITES else [name])]
    names += sample(arguments.sample, arguments.seed)
    results |= {"seed": arguments.seed} if arguments.sample else {}
    preload(names)

    one_at_a_time = threading.Lock()

    def visit(name: str) -> None:
        entry = {} if arguments.again else dict(results["networks"].get(name, {}))
        if "edakari" not in entry:
            entry["edakari"] = _in_process(examined, name, arguments.limit, arguments.plans, arguments.shapes)
        for peer in arguments.peer:
            if peer not in entry:
                entry[peer] = _in_process(PEERS[peer], name, arguments.peer_limit)
        if arguments.verbose and "trace" in entry["edakari"]:
            print(entry["edakari"]["trace"])
        entry["edakari"].pop("trace", None)
        with one_at_a_time:
            results["networks"][name] = entry
            print(line(name, entry), flush=True)
            if arguments.output:
                write_record(arguments.output, results, indent=1)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(visit, names))
    print(summary(results))
    bad = [name for name in dict.fromkeys(names) if verdict(results["networks"][name]["edakari"]) not in GOOD]
    if bad:
        sys.exit(f"wrong or failed: {', '.join(bad)}")


if __name__ == "__main__":
    main()
