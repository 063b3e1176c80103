"""Runtimes in which a network can be timed, one file each; a runtime is imported when it is used."""

from collections.abc import Callable, Sequence

from edakari.core.arguments import require
from edakari.core.registry import Registry
from edakari.errors import EdakariError, SettingsError
from edakari.latency.options import RuntimeOptions, taken_by, unused_by
from edakari.latency.timing import LocalRuntime, RemoteRuntime, Runtime

__all__ = ["RUNTIMES", "option_faults", "runtime_named", "runtimes_named"]

RUNTIMES: Registry[Callable[..., Runtime]] = Registry(
    "runtime",
    "edakari.runtimes",
    {
        "torch": "edakari.latency.runtimes.torch_eager:TorchEager",
        "torch_compile": "edakari.latency.runtimes.torch_compile:TorchCompile",
        "onnxruntime": "edakari.latency.runtimes.onnx_provider:onnx_runtime",
        "openvino": "edakari.latency.runtimes.openvino:OpenVino",
        "command": "edakari.latency.runtimes.command:command_runtime",
        "carry": "edakari.latency.runtimes.command:carry_runtime",
    },
    members=("name", "versions", "check"),
)
"""Constructor of each runtime by name: a class, or any callable, which gets those `RuntimeOptions` that are among its
parameters."""


def runtime_named(name: str, options: RuntimeOptions | None = None) -> Runtime:
    """Create the runtime of this name.

    Args:
        name: name of the runtime.
        options: settings that only some runtimes have; None selects their defaults.

    Raises:
        UnknownName: there is no such runtime; the message names the nearest one.
        SettingsError: an option is of another runtime.
    """
    require("runtime_named(name)", name=(name, str))
    given = options or RuntimeOptions()
    for option, text in option_faults(name, given).items():
        raise SettingsError(f"{option} {text}")
    make = RUNTIMES.named(name)
    runtime = make(**taken_by(make, given))
    RUNTIMES.require(runtime, name)
    if not isinstance(runtime, LocalRuntime | RemoteRuntime):
        raise EdakariError(f"{name!r} is not a valid runtime: it has no 'prepare'")
    return runtime


def option_faults(name: str, options: RuntimeOptions) -> dict[str, str]:
    """Find options that a runtime does not have: what is wrong, by the name of the option."""
    unused = unused_by(RUNTIMES.named(name), options)
    return dict.fromkeys(unused, f"is no setting of the runtime {name!r}; leave it out, or name another runtime")


def runtimes_named(names: Sequence[str], options: RuntimeOptions) -> list[Runtime]:
    """Create several runtimes; each gets the options that it has.

    Args:
        names: names of the runtimes.
        options: settings that only some runtimes have.

    Raises:
        UnknownName: there is no such runtime; the message names the nearest one.
        SettingsError: none of the runtimes has one of the options.
    """
    makers = {name: RUNTIMES.named(name) for name in names}
    unused = [set(unused_by(make, options)) for make in makers.values()]
    for option in sorted(set.intersection(*unused)):
        raise SettingsError(f"{option} is no setting of {' or '.join(map(repr, names))}; leave it out, or name another")
    return [runtime_named(name, RuntimeOptions(**taken_by(make, options))) for name, make in makers.items()]
