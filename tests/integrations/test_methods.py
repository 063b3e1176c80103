"""Methods that train through other loops come to the same plans and weights as through edakari's own."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

import edakari
from edakari.core.protocols import Split
from edakari.integrations import timm
from edakari.methods.ekg import EnsembleKnowledgePruning
from edakari.methods.halp import HardMaskedPruning
from edakari.methods.isp import InterpretationSteeredPruning
from edakari.methods.smcp import SoftMaskedPruning
from edakari.pipeline.settings import BankSettings, FinetuneSettings
from edakari.testing import ToyTask, toy_cnn
from tests.integrations import loops

SOFT = {"epochs": 4, "warmup_epochs": 1, "ramp_epochs": 2, "freeze_epochs": 1, "interval": 3, "lr": 0.02}
METHODS: dict[str, Any] = {
    "smcp": SoftMaskedPruning(**SOFT),
    "halp": HardMaskedPruning(epochs=3, milestones=3, milestone_interval=3, lr=0.02),
    "isp": InterpretationSteeredPruning(predictor_epochs=1, explainer_epochs=1, gate_epochs=4, gate_lr=0.5),
    "ekg": EnsembleKnowledgePruning(warmup_images=8, search_images=4),
}
TAUGHT = FinetuneSettings(epochs=1, lr=0.02, teacher="bank", bank=BankSettings(teachers=2), views=2)


class Precise(ToyTask):
    """The toy task in float64, so that rounding decides nothing."""

    def example(self) -> torch.Tensor:
        return super().example().double()

    def batches(self, split: Split) -> list[Any]:
        return [(images.double(), labels) for images, labels in super().batches(split)]


def pruned(name: str, fit: Any) -> Any:
    settings: Any = {"finetune": TAUGHT} if name == "ekg" else {}
    fit = {} if fit is None else {"fit": fit}
    model, task = (toy_cnn(), ToyTask()) if name == "isp" else (toy_cnn().double(), Precise())  # explainers are float32
    return edakari.prune(model, task, "macs<=60%", METHODS[name], device="cpu", **fit, **settings)


@functools.cache
def expected(name: str) -> Any:
    return pruned(name, None)


def lightning() -> Any:
    pytest.importorskip("lightning")
    from edakari.integrations import lightning

    return lightning.fit(accelerator="cpu", enable_progress_bar=False)


def transformers() -> Any:
    pytest.importorskip("transformers")
    from edakari.integrations import transformers

    return transformers.fit(use_cpu=True, disable_tqdm=True)


def ultralytics() -> Any:
    pytest.importorskip("ultralytics")
    from edakari.integrations import ultralytics

    return ultralytics.fit()


FITS = {
    "plain": lambda: loops.plain,
    "closure": lambda: loops.closure,
    "timm": timm.fit,
    "lightning": lightning,
    "transformers": transformers,
    "ultralytics": ultralytics,
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fit", FITS)
def test_a_method_does_the_same_in_every_loop(fit: str, method: str) -> None:
    found, wanted = pruned(method, FITS[fit]()), expected(method)
    assert found.plan.edits == wanted.plan.edits
    for name, value in wanted.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    ours, theirs = (result.results.prune.log for result in (found, wanted))
    assert [line["stage"] for line in ours] == [line["stage"] for line in theirs]
