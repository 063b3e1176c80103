"""timm: the smallest network of every module, or every network."""

from __future__ import annotations

from collections.abc import Iterator

import timm
import torch
from torch import nn

from networks.builders import Built, image

__all__ = ["all_names", "build", "build_native", "names"]

SIDES = (64, 96, 128, 160, 192, 224, 256, 288, 320, 384, 448)
BATCH = 2


def smallest_of(module: str) -> str:
    """The network of a timm module with the fewest parameters."""
    sizes = {}
    for name in timm.list_models(module=module):
        with torch.device("meta"):
            sizes[name] = sum(p.numel() for p in timm.create_model(name).parameters())
    return min(sizes, key=sizes.__getitem__)


def names() -> Iterator[str]:
    """One network of every module."""
    yield from (SMALLEST.get(module) or smallest_of(module) for module in timm.list_modules())


def all_names() -> list[str]:
    """Every network."""
    return list(timm.list_models())


def build_native(name: str) -> Built:
    """A classifier and an input of the size that it was made for; quick where nothing is computed."""
    model = _classifier(name)
    return model, torch.zeros(BATCH, *model.pretrained_cfg["input_size"])


def build(name: str) -> Built:
    """A classifier and an input as small as it takes."""
    model = _classifier(name)
    config = model.pretrained_cfg
    channels, native, _ = config["input_size"]
    if config.get("fixed_input_size"):
        return model, torch.zeros(BATCH, *config["input_size"])
    if config.get("min_input_size"):
        return model, torch.zeros(BATCH, *config["min_input_size"])
    with torch.device("meta"):
        shadow = _classifier(name).eval()
    return model, _smallest_input(shadow, channels, native)


def _classifier(name: str) -> nn.Module:
    """A network that classifies, also where timm's own is a backbone without a head."""
    model = timm.create_model(name)
    return model if getattr(model, "num_classes", 1) else timm.create_model(name, num_classes=1000)


def _smallest_input(shadow: nn.Module, channels: int, native: int) -> torch.Tensor:
    for side in (*(side for side in SIDES if side < native), native):
        try:
            with torch.no_grad():
                shadow(torch.empty(BATCH, channels, side, side, device="meta"))
        except (RuntimeError, AssertionError, ValueError, IndexError):
            continue
        return image(side, channels, BATCH)
    return image(native, channels, BATCH)


SMALLEST: dict[str, str] = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet_h1",
    "byobnet": "mobileone_s0",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "test_convnext",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "efficientnet_b0",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "eva02_tiny_patch14_224",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "test_mambaout",
    "maxxvit": "test_coatnet",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "test_nfnet",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "resnet10t",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}
"""The smallest network of each timm module; `smallest_of` finds one that is not listed."""
