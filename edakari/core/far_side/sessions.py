"""Sessions of ONNX Runtime with any execution provider, and the times of their nodes."""

from __future__ import annotations

import collections
import importlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from edakari.core.far_side.loops import Call

__all__ = [
    "CONSUMER",
    "MEMORY",
    "PRODUCERS",
    "PROVIDERS",
    "How",
    "KernelClock",
    "Unusable",
    "bound",
    "call_of",
    "nodes_on_cpu",
    "open_session",
    "provider_name",
    "session_options",
    "timed_part",
]

PRODUCERS, CONSUMER = ("producer", "shortcut"), "consumer"
"""Names of the nodes that give a layer's model its surroundings."""

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "directml": "DmlExecutionProvider",
}
MEMORY = {"cuda": "cuda", "tensorrt": "cuda", "directml": "dml"}
"""Device memory of the providers that have their own."""


class How(NamedTuple):
    """How ONNX Runtime runs a model.

    Args:
        threads: CPU threads of one call; 0 lets ONNX Runtime choose.
        provider: execution provider, by a key of `PROVIDERS` or by its full name.
        options: options of the provider.
    """

    threads: int = 1
    provider: str = "cpu"
    options: Mapping[str, Any] = {}


class Unusable(Exception):
    """What is asked for cannot be timed here; the message says why, and what to do."""


def provider_name(name: str) -> str:
    """Full name of an execution provider.

    Args:
        name: a key of `PROVIDERS`, or a full name.

    Raises:
        Unusable: there is no such provider here; the message says which there are.
    """
    runtime = importlib.import_module("onnxruntime")
    full = PROVIDERS.get(name.lower(), name)
    there = list(runtime.get_available_providers())
    if full not in there:
        short = {value: key for key, value in PROVIDERS.items()}
        known = ", ".join(short.get(each, each) for each in there)
        raise Unusable(
            f"onnxruntime {runtime.__version__} has no execution provider {name!r} here; it has {known}. Install the "
            "package of onnxruntime that brings it, or choose one of these"
        )
    return full


def session_options(how: How, profile: str = "") -> tuple[Any, list[Any]]:
    """Options of a session, and its providers in order of preference.

    Args:
        how: threads and provider.
        profile: prefix of the path for a profile with the time of each node; empty writes none.

    Raises:
        Unusable: see `provider_name`.
    """
    runtime = importlib.import_module("onnxruntime")
    full, given = provider_name(how.provider), {key: str(value) for key, value in how.options.items()}
    options = runtime.SessionOptions()
    options.intra_op_num_threads = how.threads
    options.log_severity_level = 3
    if full == PROVIDERS["xnnpack"]:  # it has threads of its own, beside which spinning ones would compete
        given.setdefault("intra_op_num_threads", str(how.threads or os.cpu_count() or 1))
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if full == PROVIDERS["directml"]:  # it requires this
        options.enable_mem_pattern = False
    if full == PROVIDERS["openvino"] and how.threads:
        given.setdefault("num_of_threads", str(how.threads))
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    before = [PROVIDERS["cuda"]] if full == PROVIDERS["tensorrt"] else []
    rest = [name for name in (*before, PROVIDERS["cpu"]) if name != full]
    return options, [(full, given), *rest]


def open_session(model: str | bytes, how: How, profile: str = "") -> Any:
    """Open a session of ONNX Runtime.

    Args:
        model: path of the ONNX file, or its content.
        how: threads and provider.
        profile: see `session_options`.

    Raises:
        Unusable: the provider is not there, or does not start.
    """
    runtime = importlib.import_module("onnxruntime")
    options, providers = session_options(how, profile)
    session = runtime.InferenceSession(model, options, providers=providers)
    full = providers[0][0]
    if full not in session.get_providers():
        raise Unusable(
            f"the execution provider {how.provider!r} does not start here, so that onnxruntime would run on "
            f"{', '.join(session.get_providers())}; see whether its libraries and driver are installed"
        )
    return session


def call_of(session: Any, feeds: Mapping[str, Any], how: How) -> Call:
    """Return a function that runs a session once; inputs and outputs stay in the memory of the device.

    Args:
        session: session to run.
        feeds: inputs by name.
        how: threads and provider of the session.
    """
    memory = MEMORY.get(how.provider.lower(), "cpu")
    if memory == "cpu":
        return lambda: session.run(None, feeds)
    binding = bound(session, feeds, memory)

    def call() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return call


