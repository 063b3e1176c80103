"""Optional packages: the extras that install them, and one clear error if a package is missing."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping

from edakari.errors import MissingPackage

__all__ = ["EXTRAS", "missing_packages", "needs", "require_packages"]

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "train": ("accelerate", "torchvision", "timm", "torchmetrics", "PIL", "pydantic", "yaml", "rich"),
    "detection": ("faster_coco_eval",),
    "huggingface": ("datasets",),
    "hub": ("huggingface_hub",),
    "onnx": ("onnx", "onnxscript", "onnxruntime", "pydantic"),
    "report": ("jinja2", "markupsafe", "matplotlib", "pydantic", "yaml"),
    "cli": ("typer", "rich", "yaml"),
    "sweep": ("optuna", "filelock", "sqlalchemy"),
    "lightning": ("lightning", "accelerate", "timm"),
    "transformers": ("transformers", "accelerate", "timm"),
    "tensorboard": ("tensorboard", "accelerate"),
    "wandb": ("wandb", "accelerate"),
    "mlflow": ("mlflow", "accelerate"),
    "openvino": ("openvino", "onnx", "onnxscript", "pydantic"),
    "openvino-int8": ("nncf", "openvino", "onnx", "onnxscript", "onnxruntime", "pydantic"),
}
"""The packages that each extra installs, by import name."""
DISTRIBUTIONS = {
    "PIL": "pillow",
    "sqlalchemy": "SQLAlchemy",
    "yaml": "PyYAML",
    "faster_coco_eval": "faster-coco-eval",
    "huggingface_hub": "huggingface-hub",
}
"""Names on PyPI of packages whose import name differs."""


@contextlib.contextmanager
def needs(extra: str, purpose: str) -> Iterator[None]:
    """Context for imports that names the extra to install if an import fails.

        with needs("onnx", "exporting to ONNX"):
            import onnx

    Args:
        extra: a key of `EXTRAS`.
        purpose: what the packages are needed for, as the subject of a sentence.

    Raises:
        MissingPackage: a package of the extra is not installed.
    """
    try:
        yield
    except MissingPackage:
        raise
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS[extra]:
            raise
        raise _missing([package], extra, purpose) from error


def missing_packages(*names: str) -> list[str]:
    """Return the packages, by import name, that are not installed; imports nothing."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def require_packages(extra: str, purpose: str, *names: str) -> None:
    """Raise an error if a package is missing, before any work starts; imports nothing.

    Args:
        extra: a key of `EXTRAS`.
        purpose: what the packages are needed for, as the subject of a sentence.
        names: import names of the needed packages; without names, all packages of the extra.

    Raises:
        MissingPackage: one of them is not installed.
    """
    missing = missing_packages(*(names or EXTRAS[extra]))
    if missing:
        raise _missing(missing, extra, purpose)


def _missing(packages: Iterable[str], extra: str, purpose: str) -> MissingPackage:
    names = [DISTRIBUTIONS.get(name, name) for name in packages]
    verb = "is" if len(names) == 1 else "are"
    return MissingPackage(
        f'{purpose} needs {", ".join(names)}, which {verb} not installed; install with: pip install "edakari[{extra}]"',
        name=names[0],
    )
