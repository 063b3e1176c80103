"""Precision that fits the machine: what "auto" becomes, that a training keeps it, and what emulation is told of."""

from __future__ import annotations

import dataclasses as dc
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from edakari.core.protocols import Hook, Schedule, StepState
from edakari.errors import EdakariWarning, RunFolderError
from edakari.train import FitSettings, fit
from edakari.train import precision as precision_module
from edakari.train.checkpoint import identity_in

CPU = torch.device("cpu")
AUTO = Schedule(epochs=2, lr=0.05, precision="auto")


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    precision_module._warn_of_emulation.cache_clear()
    yield
    precision_module._warn_of_emulation.cache_clear()


def processor(monkeypatch: pytest.MonkeyPatch, *instructions: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(instructions, True), raising=False)


def trained_in(folder: Path | None, schedule: Schedule = AUTO, hooks: tuple[Hook, ...] = ()) -> set[torch.dtype]:
    """The types that a training computes in."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    data = [(torch.randn(4, 3), torch.arange(4) % 2) for _ in range(3)]
    seen = set()

    def objective(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        logits = model(batch[0])
        seen.add(logits.dtype)
        return {"ce": nn.functional.cross_entropy(logits.float(), batch[1])}

    settings = FitSettings(folder=folder, device="cpu", checkpoint_steps=1, progress=False)
    fit(model, objective, data, schedule, hooks=hooks, settings=settings)
    return seen


class SearchStep(Exception):
    pass


class StopAt(Hook):
    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, state: StepState) -> None:
        if state.step == self.step:
            raise SearchStep


def begun(folder: Path) -> None:
    with pytest.raises(SearchStep):
        trained_in(folder, hooks=(StopAt(3),))


@pytest.mark.parametrize(
    ("instructions", "dtype"),
    [
        (("avx2", "avx512_f", "avx512_vnni"), torch.float32),
        (("avx2", "avx512_f", "avx512_bf16"), torch.bfloat16),
        (("amx_tile", "amx_bf16"), torch.bfloat16),
        ((), torch.float32),
    ],
)
def test_auto_is_what_the_processor_computes(
    instructions: tuple[str, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, *instructions)
    with warnings.catch_warnings():
        warnings.simplefilter("error", EdakariWarning)
        assert trained_in(None) == {dtype}


def test_the_processor_is_read_right() -> None:
    flags = Path("/proc/cpuinfo")
    if not flags.exists() or "flags" not in flags.read_text():
        pytest.skip("the system does not list the processor's instructions")
    words = set(flags.read_text().split())
    assert precision_module.computes_bf16(CPU) == bool(words & {"avx512_bf16", "amx_bf16"})


@pytest.mark.parametrize("native", [False, True])
def test_gpus_are_asked_without_emulation(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    found = precision_module.with_precision(AUTO, torch.device("cuda"), None)
    assert found == dc.replace(AUTO, precision="bf16" if native else "fp32")


def test_accelerators_that_are_not_known_get_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, "avx512_bf16")
    assert precision_module.with_precision(AUTO, torch.device("mps"), None).precision == "fp32"


def test_a_training_goes_on_in_the_precision_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, "avx512_bf16")
    begun(tmp_path / "fast")
    processor(monkeypatch)
    begun(tmp_path / "slow")
    with pytest.warns(EdakariWarning, match="precision 'bf16' on this processor"):
        assert trained_in(tmp_path / "fast", hooks=(StopAt(99),)) == {torch.bfloat16}
    processor(monkeypatch, "avx512_bf16")
    assert trained_in(tmp_path / "slow", hooks=(StopAt(99),)) == {torch.float32}


def test_what_auto_became_is_part_of_what_a_training_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch)
    trained_in(tmp_path)
    assert identity_in(tmp_path / "checkpoint.safetensors")["schedule"]["precision"] == "fp32"
    with (
        pytest.warns(EdakariWarning),
        pytest.raises(RunFolderError, match=r"schedule.precision is 'fp32' there and 'bf16' here"),
    ):
        trained_in(tmp_path, dc.replace(AUTO, precision="bf16"))


def test_emulation_that_is_asked_for_is_done_and_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, "avx2")
    with pytest.warns(EdakariWarning, match="no instructions for it.*'auto' or 'fp32'"):
        assert trained_in(None, dc.replace(AUTO, precision="bf16")) == {torch.bfloat16}
    with warnings.catch_warnings():
        warnings.simplefilter("error", EdakariWarning)
        trained_in(None, dc.replace(AUTO, precision="bf16"))


def test_a_damaged_checkpoint_is_still_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"nonsense")
    with pytest.raises(RunFolderError, match="cannot be read"):
        trained_in(tmp_path)
