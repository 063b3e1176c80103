"""spandrel: super-resolution and restoration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from networks.builders import Builder, image, of_class

__all__ = ["NETWORKS"]

TABLE: Mapping[str, tuple[str, str, dict[str, Any], Callable[[], Any]]] = {
    "ESRGAN": ("ESRGAN.__arch.RRDB", "RRDBNet", {"num_filters": 16, "num_blocks": 2}, lambda: image(16)),
    "MMRealSR": (
        "MMRealSR.__arch.mmrealsr_arch",
        "MMRRDBNet_test",
        {"num_in_ch": 3, "num_out_ch": 3, "scale": 4, "num_feat": 16, "num_block": 2, "num_grow_ch": 8},
        lambda: image(16),
    ),
    "SwinIR": (
        "SwinIR.__arch.SwinIR",
        "SwinIR",
        {
            "img_size": 16,
            "embed_dim": 24,
            "depths": (2, 2),
            "num_heads": (2, 2),
            "window_size": 4,
            "upscale": 2,
            "upsampler": "pixelshuffle",
        },
        lambda: image(16),
    ),
    "Swin2SR": (
        "Swin2SR.__arch.Swin2SR",
        "Swin2SR",
        {
            "img_size": 16,
            "embed_dim": 24,
            "depths": (2, 2),
            "num_heads": (2, 2),
            "window_size": 4,
            "upscale": 2,
            "upsampler": "pixelshuffle",
        },
        lambda: image(16),
    ),
    "HAT": (
        "HAT.__arch.HAT",
        "HAT",
        {
            "img_size": 16,
            "embed_dim": 24,
            "squeeze_factor": 6,
            "depths": (2, 2),
            "num_heads": (2, 2),
            "window_size": 4,
            "upscale": 2,
            "upsampler": "pixelshuffle",
        },
        lambda: image(16),
    ),
    "ATD": (
        "ATD.__arch.atd_arch",
        "ATD",
        {
            "img_size": 16,
            "embed_dim": 24,
            "depths": (2, 2),
            "num_heads": (2, 2),
            "window_size": 4,
            "category_size": 16,
            "num_tokens": 8,
            "reducted_dim": 4,
            "upscale": 2,
            "upsampler": "pixelshuffledirect",
        },
        lambda: image(16),
    ),
    "DAT": (
        "DAT.__arch.DAT",
        "DAT",
        {"img_size": 16, "embed_dim": 24, "depth": [2, 2], "num_heads": [2, 2], "split_size": [4, 4], "upscale": 2},
        lambda: image(16),
    ),
    "SRVGGNetCompact": ("Compact.__arch.SRVGG", "SRVGGNetCompact", {"num_feat": 16, "num_conv": 3}, lambda: image(16)),
    "SPAN": ("SPAN.__arch.span", "SPAN", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 16}, lambda: image(16)),
    "PLKSR": ("PLKSR.__arch.PLKSR", "PLKSR", {"dim": 16, "n_blocks": 2}, lambda: image(16)),
    "NAFNet": (
        "NAFNet.__arch.NAFNet_arch",
        "NAFNet",
        {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]},
        lambda: image(16),
    ),
    "RCAN": ("RCAN.__arch.rcan_arch", "RCAN", {"n_resgroups": 2, "n_resblocks": 2, "n_feats": 16}, lambda: image(16)),
    "DRUNet": (
        "DRUNet.__arch.network_unet",
        "DRUNet",
        {"in_nc": 4, "nc": (8, 16, 16, 16), "nb": 1},
        lambda: image(16, 4),
    ),
    "DnCNN": ("DnCNN.__arch.network_dncnn", "DnCNN", {"nc": 16, "nb": 4}, lambda: image(16, 1)),
    "SCUNet": (
        "SCUNet.__arch.SCUNet",
        "SCUNet",
        {"config": (1, 1, 1, 1, 1, 1, 1), "dim": 64, "input_resolution": 64},
        lambda: image(64),
    ),
    "OmniSR": (
        "OmniSR.__arch.OmniSR",
        "OmniSR",
        {"num_feat": 16, "block_num": 1, "res_num": 1, "window_size": 8},
        lambda: image(16),
    ),
    "SAFMN": ("SAFMN.__arch.safmn", "SAFMN", {"dim": 16, "n_blocks": 2}, lambda: image(16)),
    "RetinexFormer": (
        "RetinexFormer.__arch.retinexformer_arch",
        "RetinexFormer",
        {"n_feat": 8, "stage": 1, "num_blocks": [1, 1, 1]},
        lambda: image(16),
    ),
}

NETWORKS: Mapping[str, Builder] = {
    name: of_class(f"spandrel.architectures.{module}", cls, example, **options)
    for name, (module, cls, options, example) in TABLE.items()
}
