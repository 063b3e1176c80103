"""The tables on the speed of pruning and on the demo as text; see core.py and `edakari demo`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edakari.report.formatting import rows

TITLES = {
    "resnet50": "ResNet-50",
    "densenet121": "DenseNet-121",
    "resnext50_32x4d": "ResNeXt-50",
    "mobilenet_v2": "MobileNetV2",
    "efficientnet_b0": "EfficientNet-B0",
    "regnet_y_1_6gf": "RegNetY-1.6GF",
    "convnext_tiny": "ConvNeXt-T",
    "shufflenet_v2_x1_0": "ShuffleNetV2",
    "swin_t": "Swin-T",
    "vit_base_patch16_224": "ViT-B/16",
    "mixer_b16_224": "Mixer-B/16",
}


def core(results: Mapping[str, Any]) -> str:
    """CPU time from network to smaller network, and the fraction of the MACs that is left, by network and library."""
    lines = [
        "| network | library | CPU time, s | edakari takes | MACs left | tracing alone |",
        "|---|---|---|---|---|---|",
    ]
    for name, entry in results["networks"].items():
        own = entry["edakari"]["cpu_s"]["total"]
        for label, found in entry.items():
            lines.append(f"| {TITLES.get(name, name)} | {label} | {' | '.join(_cells(label, found, own))} |")
    environment = results["environment"]
    compared = any("torch-kirigami" in entry for entry in results["networks"].values())
    missing = "" if compared else " torch-kirigami was not installed, so it has no rows."
    versions = ", ".join(f"{package} {version}" for package, version in environment["versions"].items())
    return "\n".join(
        [
            *lines,
            "",
            f"{environment['date']}, {environment['processor']}, {environment['threads']} thread(s), Python "
            f"{environment['python']}, {versions}. Medians; `{environment['command']}`.{missing}",
        ]
    )


def _cells(label: str, found: Mapping[str, Any], own: float) -> list[str]:
    seconds = found.get("cpu_s", {})
    if "total" not in seconds:
        if "limit_s" in found:
            graph = f"; its graph alone took {seconds['graph']:.1f} s" if "graph" in seconds else ""
            return [f"did not end within {found['limit_s']} s{graph}", "–", "–", "–"]
        why = str(found.get("failed", "")).partition(":")[0]
        return [why if why.startswith("did not end") else f"failed: {why}", "–", "–", "–"]
    total, trace = seconds["total"], seconds.get("trace")
    return [
        f"{total:.2f}",
        "–" if label == "edakari" else f"{own / total:.0%} of its time",
        f"{found['macs_share']:.1%}" if "macs_share" in found else "–",
        "–" if trace is None else f"{trace:.2f} s",
    ]


def demo(report: Mapping[str, Any]) -> str:
    """The table of a run's report."""
    names = [network["name"] for network in report["networks"]]
    environment = report["environment"]
    lines = [f"| | {' | '.join(names)} | change |", "|---" * (len(names) + 2) + "|"]
    for row in rows(report):
        lines.append(f"| {row['name']} | {' | '.join(text or '–' for text in row['texts'])} | {row['change']} |")
    return "\n".join(
        [
            *lines,
            "",
            f"{environment['date'][:10]}, {environment['processor']}, {environment['cores']} cores, one thread per "
            f"call; the stages took {sum(report['seconds'].values()):.0f} s together.",
        ]
    )
