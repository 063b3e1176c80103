"""The settings of the latencies of a budget: one without a name, or several with a name each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge

from edakari.core.budget import LATENCY, Budget
from edakari.core.settings import Count, Positive, Whole, settings
from edakari.core.steady import STEADY
from edakari.errors import SettingsError, nearest
from edakari.latency.calibrate import FEWEST
from edakari.latency.options import RuntimeOptions
from edakari.latency.runtimes import RUNTIMES
from edakari.latency.timing import WARMUP, Calls

__all__ = ["Latencies", "LatencySettings", "by_cost", "key_of", "matched", "unmatched"]


@settings
class LatencySettings(RuntimeOptions):
    """The runtime in which the budget's latency must be met, and how it is measured.

    Args:
        runtime: runtime that will serve the network: "onnxruntime", "torch", "torch_compile", "openvino", or on another
            device "command" or "carry".
        batch: number of images per call.
        threads: CPU threads of one call; 0 leaves the choice to the runtime.
        precision: "fp32", "bf16", "fp16" or "int8", in runtimes that offer a choice; "int8" quantises networks as
            `quantize` says, and meets the budget with the quantised network.
        memory_format: "contiguous" or "channels_last", in runtimes that offer a choice.
        device: device on which networks are timed: "cpu" or "cuda".
        warmup: number of calls that are not timed.
        repeats: least number of timed calls of a whole network; more are made until the time is known within 0.4 %.
        networks: number of networks that are timed to fit the predictions, unless an earlier run has done so.
        spread: largest accepted interquartile range, as a fraction of the median.
        calls: how calls of a network follow each other where its latency is measured: "steady" calls it again at once;
            "cold" flushes the caches before each call; "stream" has other work run before each call.
        layers: whether layers are timed, where the runtime can do it; False meets the budget by timing whole networks
            alone.
        cache: folder of latency tables; None selects `EDAKARI_CACHE`, or `~/.cache/edakari`.
    """

    runtime: Annotated[str, RUNTIMES] = "onnxruntime"
    batch: Count = 1
    threads: Whole = 1
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    device: Literal["cpu", "cuda"] = "cpu"
    warmup: Whole = WARMUP
    repeats: Count = 100
    networks: Annotated[int, Ge(FEWEST)] = 8
    spread: Positive = STEADY
    calls: Calls = "steady"
    layers: bool = True
    cache: str | None = None

    def __str__(self) -> str:
        device = f" on {self.device_name}" if self.device_name else ""
        threads = f"{self.threads or 'its own number of'} thread{'' if self.threads == 1 else 's'}"
        return f"{self.runtime}{device}, {self.precision}, batch {self.batch}, {threads}, {self.calls} calls"


Latencies = LatencySettings | Mapping[str, LatencySettings]
"""Settings of the only latency, or those of several by their names: "pi" is the name of `latency@pi`."""


def key_of(cost: str) -> str:
    """Return the key of a latency's settings in a recipe: `latency`, or `latency.pi` for `latency@pi`.

    Args:
        cost: name of the latency in the budget.
    """
    return cost.replace("@", ".", 1)


def by_cost(latency: Latencies | None) -> dict[str, LatencySettings]:
    """Return settings by the names of the latencies in the budget.

    Args:
        latency: settings of the latencies that the budget has; None if it has none.
    """
    if latency is None:
        return {}
    if isinstance(latency, LatencySettings):
        return {LATENCY: latency}
    return {f"{LATENCY}@{name}": each for name, each in latency.items()}


def matched(budget: Budget, latency: Any) -> Latencies | None:
    """Return the settings of the latencies in a budget, in the budget's order; None if it has none.

    Args:
        budget: budget.
        latency: settings of one latency, or those of several by their names; None takes the defaults of one.

    Raises:
        SettingsError: a latency has no settings, or settings have no latency.
    """
    names = latency if isinstance(latency, Mapping) else None
    if names is not None and (wrong := [name for name, each in names.items() if not isinstance(each, LatencySettings)]):
        raise SettingsError(f"latency: {wrong[0]!r} is no LatencySettings, found {names[wrong[0]]!r}")
    for key, text in unmatched(budget, names).items():
        raise SettingsError(f"{key}: {text}")
    if names is not None:
        return {term.cost.partition("@")[2]: names[term.cost.partition("@")[2]] for term in budget.latencies}
    return (latency or LatencySettings()) if budget.latencies else None


def unmatched(budget: Budget, names: Iterable[str] | None) -> dict[str, str]:
    """Return what is wrong with the names of latencies: a text by the key in a recipe.

    Args:
        budget: budget.
        names: names of the settings; None if there are no settings, or those of one latency without a name.
    """
    terms = [term.cost for term in budget.latencies]
    found: dict[str, str] = {}
    if names is None:
        named = [cost for cost in terms if cost != LATENCY]
        if named:
            wanted = ", ".join(f"{cost.partition('@')[2]}: {{runtime: ...}}" for cost in named)
            found[LATENCY] = f"the budget names {', '.join(named)}; write settings of each: latency: {{{wanted}}}"
        return found
    given = {f"{LATENCY}@{name}": name for name in names}
    for cost in terms:
        if cost not in given:
            close = nearest(cost, given)
            known = f"did you mean {close!r} in the budget?" if close else f"settings: {', '.join(given.values())}"
            found[key_of(cost) if cost != LATENCY else LATENCY] = (
                f"the budget limits {cost}, which has no settings; {known}"
            )
    for cost in given:
        if cost not in terms:
            found.setdefault(
                key_of(cost), f"has settings, but the budget has no term {cost}; add '{cost}<=60%', or leave them out"
            )
    return found
