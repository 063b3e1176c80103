"""What scoring filters by feature discrimination costs, against plain inference over the same images.

    python benchmarks/rfc_overhead.py --output benchmarks/results/rfc_overhead.json
    python benchmarks/rfc_overhead.py --images 256 --batch 32 --top 64      # a short run

    python benchmarks/rfc_overhead.py --pairs 6      # a part of the 12,800 images

Time: each batch is run plainly and with scoring, in turns, the first one changing; CPU time of one thread. What comes
after the last batch, the histograms and scores, counts as scoring. With --pairs only so many batches are run, behind
small images that fill the rankings: merging costs what it does in the long run. Histograms and scores are those of full
rankings, and are added to the time that all images would take. Memory: the largest resident size of a process that runs
the same batches plainly, and of one that scores, `--repeats` of each in turns, until the rankings are full.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from records import write_record
from torch import nn

import edakari
from edakari.criteria import FeatureDiscrimination, ResponseSettings
from edakari.criteria.responses import collect_responses

CLASSES = 1000
SMALL = 32
"""Side of the images that fill rankings."""
Batch = tuple[torch.Tensor, torch.Tensor]


def batches(arguments: argparse.Namespace) -> Iterator[Batch]:
    images = arguments.pairs * arguments.batch if arguments.pairs else arguments.images
    return random_batches(images, arguments.batch, arguments.size)


def filling(arguments: argparse.Namespace) -> Iterator[Batch]:
    """Small images, so many that rankings are full; none where all images are run."""
    return random_batches(arguments.top if arguments.pairs else 0, arguments.batch, SMALL, seed=1 << 20)


def random_batches(images: int, batch: int, size: int, seed: int = 0) -> Iterator[Batch]:
    for first in range(0, images, batch):
        count = min(batch, images - first)
        generator = torch.Generator().manual_seed(seed + first)
        pixels = torch.randn(count, 3, size, size, generator=generator)
        yield pixels, torch.randint(0, CLASSES, (count,), generator=generator)


def criterion(arguments: argparse.Namespace) -> FeatureDiscrimination:
    return FeatureDiscrimination(response_settings=ResponseSettings(images=arguments.images, top=arguments.top))


def plain(model: nn.Module, batch: Batch) -> float:
    start = time.process_time()
    with torch.no_grad():
        model(batch[0])
    return time.process_time() - start


def timed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Each batch both ways; what scoring takes is the time from one batch that it asks for to the next."""
    model = edakari.build(arguments.model)
    other = copy.deepcopy(model)
    graph = edakari.trace(model, torch.zeros(1, 3, arguments.size, arguments.size))
    how = criterion(arguments)
    every = arguments.pairs or -(-arguments.images // arguments.batch)
    without: list[float] = []
    scoring: list[float] = []
    begun = 0.0
    plain(other, next(batches(arguments)))

    def in_turns() -> Iterator[Batch]:
        nonlocal begun
        yield from filling(arguments)
        for turn, batch in enumerate(batches(arguments)):
            # every other batch is run plainly behind its scoring, but the last, after which nothing is asked for
            first = turn % 2 == 0 or turn == every - 1
            if first:
                without.append(plain(other, batch))
            begun = time.process_time()
            yield batch
            scoring.append(time.process_time() - begun)
            if not first:
                without.append(plain(other, batch))

    responses = collect_responses(model, graph, in_turns(), None, how.response_settings)
    if len(scoring) < every:  # behind the last of all images nothing is asked for
        scoring.append(time.process_time() - begun)
    start = time.process_time()
    how.scores(model, graph, responses)
    last = time.process_time() - start
    ratios = sorted(each / alone for each, alone in zip(scoring, without, strict=True))
    seen = arguments.pairs * arguments.batch if arguments.pairs else arguments.images
    more = arguments.images / seen
    return {
        "filters": sum(graph[group].size for _, group in responses.strongest),
        "images": seen,
        "plain_s": sum(without),
        "batches_s": sum(scoring),
        "ratio_batches": sum(scoring) / sum(without),
        "ratio": (more * sum(scoring) + last) / (more * sum(without)),
        "ratio_median": ratios[len(ratios) // 2],
        "ratio_quartiles": [ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]],
        "scores_s": last,
        "pairs": len(ratios),
    }


def resident(arguments: argparse.Namespace) -> float:
    """Largest resident size of this process, MB, after running plainly or with scoring."""
    model = edakari.build(arguments.model)
    if arguments.child == "scoring":
        graph = edakari.trace(model, torch.zeros(1, 3, arguments.size, arguments.size))
        criterion(arguments).score(model, graph, itertools.chain(filling(arguments), batches(arguments)), None)
    else:
        edakari.trace(model, torch.zeros(1, 3, arguments.size, arguments.size))
        for batch in itertools.chain(filling(arguments), batches(arguments)):
            plain(model, batch)
    # what getrusage tells begins with the largest size of the process that started this one
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, list[float]] = {"plain": [], "scoring": []}
    # the ranking is full once `top` images have come; more of them take no more memory
    pairs = min(arguments.pairs, 1)
    images = arguments.images if pairs else min(arguments.images, arguments.top + 2 * arguments.batch)
    for _ in range(arguments.repeats):
        for child in found:
            given = {"images": images, "pairs": pairs}
            given |= {key: getattr(arguments, key) for key in ("top", "batch", "size", "model")}
            command = [sys.executable, __file__, "--child", child]
            command += [part for key, value in given.items() for part in (f"--{key}", str(value))]
            found[child].append(float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))
    extra = [scoring - alone for scoring, alone in zip(found["scoring"], found["plain"], strict=True)]
    return {"pairs": pairs, "resident_mb": found, "above_mb": sorted(extra)[len(extra) // 2]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="torchvision:resnet50")
    parser.add_argument("--images", type=int, default=12800)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--top", type=int, default=640)
    parser.add_argument("--pairs", type=int, default=0, help="batches that are run; 0 is all")
    parser.add_argument("--only", choices=("time", "memory"), help="this part; the output keeps the other as it is")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind, for the memory")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--child", choices=("plain", "scoring"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.child:
        print(resident(arguments))
        return
    known = arguments.output and arguments.output.is_file()
    result = json.loads(arguments.output.read_text()) if known and arguments.only else {}
    environment = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": 1,
    }
    settings = {key: getattr(arguments, key) for key in ("model", "images", "batch", "size", "top")}
    for name, part in (("time", timed), ("memory", memory)):
        if arguments.only in (None, name):
            result[name] = {"environment": environment, "settings": settings, **part(arguments)}
    print(json.dumps(result, indent=2))
    if arguments.output:
        write_record(arguments.output, result)


if __name__ == "__main__":
    main()