def bound(session: Any, feeds: Mapping[str, Any], memory: str) -> Any:
    """Bind the inputs and outputs of a session to memory of a device, so that no call copies them.

    Args:
        session: session whose inputs and outputs are bound.
        feeds: inputs by name.
        memory: name of the device for ONNX Runtime, such as "cuda".
    """
    runtime = importlib.import_module("onnxruntime")
    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_ortvalue_input(name, runtime.OrtValue.ortvalue_from_numpy(value, memory, 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, memory)
    return binding


def nodes_on_cpu(model: str | bytes, feeds: Mapping[str, Any], how: How) -> list[str]:
    """Names and operators of the nodes that the CPU runs although another provider was asked for.

    Args:
        model: path of the ONNX file, or its content.
        feeds: inputs by name.
        how: threads and provider.
    """
    if provider_name(how.provider) == PROVIDERS["cpu"]:
        return []
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(model, how, os.path.join(folder, "profile"))
        session.run(None, dict(feeds))
        with open(session.end_profiling(), encoding="utf-8") as file:
            events = json.load(file)
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    on_cpu = [event for event in nodes if event["args"].get("provider") == PROVIDERS["cpu"]]
    return [f"{event['name'][: -len('_kernel_time')]} ({event['args']['op_name']})" for event in on_cpu]


class KernelClock:
    """Times a layer's kernels by the profile of its session.

    Args:
        opened: function that opens the session, with the prefix of the path of its profile.
        feeds: inputs by name.
    """

    def __init__(self, opened: Callable[[str], Any], feeds: Mapping[str, Any]) -> None:
        self.folder = tempfile.TemporaryDirectory()  # one folder each, since profiles are named by the second
        self.session = opened(os.path.join(self.folder.name, "profile"))
        self.feeds = dict(feeds)

    def run(self) -> None:
        """Call once."""
        self.session.run(None, self.feeds)

    def times(self) -> list[float]:
        """Time of the layer in each call, ms, in order; `run` must not be called afterwards."""
        with self.folder:
            return [timed_part(nodes) for nodes in profiled(self.session.end_profiling())]


def profiled(path: str) -> list[list[tuple[str, str, float]]]:
    """Return name, operator and time in ms of each node, in order, for each run of a profile."""
    with open(path, encoding="utf-8") as file:
        events = json.load(file)
    runs: dict[int, list[tuple[str, str, float]]] = collections.defaultdict(list)
    ends = [event["ts"] + event["dur"] for event in events if event["name"] == "model_run"]
    for event in sorted(events, key=lambda event: int(event["ts"])):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            run = sum(end <= event["ts"] for end in ends)
            runs[run].append((event["name"], event["args"]["op_name"], event["dur"] / 1e3))
    return [runs[run] for run in range(len(ends))]


def timed_part(nodes: Sequence[tuple[str, str, float]]) -> float:
    """Return the time of the layer among the nodes of one run.

    The layer begins at the first node that neither produces nor converts its inputs, and ends before the consumer.
    Conversions after the layer belong to it, since a network with such widths needs them. In int8, the conversions of
    the model's own inputs and outputs do not, since layers pass int8 to each other.

    Args:
        nodes: name, operator and time of each node of the run, in order of execution.
    """
    total, started = 0.0, False
    for name, operator, elapsed in nodes[: _last_of_layer(nodes)]:
        if name.startswith(PRODUCERS) or _converts_input(name, operator):
            continue
        started = started or not operator.startswith("Reorder")
        total += elapsed if started else 0.0
    return total


def _last_of_layer(nodes: Sequence[tuple[str, str, float]]) -> int:
    """Number of nodes before the consumer; without a consumer, before the conversions of the outputs from int8."""
    for index, (name, _, _) in enumerate(nodes):
        if name.startswith(CONSUMER):
            return index
    count = len(nodes)
    while count and nodes[count - 1][1] == "DequantizeLinear":
        count -= 1
    return count


def _converts_input(name: str, operator: str) -> bool:
    """Whether ONNX Runtime added a node that converts an input of the model: to int8, or to another layout."""
    quantizes = name.startswith("input") and operator != "DequantizeLinear"
    return quantizes or (operator == "Transpose" and name.startswith("Transpose"))
