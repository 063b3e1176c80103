"""kornia: local features and matchers."""

from __future__ import annotations

from collections.abc import Mapping

from networks.builders import Builder, image, of_class

__all__ = ["NETWORKS"]

NETWORKS: Mapping[str, Builder] = {
    "HardNet": of_class("kornia.feature", "HardNet", lambda: image(32, 1), pretrained=False),
    "HardNet8": of_class("kornia.feature", "HardNet8", lambda: image(32, 1), pretrained=False),
    "HyNet": of_class("kornia.feature", "HyNet", lambda: image(32, 1), pretrained=False),
    "SOSNet": of_class("kornia.feature", "SOSNet", lambda: image(32, 1), pretrained=False),
    "TFeat": of_class("kornia.feature", "TFeat", lambda: image(32, 1), pretrained=False),
    "KeyNet": of_class("kornia.feature", "KeyNet", lambda: image(32, 1), pretrained=False),
    "OriNet": of_class("kornia.feature", "OriNet", lambda: image(32, 1), pretrained=False),
    "DeFMO": of_class("kornia.feature", "DeFMO", lambda: image(64, 6), pretrained=False),
    "DISK-unet": of_class(
        "kornia.feature.disk._unets", "Unet", lambda: image(32), in_features=3, down=[8, 16, 16], up=[16, 9]
    ),
    "XFeatModel": of_class("kornia.feature", "XFeatModel", lambda: image(64, 1)),
    "TinyViT": of_class(
        "kornia.contrib",
        "TinyViT",
        lambda: image(64),
        img_size=64,
        num_classes=5,
        embed_dims=[16, 32, 48, 64],
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 3, 4],
        window_sizes=[2, 2, 2, 2],
    ),
}
