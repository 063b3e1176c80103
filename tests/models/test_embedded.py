from pathlib import Path

import pytest
import torch
from torch import nn

import edakari
from edakari.models import build
from edakari.tasks import DataSettings, task_from_settings

PACKAGE = Path(edakari.__file__).parent


def test_resnets_for_cifar_have_the_papers_size():
    """He et al., 2016, table 6: 0.27 M and 0.85 M parameters."""
    for name, millions in (("resnet20", 0.27), ("resnet56", 0.85)):
        model = build(f"edakari:{name}", shortcut="pad")
        assert sum(param.numel() for param in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)
        convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        assert len(convolutions) + 1 == int(name.removeprefix("resnet"))
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_the_two_shortcuts_differ_by_two_convolutions():
    conv, pad = build("edakari:resnet20"), build("edakari:resnet20", shortcut="pad")
    extra = sum(p.numel() for p in conv.parameters()) - sum(p.numel() for p in pad.parameters())
    assert extra == 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64


def test_the_cnn_has_residual_and_depthwise_layers():
    model = build("edakari:fashion_cnn")
    assert any(isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for m in model.modules())
    assert any(getattr(m, "residual", False) for m in model.modules())


@pytest.mark.parametrize(("name", "least"), [("fashion_cnn", 0.92), ("fashion_vit", 0.86)])
def test_embedded_weights_classify_the_embedded_test_images(name, least):
    task = task_from_settings(DataSettings(source="embedded:fashion"))
    assert task.evaluate(build(f"edakari:{name}", weights="pretrained"))["top1"] >= least


def test_embedded_files_stay_within_eight_megabytes():
    files = [*(PACKAGE / "models" / "weights").iterdir(), *(PACKAGE / "tasks" / "embedded").iterdir()]
    assert {file.name for file in files} >= {"fashion_train.npz", "fashion_test.npz", "LICENSE-fashion-mnist"}
    assert sum(file.stat().st_size for file in files) <= 8_000_000
