"""The quantisation of a run: both networks in int8, their metrics and latencies beside those in fp32, and the file."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from edakari.core.file_errors import file_errors
from edakari.core.files import replacing
from edakari.core.finite import require_finite_figures
from edakari.errors import ExportError, RunFolderError
from edakari.export import served
from edakari.export.about import PLAIN, About
from edakari.export.check import ExportCheck
from edakari.export.int8 import QuantizeSettings
from edakari.export.node_modules import require_modules
from edakari.export.quantizing import Int8Network, judged, quantize_network, require_small_drop
from edakari.latency.runtime_protocols import FileRuntime
from edakari.latency.runtimes import runtime_named
from edakari.latency.runtimes.onnx_runtime import OnnxRuntime
from edakari.latency.timing import RunSettings, Timing, time_callables
from edakari.pipeline.context import RecipeSubject, Run
from edakari.pipeline.deployment import Network, about_run, write_model
from edakari.pipeline.folder import RunFolder
from edakari.pipeline.latency import batched
from edakari.pipeline.load import recipe_of
from edakari.pipeline.settings import LatencySettings, PruneSettings
from edakari.results import Corner, DenseResult, FinetuneResult, QuantizeResult

__all__ = ["check_quantizing", "quantize_run", "quantize_stage", "require_judge"]

FILE = "pruned.int8.onnx"
TOLERANCE = 0.004
"""Relative uncertainty of the timings at which they end."""


def check_quantizing(run: Run) -> None:
    """Check before anything is pruned that the settings of the quantisation fit the network and the task.

    Raises:
        SettingsError: a pattern in `quantize.exclude` matches no module.
    """
    if run.settings.quantize is not None:
        require_modules(run.dense, run.settings.quantize.exclude)


def require_judge(run: Run, metrics: Mapping[str, float]) -> None:
    """Check, after the dense network was judged, that a loss of the metric can be limited.

    Raises:
        ExportError: `quantize.max_drop` is set, but the task gives no metrics, or the network is a detector.
    """
    asked = run.settings.quantize
    if asked is None or asked.max_drop is None:
        return
    if not metrics or served(run.dense) is not run.dense:
        why = "the int8 file of a detector ends before its boxes" if metrics else "the task gives no metrics"
        raise ExportError(f"quantize.max_drop limits the loss of a metric, but {why}; leave it out")


def quantize_stage(run: Run) -> QuantizeResult:
    """Quantise the dense and the finished network, and judge and time them beside those in fp32.

    Raises:
        ExportError: an operator is refused, or the loss of the metric exceeds `quantize.max_drop`.
        DataError: there is too little calibration data.
    """
    settings = run.settings.quantize
    if settings is None:
        return QuantizeResult()
    how = _latency(run.settings)
    example, runtime = batched(run.task.example(), how.batch), _runtime(how)
    networks: dict[Network, nn.Module] = {"dense": run.dense, "pruned": run.network("finished")}
    about = {name: _about(run, name) for name in networks}
    made = run.processes.from_main(
        lambda: {
            name: quantize_network(model, example, run.task, settings, about=about[name], quantizer=runtime.quantizer)
            for name, model in networks.items()
        }
    )
    metrics = {
        name: _metrics(run, judged(made[name].int8, model, example, about[name])) for name, model in networks.items()
    }
    before = {"dense": run.store.result(DenseResult).metrics, "pruned": run.store.result(FinetuneResult).metrics}
    if settings.max_drop is not None:
        # the layers are searched in the main process only
        run.processes.from_main(
            lambda: require_small_drop(made["pruned"], settings, run.task.metric, before["pruned"], metrics["pruned"])
        )
    timings = run.processes.from_main(lambda: _timed(made, runtime, how))
    corners = tuple(
        Corner(network=name, precision=precision, metrics=judged_by[name], latency=timings[name, precision],
               bytes=len(getattr(made[name], precision)))
        for name in networks
        for precision, judged_by in (("fp32", before), ("int8", metrics))
    )  # fmt: skip
    return QuantizeResult(
        corners=corners,
        metric=run.task.metric if metrics["pruned"] else "",
        runtime=runtime.name,
        images=len(made["pruned"].inputs),
        file=_written(run, made["pruned"], about["pruned"]),
        difference=made["pruned"].difference,
        agreement=made["pruned"].agreement,
    )


@file_errors()
def quantize_run(
    folder: str | Path, settings: QuantizeSettings | None = None, *, trust_code: bool = False
) -> QuantizeResult:
    """Quantise the networks of a finished run to int8; the file and the result become a part of the run folder.

    Args:
        folder: run folder.
        settings: settings of the quantisation; None selects those of the run's recipe, or the defaults.
        trust_code: whether to run a Python file that the run's recipe names.

    Raises:
        RunFolderError: the folder is no run folder, or the run has no finished network yet.
        ExportError: an operator is refused, or the loss of the metric exceeds `settings.max_drop`.
        DataError: there is too little calibration data.
    """
    store = RunFolder(Path(folder))
    recipe = recipe_of(store, trust_code=trust_code)
    if not store.done("finetune"):
        raise RunFolderError(f"{folder} holds no finished network yet; run its recipe to the end with `edakari prune`")
    chosen = dc.replace(recipe, quantize=settings or recipe.quantize or QuantizeSettings())
    run = Run(chosen, RecipeSubject(chosen), store)
    check_quantizing(run)
    require_judge(run, store.result(DenseResult).metrics)
    result = quantize_stage(run)
    store.finish(result)
    return result


def _about(run: Run, network: Network) -> About:
    folder = run.store.exported
    return PLAIN if folder is None else about_run(RunFolder(folder.parent), network)


def _metrics(run: Run, network: nn.Module | None) -> dict[str, float]:
    """Metrics of a network in int8; empty for a detector, whose file ends before its boxes."""
    if network is None:
        return {}
    metrics = {str(name): float(value) for name, value in run.task.evaluate(network).items()}
    require_finite_figures(metrics, "the quantised network", "leave sensitive layers out by quantize.exclude")
    return metrics


def _latency(settings: PruneSettings) -> LatencySettings:
    """How networks are timed: as a latency in int8, or as the first one, or as `measure` says."""
    latencies, measure = list(settings.latencies.values()), settings.measure
    if latencies:
        return next((each for each in latencies if each.precision == "int8"), latencies[0])
    if measure is None:
        return LatencySettings()
    return LatencySettings(threads=measure.threads, warmup=measure.warmup, repeats=measure.repeats)


def _runtime(latency: LatencySettings) -> FileRuntime:
    """The runtime of a latency if it runs ONNX files in this process, and otherwise ONNX Runtime on the CPU."""
    found = runtime_named(latency.runtime, latency)
    return found if isinstance(found, FileRuntime) else OnnxRuntime()


def _timed(
    made: Mapping[Network, Int8Network], runtime: FileRuntime, how: LatencySettings
) -> dict[tuple[str, str], Timing]:
    """Time both networks in both precisions alternately."""
    calls = {}
    for name, network in made.items():
        for precision in ("fp32", "int8"):
            content = getattr(network, precision)
            calls[f"{name} {precision}"] = runtime.opened(content, network.inputs[0], RunSettings(threads=how.threads))
    timings = time_callables(calls, how.warmup, how.repeats, TOLERANCE)
    return {(name.partition(" ")[0], name.partition(" ")[2]): timing for name, timing in timings.items()}


def _written(run: Run, made: Int8Network, about: About) -> str:
    """Write the file of the finished network in int8 and name it in `model.json`.

    Returns:
        The file's path in the run folder; empty without a folder.
    """
    folder = run.store.exported
    if folder is None:
        return ""
    if run.processes.main:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / FILE) as temporary:
            temporary.write_bytes(made.int8)
        check = ExportCheck(folder / FILE, "onnx", None, None, len(made.int8))
        write_model(folder, about, {"pruned": check})
    return f"{folder.name}/{FILE}"
