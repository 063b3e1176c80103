"""Structure of a network as plain data, to describe in messages and files how two networks differ."""

from __future__ import annotations

import dataclasses as dc
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from edakari.errors import PlanError, RunFolderError
from edakari.surgery.new_layers import follow_outputs, outputs_of_layer

__all__ = ["Structure", "replace_modules", "replaced", "structure_of"]

NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
CONV = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
SIMPLE: Mapping[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    cls.__name__: (cls, fields)
    for cls, fields in (
        (nn.Linear, ("in_features", "out_features")),
        *((conv, CONV) for conv in (nn.Conv1d, nn.Conv2d, nn.Conv3d)),
        *((conv, (*CONV, "output_padding")) for conv in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)),
        *((norm, NORM) for norm in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)),
        (nn.LayerNorm, ("normalized_shape", "eps", "elementwise_affine")),
        (nn.GroupNorm, ("num_groups", "num_channels", "eps", "affine")),
        *((drop, ("p", "inplace")) for drop in (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)),
        *((act, ("inplace",)) for act in (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Mish)),
        *((act, ()) for act in (nn.Identity, nn.Sigmoid, nn.Tanh)),
        (nn.LeakyReLU, ("negative_slope", "inplace")),
        (nn.GELU, ("approximate",)),
        (nn.Softmax, ("dim",)),
        (nn.LogSoftmax, ("dim",)),
        (nn.Flatten, ("start_dim", "end_dim")),
        *((pool, ("output_size",)) for pool in (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)),
    )
}
"""Simple modules and the constructor arguments that describe them; the weights tell `bias`."""
WITH_BIAS = ("Linear", "LayerNorm", *(f"Conv{kind}{dims}d" for kind in ("", "Transpose") for dims in (1, 2, 3)))
FEW = 6
"""Number of layers that may be replaced in any network; in large networks a quarter of the layers."""

Description = dict[str, Any]

_encoded = json.JSONEncoder(sort_keys=True).encode


@dc.dataclass(frozen=True)
class Structure:
    """Modules and tensors of a network.

    Args:
        modules: JSON description of each simple module, or class name of another module, by dotted path.
        tensors: shapes of the tensors in the state dict, by name.
    """

    modules: Mapping[str, str]
    tensors: Mapping[str, tuple[int, ...]]

    def __deepcopy__(self, memo: Any) -> Structure:
        return self


def structure_of(model: nn.Module) -> Structure:
    """Return the structure of a network."""
    modules = {path: _signature(module) for path, module in model.named_modules(remove_duplicate=False)}
    state = model.state_dict()
    return Structure(modules, {name: tuple(value.shape) for name, value in state.items() if hasattr(value, "shape")})


def replaced(expected: Structure, found: Structure) -> dict[str, Description]:
    """Find the modules to replace in one network so that it becomes another.

    Args:
        expected: structure of the network as it can be built.
        found: structure of the network as it is.

    Returns:
        Descriptions by dotted path; an outer module includes its inner modules.

    Raises:
        PlanError: the networks differ in a way that no description covers; the message names the difference.
    """
    paths = sorted({*expected.modules, *found.modules}, key=lambda path: (path.count("."), path))
    result: dict[str, Description] = {}
    for path in paths:
        before, after = expected.modules.get(path), found.modules.get(path)
        if before == after or _same_norm(before, after) or _within(path, result):
            continue
        described = _described(path, found)
        if described is None or not path:
            raise PlanError(
                f"module {path or 'the network itself'!r} is {_plain(after)}, but the plan gives {_plain(before)}"
            )
        result[path] = described
    _check_few(result, found)
    names = [name for name in {**expected.tensors, **found.tensors} if not _within(name, result)]
    differing = [name for name in names if expected.tensors.get(name) != found.tensors.get(name)]
    if differing:
        first = differing[0]
        more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise PlanError(
            f"{first} is {_shape(found.tensors.get(first))}, but the plan gives "
            f"{_shape(expected.tensors.get(first))}{more}"
        )
    return result


