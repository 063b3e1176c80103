"""Runtimes in which a network can be timed, one file each; a runtime is imported when it is used."""

from edakari.core.arguments import require
from edakari.core.registry import Registry
from edakari.latency.timing import Runtime

__all__ = ["RUNTIMES", "runtime_named"]

RUNTIMES: Registry[type[Runtime]] = Registry(
    "runtime",
    "edakari.runtimes",
    {
        "torch": "edakari.latency.runtimes.torch_eager:TorchEager",
        "torch_compile": "edakari.latency.runtimes.torch_compile:TorchCompile",
        "onnxruntime": "edakari.latency.runtimes.onnx_runtime:OnnxRuntime",
        "openvino": "edakari.latency.runtimes.openvino:OpenVino",
    },
    members=("name", "versions", "check", "prepare"),
)
"""Constructor of each runtime by name: a class, or any callable without arguments."""


def runtime_named(name: str) -> Runtime:
    """Create the runtime of this name.

    Raises:
        UnknownName: there is no such runtime; the message names the nearest one.
    """
    require("runtime_named(name)", name=(name, str))
    runtime = RUNTIMES.named(name)()
    RUNTIMES.require(runtime, name)
    return runtime
