"""Closed loops and predictions from recorded timings: no change to the code may move a number in them."""

from __future__ import annotations

import dataclasses as dc
import json
import os
from pathlib import Path
from typing import Any

import pytest

import edakari
from edakari.latency import runtimes
from edakari.pipeline import recipe_from
from edakari.testing.formula_runtime import FormulaRuntime

RECORDED = Path(__file__).parent / "recorded_rounds.json"
"""What runs gave when they were recorded; `EDAKARI_RECORD=1 pytest tests/latency/test_recorded_rounds.py` writes it."""

NETWORKS = """
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn


def wide(width: int = 96) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3),
    )


def vit() -> nn.Module:
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=8, patch_size=1, in_chans=1, embed_dim=32, depth=4, num_heads=4, num_classes=3
    )
"""

RUNS: dict[str, dict[str, Any]] = {
    "widths": {
        "model": "wide",
        "method": {"name": "magnitude", "iterations": 2},
        "budget": "latency<=1.6ms, params<=90%",
    },
    "tokens": {"model": "vit", "method": {"name": "evit", "blocks": [1, 2]}, "budget": "latency<=85%"},
}


@dc.dataclass
class Unlike(FormulaRuntime):
    """A runtime in which whole networks are not as quick as the sum of their layers says: they become slower later."""

    calls: int = 0

    def prepare(self, model: Any, example: Any, settings: Any) -> Any:
        self.calls += 1
        if self.calls > 6:  # after the dense network and the sub-networks of the fit
            self.factor, self.constant = 1.5, 0.3
        return super().prepare(model, example, settings)


def recorded(name: str, content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A run's predictions and rounds."""
    folder.mkdir(exist_ok=True)
    (folder / "networks.py").write_text(NETWORKS)
    asked = RUNS[name]
    changes = {
        **asked,
        "model": {"name": f"{folder}/networks.py:{asked['model']}", "weights": "random"},
        "latency": {"runtime": "formula", "repeats": 5, "networks": 4},
        "finetune": None,
        "measure": None,
    }
    edakari.run(recipe_from({**content, **changes}), folder / "run")
    stages = folder / "run" / "stages"
    measured, pruned = (json.loads((stages / f"{name}.json").read_text()) for name in ("latency", "prune"))
    planned, met = measured["planned"]["latency"], pruned["latencies"]["latency"]
    everything = {**measured, **planned, **planned["details"]}
    timed = {key: value for key, value in everything.items() if key in MEASURED}
    met["relative_error"] = met["rounds"][met["chosen_round"]]["relative_error"]
    return {"latency": timed, "prune": met, "sizes": pruned["sizes"]}


MEASURED = ("dense", "points", "layers", "filled", "fit", "unfitted_median_error", "networks", "limits")
"""What the latency stage says that no wall clock has a say in."""


def close(found: Any, expected: Any) -> bool:
    """Whether a plain value holds another one, with numbers equal up to rounding."""
    if isinstance(expected, dict):
        return found.keys() >= expected.keys() and all(close(found[key], value) for key, value in expected.items())
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    return bool(found == pytest.approx(expected, rel=1e-9)) if isinstance(expected, float) else bool(found == expected)


@pytest.mark.parametrize("name", RUNS)
def test_rounds_are_as_recorded(
    name: str, content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Unlike(factor=1.3, constant=0.4)
    monkeypatch.setitem(runtimes.RUNTIMES._registered, runtime.name, lambda: runtime)
    monkeypatch.setattr("edakari.latency.timing.time", runtime)
    monkeypatch.setenv("EDAKARI_CACHE", str(tmp_path / "cache"))
    found = recorded(name, content, tmp_path / "files")
    if "EDAKARI_RECORD" in os.environ:
        known = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
        RECORDED.write_text(json.dumps({**known, name: found}, indent=1) + "\n")
    expected = json.loads(RECORDED.read_text())[name]
    assert len(expected["prune"]["rounds"]) > 1
    for key, value in expected.items():
        for inner, each in value.items():
            assert close(found[key][inner], each), (key, inner, found[key][inner], each)