def _check_few(descriptions: Mapping[str, Description], found: Structure) -> None:
    """Raise an error if too many layers differ: the network was pruned differently."""
    holders = {name.rpartition(".")[0] for name in found.tensors}
    others = [path for path in holders if _within(path, descriptions)]
    if len(others) > max(FEW, len(holders) // 4):
        raise PlanError(
            f"{len(others)} of {len(holders)} layers differ from the plan's result, such as {min(others)!r}; was it "
            "pruned by this plan?"
        )


def replace_modules(model: nn.Module, descriptions: Mapping[str, Description]) -> None:
    """Replace modules of a network by new ones from descriptions, in place; weights are not set.

    Raises:
        RunFolderError: a description is not of a simple module, or the network has no module at its path.
    """
    for path, description in descriptions.items():
        try:
            parent = model.get_submodule(path.rpartition(".")[0])
            parameter = next(model.parameters(), torch.zeros(()))
            with torch.device("meta"):
                made = _made(description)
            before = parent._modules[path.rpartition(".")[2]]
            parent._modules[path.rpartition(".")[2]] = made.to_empty(device=parameter.device)
            _follow(model, path, before, made)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunFolderError(f"module {path!r} cannot be made of {description!r}: {error}") from error


def _follow(model: nn.Module, path: str, before: nn.Module | None, after: nn.Module) -> None:
    """Set the numbers of outputs that the code reads, such as `num_classes`, where a prediction layer was replaced."""
    counts = [None if layer is None else outputs_of_layer(layer) for layer in (before, after)]
    if counts[0] is not None and counts[1] is not None and counts[0] != counts[1]:
        follow_outputs(model, path, counts[0], counts[1])


def _signature(module: nn.Module) -> str:
    description = _description(module)
    if description is not None:
        return _encoded(description)
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _description(module: nn.Module) -> Description | None:
    kind = type(module).__name__
    if SIMPLE.get(kind, (None,))[0] is not type(module):
        return None
    made: Description = {"kind": kind}
    for field in SIMPLE[kind][1]:
        value = getattr(module, field)
        made[field] = list(value) if isinstance(value, tuple) else value
    if kind in WITH_BIAS:
        made["bias"] = module.bias is not None
    return made


def _described(path: str, found: Structure) -> Description | None:
    """Describe a module of a structure: a simple module, or a sequence of simple modules."""
    signature = found.modules.get(path)
    if signature is None:
        return None
    if signature.startswith("{"):
        made: Description = json.loads(signature)
        return made
    if signature != f"{nn.Sequential.__module__}.Sequential":
        return None
    names = [name[len(path) + 1 :] for name in found.modules if name.startswith(f"{path}.")]
    parts = {name: _described(f"{path}.{name}", found) for name in names if "." not in name}
    return {"kind": "Sequential", "parts": parts} if all(parts.values()) else None


def _made(description: Any) -> nn.Module:
    if description["kind"] == "Sequential":
        made = nn.Sequential()
        for name, part in description["parts"].items():
            made.add_module(name, _made(part))
        return made
    cls, fields = SIMPLE[description["kind"]]
    given = {key: _argument(value) for key, value in description.items() if key != "kind"}
    if not {*given} <= {*fields, "bias"}:
        raise ValueError(f"{cls.__name__} has no {', '.join(sorted({*given} - {*fields, 'bias'}))}")
    return cls(**given)


def _argument(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_argument(each) for each in value)
    if value is not None and not isinstance(value, bool | int | float | str):
        raise ValueError(f"{value!r} is not an argument of a simple module")
    return value


def _same_norm(before: str | None, after: str | None) -> bool:
    """Return whether one is the synchronised form of the other batch normalisation."""
    return after == "torch.nn.modules.batchnorm.SyncBatchNorm" and "BatchNorm" in (before or "")


def _within(path: str, outer: Mapping[str, Any]) -> bool:
    return any(parent in outer for parent in _parents(path))


def _parents(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]


def _plain(signature: str | None) -> str:
    if signature is None:
        return "not there"
    if not signature.startswith("{"):
        return f"a {signature.rpartition('.')[2]}"
    described = json.loads(signature)
    return f"{described.pop('kind')}({', '.join(f'{key}={value}' for key, value in described.items())})"


def _shape(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else str(list(shape))
