"""What a runtime is: one that runs networks in this process, one that also times layers, or one on another device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import nn

from edakari.errors import MeasurementError

if TYPE_CHECKING:
    from edakari.export.int8 import Feeds, Quantizer
    from edakari.latency.layers import Layer
    from edakari.latency.timing import RunSettings, Timing

__all__ = [
    "Clock",
    "FileRuntime",
    "LayerRuntime",
    "LocalRuntime",
    "RemoteRuntime",
    "Runtime",
    "require_layers",
    "times_layers",
]


class Clock(Protocol):
    """Times one layer, call after call."""

    def run(self) -> None:
        """Call the layer once and time it."""

    def times(self) -> list[float]:
        """Time of each call, ms, in order; `run` must not be called afterwards."""


@runtime_checkable
class Runtime(Protocol):
    """A runtime for networks: a `LocalRuntime`, a `LayerRuntime` or a `RemoteRuntime`.

    A runtime that can quantise networks to int8 has "int8" in an attribute `precisions`, a tuple of texts.
    """

    @property
    def name(self) -> str:
        """Name in reports and tables."""

    def versions(self) -> Mapping[str, str]:
        """Versions of the packages that determine its times.

        Raises:
            MeasurementError: the runtime is not installed; says how to install it.
        """

    def check(self, settings: RunSettings) -> None:
        """Refuse settings with which it cannot run any network here.

        Raises:
            MeasurementError: the runtime is not installed, or lacks what the settings ask for; says what to do.
        """


@runtime_checkable
class LocalRuntime(Runtime, Protocol):
    """A runtime that runs networks in this process."""

    def prepare(self, model: nn.Module, example: Any, settings: RunSettings) -> Callable[[], float | None]:
        """Return a callable that runs the network once and returns when its outputs are ready.

        The callable returns the time that it took, in ms, if the runtime has a clock of its own, and otherwise None.

        Args:
            model: network to run, in evaluation mode.
            example: inputs of every call, [batch, ...]; or a tuple of positional arguments or a dict of keywords.
            settings: settings of the runtime.
        """


@runtime_checkable
class FileRuntime(Runtime, Protocol):
    """A runtime that runs ONNX files, such as those of networks that were quantised with calibration data."""

    @property
    def quantizer(self) -> Quantizer:
        """Function that quantises an ONNX file for it."""

    def opened(self, content: bytes, feeds: Feeds, settings: RunSettings) -> Callable[[], float | None]:
        """Return a callable that runs an ONNX file once; see `LocalRuntime.prepare`.

        Args:
            content: content of the file.
            feeds: inputs of every call by name.
            settings: settings of the runtime.
        """


@runtime_checkable
class LayerRuntime(LocalRuntime, Protocol):
    """A runtime that can also time single layers, so that the latency of any sub-network can be predicted.

    A runtime without these two members can only time whole networks. The closed loop alone then meets a latency budget,
    and measures more networks.
    """

    @property
    def kernels_only(self) -> bool:
        """Whether its clocks time kernels only, without the time that the runtime spends between them."""

    def clock(self, layer: Layer, widths: tuple[int, ...], settings: RunSettings) -> Clock:
        """Return a clock for one layer at given widths, with weights of its own.

        Args:
            layer: layer to time.
            widths: one width for each of the layer's axes.
            settings: settings of the runtime.
        """


@runtime_checkable
class RemoteRuntime(Runtime, Protocol):
    """A runtime on another device, which is asked for many times at once."""

    @property
    def kernels_only(self) -> bool:
        """See `LayerRuntime`."""

    @property
    def layers(self) -> bool:
        """Whether it can time single layers."""

    def hardware(self) -> Mapping[str, str]:
        """Describe the device.

        Raises:
            MeasurementError: the device does not answer.
        """

    def time_networks(
        self, networks: Mapping[str, nn.Module], example: Any, settings: RunSettings, repeats: int, tolerance: float
    ) -> dict[str, Timing]:
        """Time networks alternately; for the arguments see `measure`.

        Raises:
            MeasurementError: the device does not answer, or a network does not run there.
        """

    def time_layers(
        self, points: Sequence[tuple[Layer, tuple[int, ...]]], settings: RunSettings, repeats: int
    ) -> Iterator[Mapping[tuple[Layer, tuple[int, ...]], Sequence[float]]]:
        """Yield the times of the calls of layers, ms, as they come.

        Args:
            points: layers with one width for each of their axes.
            settings: settings of the runtime.
            repeats: number of calls of each layer that count.

        Raises:
            MeasurementError: the device does not answer for all of them.
        """

    def layer_seconds(
        self, points: Sequence[tuple[Layer, tuple[int, ...]]], settings: RunSettings, repeats: int
    ) -> float:
        """Time some layers, and return how long that takes on the device, s; see `time_layers`."""


def times_layers(runtime: Runtime) -> bool:
    """Whether a runtime can time single layers."""
    return runtime.layers if isinstance(runtime, RemoteRuntime) else isinstance(runtime, LayerRuntime)


def require_layers(runtime: Runtime) -> LayerRuntime | RemoteRuntime:
    """Check that a runtime can time single layers, and return it.

    Raises:
        MeasurementError: the runtime only times whole networks.
    """
    if not times_layers(runtime) or not isinstance(runtime, LayerRuntime | RemoteRuntime):
        raise MeasurementError(
            f"the runtime {runtime.name!r} times whole networks only, so it has no table of layers to fill; give it "
            "`clock(layer, widths, settings)` and `kernels_only` to predict latencies, or set a latency budget, which "
            "is met by measuring whole networks"
        )
    return runtime
