"""The machine and the software with which a run was made."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import edakari

__all__ = ["environment"]

PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy", "onnx", "onnxruntime")


def environment(seed: int) -> dict[str, Any]:
    """Return hardware, versions, seed, command and commit, as plain values."""
    cuda = torch.cuda.is_available()
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": _command(),
        "edakari": edakari.__version__,
        "commit": _commit(),
        "seed": seed,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "accelerators": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        if cuda
        else [],
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _command() -> str:
    name = Path(sys.argv[0]).name
    return f"{'python -m edakari' if name == '__main__.py' else name} {shlex.join(sys.argv[1:])}".strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str | None:
    """The commit of edakari's own checkout, marked if files were changed; None outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
