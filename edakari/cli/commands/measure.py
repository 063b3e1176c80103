"""`edakari measure`: measures latencies of networks, and how well they can be predicted."""

from __future__ import annotations

import dataclasses as dc
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edakari.cli.console import Trust, guarded, print_json, show
from edakari.core.steady import STEADY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from torch import nn

    from edakari.latency.timing import Runtime
    from edakari.pipeline.settings import MeasureSettings

__all__ = ["measure"]


@guarded
def measure(  # noqa: PLR0913 - one for each option
    network: Annotated[
        str,
        typer.Argument(help="Run folder that `edakari prune` made, or a network such as timm:resnet50."),
    ],
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            "--runtime",
            help="torch, torch_compile, onnxruntime or openvino; may be repeated. "
            "Default: torch and onnxruntime; with --calibrate, onnxruntime.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per call.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 lets the runtime choose.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Smallest number of timed calls.")] = 50,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Fill the latency table, and test its predictions on sub-networks."),
    ] = False,
    networks: Annotated[int, typer.Option(min=4, help="Number of random sub-networks for calibration.")] = 20,
    step: Annotated[int, typer.Option(min=1, help="Pruned widths are multiples of this number.")] = 8,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of latency tables. Default: EDAKARI_CACHE, or ~/.cache/edakari.")
    ] = None,
    spread: Annotated[
        float, typer.Option(help="Largest interquartile range of accepted timings, as a fraction of the median.")
    ] = STEADY,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Time the dense and the pruned network of a run alternately, or one network; a run's report is not changed."""
    from edakari.latency.runtimes import runtime_named

    chosen = tuple(runtime or (["onnxruntime"] if calibrate else ["torch", "onnxruntime"]))
    runtimes = [runtime_named(name) for name in chosen]
    _check_runnable(runtimes, threads)
    found, example = _networks(network, trust)
    if not calibrate:
        from edakari.pipeline.settings import MeasureSettings

        settings = MeasureSettings(runtimes=chosen, batch=batch, threads=threads, repeats=repeats)
        _time(network, found, example, settings, spread, as_json)
        return
    from edakari.cli.calibration import calibration, calibration_text
    from edakari.core.blank import repeated
    from edakari.latency.bench import Bench
    from edakari.latency.timing import RunSettings

    inputs = repeated(example, batch)
    model = next(iter(found.values()))
    results = {}
    for each in runtimes:
        bench = Bench(each, RunSettings(threads=threads), inputs, repeats, cache=cache)
        results[each.name] = calibration(model, bench, networks, step)
    if as_json:
        print_json({"network": network, "batch": batch, "threads": threads, "step": step, "runtimes": results})
    else:
        for name, result in results.items():
            show(calibration_text(name, result))


def _check_runnable(runtimes: Sequence[Runtime], threads: int) -> None:
    """Raise one error for all runtimes that cannot run here, before a network is read."""
    from edakari.errors import MeasurementError
    from edakari.latency.runnable import faults
    from edakari.latency.timing import RunSettings

    found = [fault for each in runtimes for fault in faults(each, RunSettings(threads=threads))]
    texts = dict.fromkeys(text if name == "runtime" else f"--{name} {text}" for name, text in found)
    if texts:
        raise MeasurementError("; ".join(texts))


def _networks(name: str, trust: bool) -> tuple[Mapping[str, nn.Module], torch.Tensor]:
    """Return the networks of a run folder, dense first, or one network by its name; and an input."""
    from edakari.models.zoo import sources_of

    # `build` explains a name without a source; anything else is a folder
    if Path(name).is_dir() or (":" not in name and not sources_of(name)):
        from edakari.pipeline.load import networks

        run = networks(name, trust_code=trust)
        return {"dense": run.dense, "pruned": run.pruned}, run.example
    from edakari.errors import ModelError
    from edakari.models import build, default_example

    model = build(name)
    example = default_example(name, model)
    if not hasattr(example, "shape"):
        raise ModelError(f"{name} takes {type(example).__name__} as its input, but only one tensor can be measured")
    return {"dense": model}, example


def _time(
    name: str,
    found: Mapping[str, nn.Module],
    example: torch.Tensor,
    settings: MeasureSettings,
    spread: float,
    as_json: bool,
) -> None:
    from edakari.cli.tables import timings_table
    from edakari.report.formatting import latency

    results = {runtime: _timed(found, example, runtime, settings, spread) for runtime in settings.runtimes}
    if as_json:
        print_json({"run" if "pruned" in found else "network": name, **dc.asdict(settings), "runtimes": results})
    elif "pruned" in found:
        show(timings_table(results))
    else:
        for runtime, timings in results.items():
            show(f"{runtime}: {latency(timings['dense'])}")


def _timed(
    found: Mapping[str, nn.Module], example: torch.Tensor, runtime: str, settings: MeasureSettings, spread: float
) -> dict[str, Any]:
    from edakari.core.blank import repeated
    from edakari.latency.bench import Bench
    from edakari.latency.runtimes import runtime_named
    from edakari.latency.timing import RunSettings

    inputs = repeated(example, settings.batch)
    how = RunSettings(threads=settings.threads, warmup=settings.warmup)
    bench = Bench(runtime_named(runtime), how, inputs, settings.repeats, spread)
    return {name: dc.asdict(timing) for name, timing in bench.steady(found, math.inf).items()}
