"""`edakari measure`: measures latencies of networks, and how well they can be predicted."""

from __future__ import annotations

import dataclasses as dc
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from edakari.cli.console import Trust, guarded, note, print_json, show
from edakari.core.steady import STEADY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from torch import nn

    from edakari.latency.timing import Runtime

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
            help="torch, torch_compile, onnxruntime, openvino, or command; may be repeated. "
            "Default: torch and onnxruntime; with --calibrate, onnxruntime.",
        ),
    ] = None,
    provider: Annotated[
        str, typer.Option(help="Execution provider of onnxruntime: cpu, cuda, tensorrt, openvino, coreml and others.")
    ] = "cpu",
    provider_option: Annotated[
        list[str] | None, typer.Option("--provider-option", help="Option of the provider: key=value; may be repeated.")
    ] = None,
    command: Annotated[
        str | None, typer.Option(help='Command that times a folder on another device: "./on_pi.sh {folder}".')
    ] = None,
    export_bench: Annotated[
        Path | None,
        typer.Option(
            help="Write what is to be timed into this folder, to be carried to another device; with results back in it "
            "the same command reads them."
        ),
    ] = None,
    device_name: Annotated[str | None, typer.Option(help="Name of the other device, such as pi4.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per call.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 lets the runtime choose.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Smallest number of timed calls.")] = 50,
    latencies: Annotated[
        bool,
        typer.Option("--latencies", help="Time a run's networks as each latency in its budget was measured."),
    ] = False,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Fill the latency table, and test its predictions on sub-networks."),
    ] = False,
    networks: Annotated[int, typer.Option(min=4, help="Number of networks to time for calibration.")] = 20,
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
    if latencies:
        _refuse_others(runtime, command, export_bench, calibrate)
        _time_latencies(network, trust, as_json)
        return
    from edakari.latency.options import RuntimeOptions
    from edakari.latency.remote.transport import WaitsForResults
    from edakari.latency.runtimes import runtimes_named

    away = "command" if command is not None else "carry" if export_bench is not None else None
    usual = [away] if away else ["onnxruntime"] if calibrate else ["torch", "onnxruntime"]
    options = RuntimeOptions(
        provider=provider,
        provider_options=_pairs(provider_option or ()),
        command=command,
        folder=None if export_bench is None else str(export_bench),
        device_name=device_name,
    )
    runtimes = runtimes_named(runtime or usual, options)
    _check_runnable(runtimes, threads)
    found, example = _networks(network, trust)
    try:
        if calibrate:
            _calibrate(network, found, example, runtimes, (batch, threads, repeats, networks, step), cache, as_json)
        else:
            _time(network, found, example, runtimes, (batch, threads, repeats), spread, as_json)
    except WaitsForResults as waiting:
        note(escape(str(waiting)))


def _refuse_others(*given: object) -> None:
    """Refuse options beside `--latencies`, which takes them from the recipe."""
    if any(given):
        raise typer.BadParameter(
            "--latencies takes runtimes from the run's recipe; leave --runtime, --command, --export-bench and "
            "--calibrate out"
        )


def _time_latencies(folder: str, trust: bool, as_json: bool) -> None:
    """Time the networks of a run for each latency in its budget."""
    from edakari.cli.tables import timings_table
    from edakari.errors import MeasurementError
    from edakari.pipeline.folder import RunFolder
    from edakari.pipeline.latency import time_latencies
    from edakari.pipeline.load import networks, recipe_of

    recipe = recipe_of(RunFolder(Path(folder)), trust_code=trust)
    if not recipe.latencies:
        raise MeasurementError(f"the budget of {folder}, '{recipe.budget}', has no latency; leave --latencies out")
    timings = time_latencies(recipe, networks(folder, trust_code=trust))
    found = {cost: {name: dc.asdict(each) for name, each in pair.items()} for cost, pair in timings.items()}
    if as_json:
        print_json({"run": folder, "latencies": found})
    else:
        show(timings_table({f"{cost}, {recipe.latencies[cost].runtime}": pair for cost, pair in found.items()}))


def _pairs(given: Sequence[str]) -> dict[str, str]:
    """Options as a mapping."""
    wrong = [each for each in given if "=" not in each]
    if wrong:
        raise typer.BadParameter(f"--provider-option takes key=value, found {wrong[0]!r}")
    return dict(each.split("=", 1) for each in given)


def _calibrate(
    network: str,
    found: Mapping[str, nn.Module],
    example: torch.Tensor,
    runtimes: Sequence[Runtime],
    numbers: tuple[int, int, int, int, int],
    cache: Path | None,
    as_json: bool,
) -> None:
    from edakari.cli.calibration import calibration, calibration_text
    from edakari.core.blank import repeated
    from edakari.latency.bench import Bench
    from edakari.latency.timing import RunSettings

    batch, threads, repeats, networks, step = numbers
    inputs, model, results = repeated(example, batch), next(iter(found.values())), {}
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
    runtimes: Sequence[Runtime],
    numbers: tuple[int, int, int],
    spread: float,
    as_json: bool,
) -> None:
    from edakari.cli.tables import timings_table
    from edakari.core.blank import repeated
    from edakari.latency.bench import Bench
    from edakari.latency.timing import RunSettings
    from edakari.report.formatting import latency

    batch, threads, repeats = numbers
    inputs, how, results = repeated(example, batch), RunSettings(threads=threads), {}
    for each in runtimes:
        timings = Bench(each, how, inputs, repeats, spread).steady(found, math.inf)
        results[each.name] = {network: dc.asdict(timing) for network, timing in timings.items()}
    if as_json:
        asked = {"batch": batch, "threads": threads, "warmup": how.warmup, "repeats": repeats}
        print_json({"run" if "pruned" in found else "network": name, **asked, "runtimes": results})
    elif "pruned" in found:
        show(timings_table(results))
    else:
        for runtime, timed in results.items():
            show(f"{runtime}: {latency(timed['dense'])}")
