import copy

import pytest
import torch
from safetensors.torch import save_file

from edakari.errors import ModelError, UnknownName, WeightsError
from edakari.models import ModelSpec, build, default_example, spec_of


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("edakari:fashion_cnn", (1, 1, 28, 28)),
        ("edakari:fashion_vit", (1, 1, 28, 28)),
        ("edakari:resnet20", (1, 3, 32, 32)),
        ("timm:resnet50", (1, 3, 224, 224)),
        ("timm:efficientnet_b3", (1, 3, 288, 288)),
        ("torchvision:vgg11", (1, 3, 224, 224)),
        ("torchvision:inception_v3", (1, 3, 299, 299)),
    ],
)
def test_networks_build_without_memory_and_know_their_input(name, shape):
    with torch.device("meta"):
        model = build(name)
    assert all(param.is_meta for param in model.parameters())
    example = default_example(name, model)
    assert example.shape == shape
    assert example.dtype == torch.float32
    assert example.device.type == "cpu"
    assert not model.training


def test_the_example_follows_options_that_change_the_input():
    spec = ModelSpec("timm:vit_tiny_patch16_224", {"img_size": 64, "in_chans": 1})
    assert default_example(spec, build(spec)).shape == (1, 1, 64, 64)


def test_a_network_remembers_how_it_was_built_and_so_does_its_copy():
    model = build("edakari:resnet20", num_classes=7, shortcut="pad")
    spec = ModelSpec("edakari:resnet20", {"num_classes": 7, "shortcut": "pad"})
    assert spec_of(copy.deepcopy(model)) == spec
    again = build(spec_of(model))
    assert {key: value.shape for key, value in again.state_dict().items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }
    assert spec_of(torch.nn.Linear(1, 1)) is None


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("timm:resnet500", "resnet50"),
        ("torchvision:resnet5", "resnet50"),
        ("edakari:fashion_cn", "fashion_cnn"),
        ("tim:resnet50", "timm:NAME"),
        ("resnet50", "timm:NAME"),
    ],
)
def test_an_unknown_name_says_the_nearest(name, hint):
    with pytest.raises(UnknownName, match=hint):
        build(name)


def test_a_wrong_option_is_one_clear_error():
    with pytest.raises(ModelError, match=r"edakari:resnet20.*clases"):
        build("edakari:resnet20", clases=3)


def test_weights_that_do_not_fit_name_keys_and_shapes(tmp_path):
    state = {key: value.clone() for key, value in build("edakari:resnet20").state_dict().items()}
    state["extra"] = torch.zeros(3)
    del state["stem.0.weight"]
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError) as caught:
        build("edakari:resnet20", weights=tmp_path / "other.safetensors", num_classes=5)
    for part in ("1 missing: stem.0.weight [16, 3, 3, 3]", "extra [3]", "classifier.weight is [10, 64]", "[5, 64]"):
        assert part in str(caught.value)


def test_weights_that_fit_are_loaded(tmp_path):
    state = {key: torch.ones_like(value) for key, value in build("edakari:fashion_vit").state_dict().items()}
    save_file(state, tmp_path / "ones.safetensors")
    model = build("edakari:fashion_vit", weights=tmp_path / "ones.safetensors")
    assert all(bool((value == 1).all()) for value in model.state_dict().values())
    assert spec_of(model).weights == str(tmp_path / "ones.safetensors")


def test_pickles_missing_and_damaged_files_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"a\.pt.*safetensors.*convert"):
        build("edakari:resnet20", weights=tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="no such file"):
        build("edakari:resnet20", weights=tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").write_bytes(b"not this")
    with pytest.raises(WeightsError, match="cannot be read"):
        build("edakari:resnet20", weights=tmp_path / "c.safetensors")


def test_networks_without_embedded_weights_say_which_have_them():
    with pytest.raises(WeightsError, match="edakari:fashion_cnn"):
        build("edakari:resnet56", weights="pretrained")


def test_a_users_own_factory(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\ndef small(width=3):\n    return nn.Linear(2, width)\ndef wrong():\n    return 4\n"
    )
    model = build(f"{file}:small", width=5)
    assert model.weight.shape == (5, 2)
    assert spec_of(model) == ModelSpec(f"{file}:small", {"width": 5})
    with pytest.raises(UnknownName, match="small"):
        build(f"{file}:smal")
    with pytest.raises(ModelError, match="int"):
        build(f"{file}:wrong")
    with pytest.raises(ModelError, match="no file"):
        build(f"{tmp_path / 'none.py'}:small")
    file.write_text("import nowhere_at_all\n")
    with pytest.raises(ModelError, match="nowhere_at_all"):
        build(f"{file}:small")


def test_a_detector_with_random_weights_fetches_none_for_its_backbone(monkeypatch):
    def fetched(*_, **__):
        raise AssertionError("weights were asked for")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetched)
    model = build("torchvision:ssdlite320_mobilenet_v3_large")
    assert any(name.startswith("backbone") for name, _ in model.named_parameters())
