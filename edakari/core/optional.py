"""Packages that only some of edakari needs: what each extra installs, and one clear error where one is missing."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping

from edakari.errors import MissingPackage

__all__ = ["EXTRAS", "missing_packages", "needs", "require_packages"]

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "train": ("accelerate", "torchvision", "timm", "torchmetrics", "PIL", "pydantic", "yaml", "rich"),
    "onnx": ("onnx", "onnxscript", "onnxruntime", "pydantic"),
    "report": ("jinja2", "markupsafe", "matplotlib", "pydantic", "yaml"),
    "cli": ("typer", "rich", "yaml"),
    "openvino": ("openvino", "onnx", "onnxscript", "pydantic"),
}
"""The packages that each extra installs, as they are imported."""
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "PyYAML"}
"""The names of packages that pip knows by another name than Python."""


@contextlib.contextmanager
def needs(extra: str, purpose: str) -> Iterator[None]:
    """Say which extra to install where an import in this block fails.

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
    """Those of some packages, as they are imported, that are not installed; imports nothing."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def require_packages(extra: str, purpose: str, *names: str) -> None:
    """Refuse to begin what would end in a missing package; imports nothing.

    Args:
        extra: a key of `EXTRAS`.
        purpose: what the packages are needed for, as the subject of a sentence.
        names: the packages that are needed, as they are imported; none stands for the whole extra.

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
