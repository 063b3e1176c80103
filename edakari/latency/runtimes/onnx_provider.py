"""ONNX Runtime here with an execution provider other than the CPU's own."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import functools
import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from edakari.core.far_side.sessions import (
    MEMORY,
    PROVIDERS,
    How,
    Unusable,
    call_of,
    nodes_on_cpu,
    open_session,
    provider_name,
)
from edakari.core.optional import require_packages
from edakari.cost.example import mapped
from edakari.errors import EdakariWarning, MeasurementError
from edakari.export.int8 import Feeds, Quantizer, quantized, quantized_for_timing
from edakari.export.onnx_model import feeds
from edakari.export.sized_onnx import NetworkFiles
from edakari.latency.runtime_protocols import LocalRuntime
from edakari.latency.runtimes.onnx_runtime import PACKAGES, OnnxRuntime
from edakari.latency.timing import RunSettings

__all__ = ["OnnxProvider", "onnx_runtime"]

SHOWN = 5
"""Number of nodes that a note names."""


def onnx_runtime(provider: str = "cpu", provider_options: Mapping[str, Any] | None = None) -> LocalRuntime:
    """Return ONNX Runtime with an execution provider; for the arguments see `RuntimeOptions`."""
    if provider.lower() in ("cpu", PROVIDERS["cpu"].lower()) and not provider_options:
        return OnnxRuntime()
    return OnnxProvider(provider, dict(provider_options or {}))


@dc.dataclass(frozen=True)
class OnnxProvider:
    """ONNX Runtime with any execution provider; it times whole networks only, as profiles lack the times of kernels.

    Args:
        provider: a key of `edakari.core.far_side.sessions.PROVIDERS`, or a full name.
        options: options of the provider.
        precisions: precisions in which it can run networks.
        files: files of the networks that it was given.
    """

    provider: str
    options: Mapping[str, Any] = dc.field(default_factory=dict)
    precisions: tuple[str, ...] = ("fp32", "int8")
    files: NetworkFiles = dc.field(default_factory=NetworkFiles, compare=False, repr=False)

    @property
    def name(self) -> str:
        """See `Runtime.name`."""
        return f"onnxruntime-{self.provider}"

    def own_settings(self) -> dict[str, Any]:
        """Settings that determine its times, for the key of a table."""
        memory = MEMORY.get(self.provider.lower())
        gpu = {"accelerator": torch.cuda.get_device_name()} if memory == "cuda" and torch.cuda.is_available() else {}
        return {"provider": self.provider, "provider_options": dict(self.options), **gpu}

    def versions(self) -> Mapping[str, str]:
        """See `Runtime.versions`; the package of a provider may have another name than onnxruntime."""
        require_packages("onnx", f"the runtime {self.name}", *PACKAGES)
        return {name: str(importlib.import_module(name).__version__) for name in ("onnxruntime", "onnx")}

    def check(self, settings: RunSettings) -> None:
        """See `Runtime.check`."""
        require_packages("onnx", f"the runtime {self.name}", *PACKAGES)
        found = (settings.precision, settings.memory_format, settings.device)
        if found[0] not in self.precisions or found[1:] != ("contiguous", "cpu"):
            raise MeasurementError(
                f"{self.name} gets networks in fp32 or int8, and its provider says where they run, but was asked for "
                f"precision {found[0]!r}, memory format {found[1]!r}, device {found[2]!r}; leave these as they are"
            )
        with _told():
            provider_name(self.provider)

    @property
    def quantizer(self) -> Quantizer:
        """See `FileRuntime.quantizer`."""
        return functools.partial(quantized, provider=provider_name(self.provider))

    def opened(self, content: bytes, feeds: Feeds, settings: RunSettings) -> Callable[[], None]:
        """Return a callable that runs an ONNX file once; see `FileRuntime.opened`."""
        self.check(settings)
        how = How(settings.threads, self.provider, self.options)
        with _told():
            session = open_session(content, how)
        return call_of(session, {each.name: feeds[each.name] for each in session.get_inputs()}, how)

    def prepare(self, model: nn.Module, example: Any, settings: RunSettings) -> Callable[[], None]:
        """Return a callable that runs the network once; see `LocalRuntime.prepare`."""
        self.check(settings)
        how = How(settings.threads, self.provider, self.options)
        content, given = self.files.content(model, example), mapped(example, torch.Tensor.cpu)
        with _told():
            if settings.precision == "int8":
                content = quantized_for_timing(content, settings.exclude, provider_name(self.provider))
            session = open_session(content, how)
            feed = feeds(session, given)
            on_cpu = nodes_on_cpu(content, feed, how)
        if on_cpu:
            some = ", ".join(on_cpu[:SHOWN]) + (", …" if len(on_cpu) > SHOWN else "")
            warnings.warn(
                f"{len(on_cpu)} nodes run on the CPU instead of {self.provider}: {some}", EdakariWarning, stacklevel=2
            )
        return call_of(session, feed, how)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Raise what cannot be run as an error of edakari."""
    try:
        yield
    except Unusable as error:
        raise MeasurementError(str(error)) from error
