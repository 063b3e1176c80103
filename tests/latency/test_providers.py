"""Execution providers up to the session's options, with a list of providers that is made up; and CUDA by stand-ins."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from edakari.core.far_side.sessions import How, Unusable, bound, call_of, open_session, session_options
from edakari.errors import EdakariWarning, MeasurementError
from edakari.export.onnx_model import write_onnx
from edakari.latency import key_of
from edakari.latency.options import RuntimeOptions
from edakari.latency.runnable import require_runnable
from edakari.latency.runtimes import runtime_named, runtimes_named
from edakari.latency.runtimes.cuda import CudaCall, recorded
from edakari.latency.runtimes.onnx_runtime import OnnxRuntime
from edakari.latency.runtimes.torch_eager import TorchEager
from edakari.latency.timing import RunSettings, measure

SETTINGS = RunSettings(warmup=1)
REAL = tuple(onnxruntime.get_available_providers())
KINDS = ("Tensorrt", "CUDA", "Dml", "Xnnpack", "OpenVINO", "CoreML", "QNN", "CPU")
THERE = tuple(f"{kind}ExecutionProvider" for kind in KINDS)


@pytest.fixture
def all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(THERE))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten())
    return write_onnx(network, torch.zeros(1, 1, 6, 6), tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("cuda", {"device_id": 1}, [("CUDAExecutionProvider", {"device_id": "1"}), "CPUExecutionProvider"]),
        (
            "TensorRT",
            {"trt_fp16_enable": True},
            [("TensorrtExecutionProvider", {"trt_fp16_enable": "True"}), "CUDAExecutionProvider", THERE[-1]],
        ),
        ("xnnpack", {}, [("XnnpackExecutionProvider", {"intra_op_num_threads": "2"}), "CPUExecutionProvider"]),
        ("openvino", {}, [("OpenVINOExecutionProvider", {"num_of_threads": "2"}), "CPUExecutionProvider"]),
        ("coreml", {}, [("CoreMLExecutionProvider", {}), "CPUExecutionProvider"]),
        ("qnn", {"backend_path": "libQnnHtp.so"},
         [("QNNExecutionProvider", {"backend_path": "libQnnHtp.so"}), "CPUExecutionProvider"]),
        ("CPUExecutionProvider", {}, [("CPUExecutionProvider", {})]),
    ],
)  # fmt: skip
def test_a_provider_is_asked_for_with_its_options(name: str, given: Any, expected: Any, all_there: None) -> None:
    options, providers = session_options(How(2, name, given))
    assert providers == expected
    assert options.intra_op_num_threads == (1 if name == "xnnpack" else 2)  # XNNPACK has threads of its own


def test_directml_gets_the_memory_that_it_requires(all_there: None) -> None:
    assert session_options(How(1, "cuda"))[0].enable_mem_pattern
    assert not session_options(How(1, "directml"))[0].enable_mem_pattern


def test_a_provider_that_is_not_there_says_which_are() -> None:
    for name in ("cuda", "qnn", "Nonsense"):
        runtime = runtime_named("onnxruntime", RuntimeOptions(provider=name))
        with pytest.raises(MeasurementError, match=rf"no execution provider '{name}' here; it has .*cpu"):
            require_runnable(runtime, SETTINGS)


def test_a_provider_that_does_not_start_is_an_error(all_there: None, model: Path) -> None:
    """The package brings it, but its libraries are missing; ONNX Runtime would quietly run on the CPU."""
    if "CUDAExecutionProvider" in REAL:
        pytest.skip("it starts here")
    with pytest.raises(Unusable, match="'cuda' does not start here, so that onnxruntime would run on CPU"):
        open_session(str(model), How(1, "cuda"))


def test_nodes_that_the_cpu_runs_are_named() -> None:
    if "AzureExecutionProvider" not in REAL:
        pytest.skip("this package has no provider that takes no node")
    runtime = runtime_named("onnxruntime", RuntimeOptions(provider="AzureExecutionProvider"))
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    with pytest.warns(EdakariWarning, match=r"nodes run on the CPU instead of AzureExecutionProvider: .*Conv\)"):
        timings = measure({"dense": network}, torch.zeros(1, 1, 6, 6), runtime, settings=SETTINGS, repeats=2)
    assert timings["dense"].median_ms > 0
    key = key_of(runtime, SETTINGS)
    assert key.settings["provider"] == "AzureExecutionProvider"
    assert key.digest != key_of(OnnxRuntime(), SETTINGS).digest


def test_bound_inputs_give_the_same_outputs(model: Path) -> None:
    session = open_session(str(model), How())
    image = np.random.default_rng(0).standard_normal((1, 1, 6, 6)).astype(np.float32)
    binding = bound(session, {"input": image}, "cpu")
    session.run_with_iobinding(binding)
    assert np.array_equal(binding.copy_outputs_to_cpu()[0], session.run(None, {"input": image})[0])


class Bound:
    """A session that notes what is done with it."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def io_binding(self) -> Bound:
        return self

    def get_outputs(self) -> list[Any]:
        return [type("Output", (), {"name": "logits"})]

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        self.done.append(("in", name, value))

    def bind_output(self, name: str, memory: str) -> None:
        self.done.append(("out", name, memory))

    def run_with_iobinding(self, binding: Any) -> None:
        self.done.append("run")

    def synchronize_outputs(self) -> None:
        self.done.append("wait")


