"""Runtimes in which a network can be timed, one file each."""

from collections.abc import Mapping

from edakari.core.arguments import require
from edakari.errors import UnknownName
from edakari.latency.runtimes.onnx_runtime import OnnxRuntime
from edakari.latency.runtimes.openvino import OpenVino
from edakari.latency.runtimes.torch_compile import TorchCompile
from edakari.latency.runtimes.torch_eager import TorchEager
from edakari.latency.timing import Runtime

__all__ = ["RUNTIMES", "OnnxRuntime", "OpenVino", "TorchCompile", "TorchEager", "runtime_named"]

RUNTIMES: Mapping[str, Runtime] = {
    runtime.name: runtime for runtime in (TorchEager(), TorchCompile(), OnnxRuntime(), OpenVino())
}


def runtime_named(name: str) -> Runtime:
    """The runtime of a name.

    Raises:
        UnknownName: there is none; says the nearest.
    """
    require("runtime_named(name)", name=(name, str))
    if name not in RUNTIMES:
        raise UnknownName("runtime", name, RUNTIMES)
    return RUNTIMES[name]
