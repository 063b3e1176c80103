"""segmentation_models_pytorch: every decoder, and encoders of many kinds."""

from __future__ import annotations

from collections.abc import Mapping

from networks.builders import Builder, image, of_class

__all__ = ["NETWORKS"]

DECODERS = "Unet UnetPlusPlus MAnet Linknet FPN PSPNet PAN DeepLabV3 DeepLabV3Plus UPerNet Segformer".split()
ENCODERS = (
    "mobilenet_v2 efficientnet-b0 mit_b0 densenet121 vgg11_bn se_resnet50 timm-regnetx_002 xception dpn68".split()
)


def _smp(decoder: str, encoder: str) -> Builder:
    return of_class(
        "segmentation_models_pytorch",
        decoder,
        lambda: image(128 if decoder == "PAN" else 64),
        encoder,
        encoder_weights=None,
        classes=3,
    )


NETWORKS: Mapping[str, Builder] = {
    f"{decoder}-{encoder}": _smp(decoder, encoder)
    for decoder, encoder in [*((d, "resnet18") for d in DECODERS), *(("Unet", e) for e in ENCODERS)]
}
