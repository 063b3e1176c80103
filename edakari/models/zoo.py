"""Construction of networks by name, and a record of how each network was built."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import difflib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import nn

from edakari.core.arguments import require
from edakari.core.blank import blank
from edakari.core.file_errors import file_errors
from edakari.core.lazy import refuse_uninitialised
from edakari.core.optional import needs
from edakari.core.user_code import attribute, cause, run_file
from edakari.errors import EdakariError, ModelError, UnknownName, WeightsError
from edakari.models import embedded, supernet
from edakari.models.weights import load_weights, read_weights

__all__ = ["EMBEDDED", "ModelSpec", "build", "default_example", "spec_of"]

SOURCES = ("edakari", "timm", "torchvision")
EMBEDDED: Mapping[str, Callable[..., nn.Module]] = {
    "fashion_cnn": embedded.fashion_cnn,
    "fashion_vit": embedded.fashion_vit,
    "resnet20": embedded.resnet20,
    "resnet56": embedded.resnet56,
    "supernet": supernet.supernet,
}
INPUTS = {"fashion_cnn": (1, 28, 28), "fashion_vit": (1, 28, 28), "resnet20": (3, 32, 32), "resnet56": (3, 32, 32)}
WEIGHTS = Path(__file__).parent / "weights"
MEMORY = "edakari_spec"
NONE = (None, "random", "as_built")
"""Values of `weights` that keep a network as its constructor made it."""


@dc.dataclass(frozen=True)
class ModelSpec:
    """Description of how to build a network.

    Args:
        name: "timm:NAME", "torchvision:NAME", "edakari:NAME" or "path/to/file.py:function".
        options: keyword arguments of the network's constructor.
        weights: "random" (or null) initialises at random; "pretrained" loads the source's pretrained weights;
            "as_built" keeps the weights that your own function loads. Anything else is the path of a .safetensors file.
            `edakari prune` requires this key.
    """

    name: str
    options: Mapping[str, Any] = dc.field(default_factory=dict)
    weights: str | None = None


@file_errors()
def build(spec: ModelSpec | str, *, weights: str | Path | None = None, **options: Any) -> nn.Module:
    """Build a network from its name, in evaluation mode; under `torch.device("meta")` it takes no memory.

    Args:
        spec: name or complete description; see `ModelSpec`.
        weights: weights that replace those of the description.
        options: options that are added to those of the description.

    Raises:
        UnknownName: the source or the network is unknown; the message suggests the nearest name.
        ModelError: the constructor fails, or the user's file or function does not exist.
        WeightsError: the weights are not available or do not fit.
    """
    require("build(spec)", spec=(spec, (ModelSpec, str)))
    spec = ModelSpec(spec) if isinstance(spec, str) else spec
    spec = ModelSpec(spec.name, {**spec.options, **options}, str(weights) if weights is not None else spec.weights)
    source, name = parted(spec.name)
    hub = spec.weights == "pretrained"
    if source == "timm":
        model = _timm(name, spec, hub)
    elif source == "torchvision":
        model = _torchvision(name, spec, hub)
    elif source == "edakari":
        model = _constructed(_known(name, "edakari network", EMBEDDED), spec)
        if hub:
            load_weights(model, _embedded_weights(name), f"of edakari:{name}")
    elif source.endswith(".py"):
        if hub:
            raise WeightsError(f"model {spec.name!r}: a file's function has no 'pretrained'; name a .safetensors file")
        model = _constructed(_own(Path(source), name), spec)
    else:
        known = [*(f"{known}:NAME" for known in SOURCES), "FILE.py:FUNCTION", "RUN_FOLDER"]
        raise UnknownName("source of networks", source or spec.name, [*sources_of(spec.name), *known])
    if not isinstance(model, nn.Module):
        raise ModelError(f"model {spec.name!r}: the function returned a {type(model).__name__}, not a torch.nn.Module")
    refuse_uninitialised(model)
    if spec.weights == "as_built" and not source.endswith(".py"):
        raise WeightsError(f"model {spec.name!r}: 'as_built' is for functions in files of your own, which load weights")
    if spec.weights not in NONE and not hub:
        path = str(spec.weights)
        load_weights(model, read_weights(path), repr(path))
    setattr(model, MEMORY, spec)
    return model.eval()


def sources_of(name: str) -> list[str]:
    """List the networks that a name without a source may mean, such as "timm:resnet18" for "resnet18"."""
    offered = {"edakari": [*EMBEDDED]}
    with contextlib.suppress(ModuleNotFoundError):
        import timm

        offered["timm"] = timm.list_models()
    with contextlib.suppress(ModuleNotFoundError):
        from torchvision.models import _api as registry

        offered["torchvision"] = registry.list_models()
    found = [f"{source}:{name}" for source, names in offered.items() if name in names]
    return [*found, f"{name}:FUNCTION"] if name.endswith(".py") else found


def spec_of(model: nn.Module) -> ModelSpec | None:
    """Return how a network was built; None if `build` did not make it. Copies of a network keep this record."""
    found = getattr(model, MEMORY, None)
    return found if isinstance(found, ModelSpec) else None


def default_example(spec: ModelSpec | str, model: nn.Module) -> Any:
    """Make an input of the size that a network expects.

    Args:
        spec: description of the network.
        model: the network; timm's networks know their input size.

    Returns:
        float32 zeros [1, C, H, W] on the CPU. If a network comes from a user's file with a function `example()`, the
        result of this function: a tensor, a tuple of positional arguments or a dict of keywords.

    Raises:
        ModelError: `example()` fails, or returns another type.
    """
    name = spec if isinstance(spec, str) else spec.name
    source, short = parted(name)
    if source.endswith(".py"):
        make = getattr(_executed(Path(source), short), "example", None)
        if callable(make):
            return _own_example(make, f"model {name!r}: example() in {source}")
    size: tuple[int, ...] = (3, 224, 224)
    if source == "edakari" and short in INPUTS:
        size = INPUTS[short]
    elif source == "torchvision" and short == "inception_v3":
        size = (3, 299, 299)
    else:
        for attribute in ("pretrained_cfg", "default_cfg"):
            config = getattr(model, attribute, None)
            if isinstance(config, Mapping) and config.get("input_size"):
                size = tuple(config["input_size"])
                break
        size = _asked(spec, size)
    return blank(1, *size)


def parted(name: str) -> tuple[str, str]:
    """Split a name into source and name of a network; hub names and file paths may contain colons.

    Args:
        name: see `ModelSpec`.
    """
    head, _, rest = name.partition(":")
    if head in SOURCES:
        return head, rest
    source, _, last = name.rpartition(":")
    return source, last


def _asked(spec: ModelSpec | str, size: tuple[int, ...]) -> tuple[int, ...]:
    options = {} if isinstance(spec, str) else spec.options
    side = options.get("img_size", size[-2:])
    height, width = (side, side) if isinstance(side, int) else side
    return int(options.get("in_chans", size[0])), int(height), int(width)


def _timm(name: str, spec: ModelSpec, pretrained: bool) -> Any:
    with needs("train", "a network of timm"):
        # imported here and below because they take seconds
        import timm

    if not name.startswith("hf-hub") and not timm.is_model(name):
        raise UnknownName("timm network", name, _close(name, timm.list_models()))
    return _constructed(lambda **options: timm.create_model(name, pretrained=pretrained, **options), spec)


def _torchvision(name: str, spec: ModelSpec, pretrained: bool) -> Any:
    with needs("train", "a network of torchvision"):
        from torchvision.models import _api as registry

    known = registry.list_models()
    if name not in known:
        raise UnknownName("torchvision network", name, _close(name, known))
    random: dict[str, Any] = {"init_weights": True} if name in ("googlenet", "inception_v3") and not pretrained else {}
    if "weights_backbone" in inspect.signature(registry.get_model_builder(name)).parameters and not pretrained:
        # otherwise detectors and segmenters download the weights of their backbones
        random["weights_backbone"] = None

    def make(**options: Any) -> Any:
        return registry.get_model(name, weights="DEFAULT" if pretrained else None, **{**random, **options})

    return _constructed(make, spec)


def _constructed(make: Callable[..., Any], spec: ModelSpec) -> Any:
    try:
        return make(**spec.options)
    except EdakariError:
        raise
    except (Exception, SystemExit) as error:
        offline = spec.weights == "pretrained"
        kind = WeightsError if offline else ModelError
        hint = (
            "are the weights available from here? If not, give the path of a .safetensors file"
            if offline
            else "check its options"
        )
        options = ", ".join(f"{key}={value!r}" for key, value in spec.options.items())
        raise kind(f"model {spec.name!r} with options ({options}) cannot be built: {cause(error)}; {hint}") from error


def _known(name: str, what: str, table: Mapping[str, Callable[..., nn.Module]]) -> Callable[..., nn.Module]:
    if name not in table:
        raise UnknownName(what, name, table)
    return table[name]


def _close(name: str, known: list[str]) -> list[str]:
    """The names to show in a message: there are more than a thousand."""
    return difflib.get_close_matches(name, known, n=8, cutoff=0.3)


def _embedded_weights(name: str) -> dict[str, torch.Tensor]:
    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file():
        having = ", ".join(sorted(f"edakari:{file.stem}" for file in WEIGHTS.glob("*.safetensors")))
        raise WeightsError(f"model 'edakari:{name}' ships without weights (with weights: {having}); omit model.weights")
    return read_weights(path)


def _own(path: Path, function: str) -> Callable[..., Any]:
    return cast(Callable[..., Any], attribute(_executed(path, function), path, function, "function"))


def _executed(path: Path, function: str) -> ModuleType:
    """A user's file as a module, run afresh: networks that it holds are not shared between calls."""
    return run_file(path, f"model '{path}:{function}'", ModelError)


def _own_example(make: Callable[[], Any], what: str) -> Any:
    try:
        example = make()
    except (Exception, SystemExit) as error:
        raise ModelError(f"{what} fails: {cause(error)}") from error
    if not isinstance(example, torch.Tensor | tuple | dict):
        raise ModelError(
            f"{what} returned a {type(example).__name__}; return a tensor, a tuple of inputs or a dict of them"
        )
    return example
