"""Settings that only some runtimes have: a provider, a command, graphs of a GPU."""

from __future__ import annotations

import dataclasses as dc
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from edakari.core.settings import Positive, settings
from edakari.errors import SettingsError

__all__ = ["RuntimeOptions", "taken_by", "unused_by"]


@settings
class RuntimeOptions:
    """Settings that only some runtimes have.

    Args:
        provider: execution provider of ONNX Runtime, here or on the device of a command: "cpu", "cuda", "tensorrt",
            "openvino", "coreml", "qnn", "xnnpack" or "directml", or a full name such as "CUDAExecutionProvider".
        provider_options: options of this provider, as ONNX Runtime's documentation names them.
        cuda_graphs: whether the runtimes "torch" and "torch_compile" record each network as a CUDA graph.
        command: command line of the runtime "command", such as "./on_pi.sh {folder}"; no shell runs it.
        folder: folder of the runtime "carry", in which a person finds what is to be timed, and puts the results.
        device_name: name of the device that a command or a person reaches; each device has tables of its own.
        timeout: largest time in which a command prints nothing, s.
    """

    provider: str = "cpu"
    provider_options: Mapping[str, Any] = dc.field(default_factory=dict)
    cuda_graphs: bool = False
    command: str | None = None
    folder: str | None = None
    device_name: str | None = None
    timeout: Positive = 600.0

    def __post_init__(self) -> None:
        plain = isinstance(self.provider_options, Mapping) and all(
            isinstance(key, str) and isinstance(value, str | int | float)
            for key, value in self.provider_options.items()
        )
        if not plain:
            raise SettingsError(
                f"{type(self).__name__}: provider_options must be names with texts or numbers, "
                f"found {self.provider_options!r}"
            )

    @property
    def programs(self) -> dict[str, str]:
        """What these options run: a command, and libraries of providers, by the text that names it."""
        found = {} if self.command is None else {self.command: "command that times networks"}
        texts = (str(value) for value in self.provider_options.values())
        return found | {text: "library of an execution provider" for text in texts if re.search(r"[/\\]|\.[a-z]", text)}


NAMES = tuple(field.name for field in dc.fields(RuntimeOptions))


def taken_by(make: Callable[..., Any], options: RuntimeOptions) -> dict[str, Any]:
    """Return the options that a constructor of a runtime takes, by the names of its parameters."""
    parameters = inspect.signature(make).parameters
    return {name: getattr(options, name) for name in NAMES if name in parameters}


def unused_by(make: Callable[..., Any], options: RuntimeOptions) -> list[str]:
    """Names of the options that are given, but that a constructor of a runtime does not take."""
    default = RuntimeOptions()
    given = [name for name in NAMES if getattr(options, name) != getattr(default, name)]
    return [name for name in given if name not in inspect.signature(make).parameters]
