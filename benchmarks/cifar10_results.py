"""The results of cifar10.py: kept arm by arm, timed side by side, and printed."""

from __future__ import annotations

import contextlib
import copy
import fcntl
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cifar10_arms import ARMS, BUDGETS, PEERS
from core import environment
from records import write_record


def add_times(arms: Mapping[str, dict[str, Any]], work: Path, repeats: int) -> None:
    """The exported files of all arms beside the dense one, in turns with it, in plain ONNX Runtime."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1

    def session(path: object) -> Any:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    image = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype("float32")
    dense = session(next(work.glob("magnitude_*/export/dense.onnx")))
    for row in arms.values():
        if not (work / row["onnx"]).is_file():
            continue
        pruned, ratios = session(work / row["onnx"]), []
        name = pruned.get_inputs()[0].name
        for _ in range(repeats):
            times = []
            for each in (dense, pruned):
                start = time.perf_counter()
                each.run(None, {name: image})
                times.append(time.perf_counter() - start)
            ratios.append(times[1] / times[0])
        row["latency"] = statistics.median(ratios)


def table(results: Mapping[str, Any]) -> str:
    """Mean and standard deviation over the seeds of each arm."""
    lines = []
    for budget in BUDGETS:
        for arm in (*ARMS, *PEERS):
            rows = [row for row in results.values() if (row["arm"], row["budget"]) == (arm, budget)]
            if rows:
                tops = [100 * row["top1"] for row in rows]
                spread = statistics.stdev(tops) if len(tops) > 1 else float("nan")
                means = [statistics.mean(row.get(cost, float("nan")) for row in rows) for cost in ("macs", "latency")]
                lines.append(
                    f"{budget:14} {arm:26} {statistics.mean(tops):6.2f} ± {spread:4.2f}  (n={len(tops)})  "
                    f"MACs {means[0]:.3f}  latency {means[1]:.3f}"
                )
    return "\n".join(lines)


@contextlib.contextmanager
def kept(path: Path, settings: Mapping[str, Any], part: str = "arms") -> Iterator[dict[str, Any]]:
    """The arms, or the trials, that are there, for one process at a time; what changes is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = json.loads(path.read_text()) if path.is_file() else {"settings": settings, "arms": {}}
        if results["settings"] != settings:
            raise SystemExit(f"{path} holds arms of other settings: {results['settings']}")
        rows = copy.deepcopy(results.get(part, {}))
        yield rows
        if rows != results.get(part, {}):
            about = environment(["python", *sys.argv])
            write_record(path, {**results, "environment": about, "settings": settings, part: rows})
