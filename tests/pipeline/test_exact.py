"""The device of the check."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from edakari.core.plan import Plan
from edakari.errors import ModelError
from edakari.pipeline import exact
from edakari.pipeline.exact import check_exact
from edakari.surgery.differences import Differences


@pytest.mark.parametrize("fault", [None, torch.OutOfMemoryError("too little memory"), ModelError("no float64")])
def test_a_gpu_checks_and_the_cpu_where_the_gpu_cannot(
    fault: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def compared(run: Any, plan: Plan, device: torch.device) -> Differences:
        asked.append(device.type)
        if device.type == "cuda" and fault is not None:
            raise fault
        return Differences(0.0, 1e-16)

    monkeypatch.setattr(exact, "_compared", compared)
    run: Any = SimpleNamespace(processes=SimpleNamespace(device=torch.device("cuda")))
    assert check_exact(run, Plan((), "", ())) == 1e-16
    assert asked == ["cuda"] + ["cpu"] * (fault is not None)
    run = SimpleNamespace(processes=SimpleNamespace(device=torch.device("mps")))
    check_exact(run, Plan((), "", ()))
    assert asked[-1] == "cpu"  # Apple's GPUs have no float64