@pytest.mark.parametrize(("provider", "memory"), [("cuda", "cuda"), ("tensorrt", "cuda"), ("directml", "dml")])
def test_inputs_and_outputs_stay_on_the_device(provider: str, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", lambda value, device, number: (device, number))
    session = Bound()
    call = call_of(session, {"input": np.zeros(1)}, How(1, provider))
    call()
    call()
    placed = [("in", "input", (memory, 0)), ("out", "logits", memory)]
    assert session.done == [*placed, "run", "wait", "run", "wait"]


def test_options_of_another_runtime_are_refused() -> None:
    from edakari.errors import SettingsError

    with pytest.raises(SettingsError, match="provider is no setting of the runtime 'torch'"):
        runtime_named("torch", RuntimeOptions(provider="cuda"))
    with pytest.raises(SettingsError, match="provider is no setting of 'torch' or 'openvino'"):
        runtimes_named(["torch", "openvino"], RuntimeOptions(provider="cuda"))
    plain, other = runtimes_named(["torch", "onnxruntime"], RuntimeOptions(provider="cuda"))
    assert (plain.name, other.name) == ("torch", "onnxruntime-cuda")


class Gpu:
    """A stand-in for torch.cuda: its clock advances by what networks take, and it notes what is recorded."""

    def __init__(self) -> None:
        self.now, self.done, self.refuses = 0.0, [], False

    def event(self, enable_timing: bool) -> Any:
        assert enable_timing
        gpu = self

        class Event:
            at = -1.0

            def record(self) -> None:
                self.at = gpu.now

            def synchronize(self) -> None:
                gpu.done.append("wait")

            def elapsed_time(self, other: Any) -> float:
                return float(other.at - self.at)

        return Event()

    @contextlib.contextmanager
    def scope(self, what: Any) -> Iterator[None]:
        if self.refuses and isinstance(what, Graph):
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore lines")
        yield


class Graph:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def replay(self) -> None:
        self.gpu.done.append("replay")
        self.gpu.now += 2.0


class Stream:
    def wait_stream(self, other: Any) -> None:
        pass


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    made = Gpu()
    for name, thing in {
        "Event": made.event,
        "device": made.scope,
        "stream": made.scope,
        "graph": made.scope,
        "Stream": Stream,
        "current_stream": Stream,
        "CUDAGraph": lambda: Graph(made),
    }.items():
        monkeypatch.setattr(torch.cuda, name, thing)
    return made


DEVICE = torch.device("cuda")


def test_a_call_on_a_gpu_is_timed_by_its_events(gpu: Gpu) -> None:
    def run() -> None:
        assert torch.is_inference_mode_enabled()
        gpu.now += 7.0

    call = CudaCall(run, DEVICE)
    assert (call(), call()) == (7.0, 7.0)
    assert gpu.done == ["wait", "wait"]


def test_a_graph_is_recorded_once_and_replayed(gpu: Gpu) -> None:
    runs: list[str] = []
    call = CudaCall(recorded(lambda: runs.append("run"), DEVICE), DEVICE)
    assert len(runs) == 4  # three to warm up, one to record
    assert call() == 2.0
    assert gpu.done == ["replay", "wait"]
    assert len(runs) == 4


def test_what_cannot_be_recorded_is_an_error(gpu: Gpu) -> None:
    gpu.refuses = True
    with pytest.raises(
        MeasurementError, match=r"cannot be recorded as a CUDA graph: CUDA error: .*Leave out cuda_graphs"
    ):
        recorded(lambda: None, DEVICE)


def test_graphs_need_a_gpu_and_a_table_of_their_own() -> None:
    for name in ("torch", "torch_compile"):
        runtime = runtime_named(name, RuntimeOptions(cuda_graphs=True))
        with pytest.raises(
            MeasurementError, match="cuda_graphs records networks on a CUDA device, but device is 'cpu'"
        ):
            require_runnable(runtime, SETTINGS)
        assert key_of(runtime, SETTINGS).settings["cuda_graphs"] is True
    assert "cuda_graphs" not in key_of(TorchEager(), SETTINGS).settings
