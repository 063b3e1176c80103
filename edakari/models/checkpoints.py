"""Extraction of weights from trainers' checkpoints, without wrappers' prefixes and without running code."""

from __future__ import annotations

import dataclasses as dc
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from edakari.core.file_errors import file_errors
from edakari.errors import WeightsError
from edakari.models.prefixes import wrapper_prefix
from edakari.models.weights import read_weights

__all__ = ["Converted", "convert"]

WEIGHTS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "params", "weights")
AVERAGED = ("ema", "model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "params_ema", "averaged_model")
OTHERS = ("optim", "sched", "scaler", "loss", "criterion")
"""Prefixes of keys that hold other state than weights."""
WRAPPERS = (
    *("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_forward_module.", "_checkpoint_wrapped_module."),
    *("model.", "ema_model.", "ema.", "model_ema.", "net.", "network.", "state_dict."),
)
"""Prefixes that wrappers and trainers add to every name."""
ANYWHERE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""Wrappers' parts of names that no network has itself, anywhere in a name."""
STRAYS = ("n_averaged", "num_updates", "decay")
"""Entries that weight averaging wrappers store next to the weights."""
SHOWN = 6


@dc.dataclass(frozen=True)
class Converted:
    """Weights from a checkpoint, and how they were found.

    Args:
        tensors: tensors by name, each with its own storage.
        key: dotted key of the weights; empty if the checkpoint holds only weights.
        prefixes: prefixes that were removed from the names, in order.
        left_out: description of the other content of the checkpoint.
    """

    tensors: Mapping[str, torch.Tensor]
    key: str
    prefixes: tuple[str, ...]
    left_out: tuple[str, ...]


@file_errors()
def convert(
    path: str | Path, *, key: str | None = None, prefix: str | None = None, names: Iterable[str] = ()
) -> Converted:
    """Find the weights in a checkpoint, without running code from it.

    Args:
        path: path of a file that `torch.save` wrote, or of a safetensors file.
        key: dotted key of the weights, such as "ema.state_dict"; None searches for it.
        prefix: prefix of the names to take, which is removed. None searches for wrappers' prefixes; an empty prefix
            leaves the names unchanged.
        names: names in the network's state dict, if known; the prefix is then chosen so that they fit.

    Raises:
        WeightsError: the file cannot be read without running code, or holds no or several sets of weights.
    """
    path = Path(path)
    content = read_weights(path) if path.suffix == ".safetensors" else _loaded(path)
    found, where = _found(content, path, key)
    left_out = [] if where == "" else [f"{name}: {_said(value)}" for name, value in _beside(content, where)]
    tensors = {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}
    left_out += [f"{name}: {_said(value)}" for name, value in found.items() if not isinstance(value, torch.Tensor)]
    named, prefixes, other = _freed(tensors, prefix, frozenset(names), path)
    left_out += [f"{name}: {_said(tensors[name])}" for name in other]
    return Converted({name: _own(value, name, path) for name, value in named.items()}, where, prefixes, tuple(left_out))


def _loaded(path: Path) -> Any:
    if not path.is_file():
        raise WeightsError(f"checkpoint {str(path)!r}: there is no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about archives that are rejected right away
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(_refused(path, str(error))) from None
    except Exception as error:  # torch and zipfile raise many types of errors for damaged files
        script = "TorchScript" in str(error)
        what = "is a TorchScript archive" if script else f"cannot be read ({type(error).__name__}: {_line(error)})"
        hint = "save the state_dict() of the module that it was made of" if script else "was it cut short?"
        raise WeightsError(f"checkpoint {str(path)!r} {what}; {hint}") from None


def _refused(path: Path, text: str) -> str:
    """Advice for a checkpoint that holds more than data."""
    named = re.search(r"GLOBAL ([\w.]+) was not an allowed global", text) or re.search(r"class ([\w.]+)", text)
    if named is None:
        return (
            f"checkpoint {str(path)!r} cannot be read without running code in it, or is damaged: {text.strip()[:200]}"
        )
    name = named[1]
    what = f"a numpy value ({name})" if name.startswith("numpy") else f"an object of {name}"
    return (
        f"checkpoint {str(path)!r} holds {what}, and reading it would run code from the file; nothing was run. "
        "If you trust the file, save only its weights in Python, and convert these: checkpoint = torch.load("
        f"{str(path)!r}, weights_only=False, map_location='cpu'); torch.save(checkpoint['state_dict'], 'weights.pth'), "
        "or checkpoint['model'].state_dict() if it holds a complete module"
    )


def _found(content: Any, path: Path, key: str | None) -> tuple[Mapping[Any, Any], str]:
    """The mapping of weights in a checkpoint, and its dotted key."""
    if key is not None:
        chosen = dict(_mappings(content)).get(key)
        if chosen is None or not _is_weights(chosen):
            raise WeightsError(f"checkpoint {str(path)!r} has no weights under {key!r}; {_offered(content)}")
        return chosen, key
    candidates = {name: each for name, each in _mappings(content) if _is_weights(each)}
    if "" in candidates:
        return candidates[""], ""
    usable = [name for name in candidates if not name.rpartition(".")[2].lower().startswith(OTHERS)]
    for known in (WEIGHTS, AVERAGED):
        ranked = sorted((name.count("."), known.index(last), name) for name in usable if (last := _last(name)) in known)
        if ranked and not (known is WEIGHTS and _last(ranked[0][2].partition(".")[0]) in AVERAGED):
            return candidates[ranked[0][2]], ranked[0][2]
    if len(usable) == 1:
        return candidates[usable[0]], usable[0]
    if candidates:
        raise WeightsError(f"checkpoint {str(path)!r} holds weights under several keys; say which: {_offered(content)}")
    raise WeightsError(f"checkpoint {str(path)!r} holds no weights, but {_said(content)}")


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _mappings(content: Any, name: str = "", depth: int = 4) -> Iterable[tuple[str, Mapping[Any, Any]]]:
    """Every mapping in a checkpoint by its dotted key, outer ones first."""
    layer = [(name, content)] if isinstance(content, Mapping) else []
    for _ in range(depth):
        yield from layer
        layer = [
            (f"{outer}.{key}" if outer else str(key), value)
            for outer, mapping in layer
            if not _is_weights(mapping)
            for key, value in mapping.items()
            if isinstance(value, Mapping)
        ]


def _is_weights(value: Mapping[Any, Any]) -> bool:
    """Whether a mapping is a state dict: names of tensors, perhaps with a few other values."""
    tensors = [key for key, each in value.items() if isinstance(key, str) and isinstance(each, torch.Tensor)]
    return len(tensors) > 0.5 * len(value) and any("." in key or key in ("weight", "bias") for key in tensors)


def _offered(content: Any) -> str:
    names = [f"--key {name}" for name, each in _mappings(content) if name and _is_weights(each)]
    return f"there are {', '.join(names)}" if names else f"it holds {_said(content)}"


def _beside(content: Any, where: str) -> list[tuple[str, Any]]:
    """The entries next to the weights, at each level above them."""
    found, here, path = [], content, ""
    for part in where.split("."):
        found += [(f"{path}{key}", value) for key, value in here.items() if str(key) != part]
        here, path = here[part], f"{path}{part}."
    return found


def _freed(
    tensors: Mapping[str, torch.Tensor], prefix: str | None, wanted: frozenset[str], path: Path
) -> tuple[dict[str, torch.Tensor], tuple[str, ...], list[str]]:
    """Tensors by name without prefixes, the removed prefixes, and the names that were left out."""
    names = {name: name for name in tensors}  # name in the file: name in the network
    taken: list[str] = []
    if prefix is not None:
        taken = [prefix] if prefix else []
        names = {name: name[len(prefix) :] for name in tensors if name.startswith(prefix)}
        if not names:
            raise WeightsError(f"checkpoint {str(path)!r}: no name begins with {prefix!r}; {_beginnings(tensors)}")
    else:
        for inner in ANYWHERE:
            if any(inner in name for name in names.values()):
                taken.append(inner)
                names = {name: short.replace(inner, "") for name, short in names.items()}
        while found := _common(names.values(), wanted):
            taken.append(found)
            names = {name: short[len(found) :] for name, short in names.items() if short.startswith(found)}
    result: dict[str, torch.Tensor] = {}
    for name, short in names.items():
        if short in result:
            raise WeightsError(f"checkpoint {str(path)!r}: two names become {short!r}; choose one with --prefix")
        result[short] = tensors[name]
    return result, tuple(taken), [name for name in tensors if name not in names]


def _common(names: Iterable[str], wanted: frozenset[str]) -> str | None:
    """Find the prefix to remove: one that makes names fit the network, or a wrapper's that all names have."""
    names = list(names)
    if wanted:
        return wrapper_prefix(names, wanted)
    whole = [name for name in names if name not in STRAYS]
    return next((start for start in WRAPPERS if whole and all(name.startswith(start) for name in whole)), None)


def _beginnings(names: Iterable[str]) -> str:
    found = list(dict.fromkeys(f"{name.partition('.')[0]}." for name in names))
    return f"names begin with {', '.join(found[:SHOWN])}{' …' if len(found) > SHOWN else ''}"


def _own(value: torch.Tensor, name: str, path: Path) -> torch.Tensor:
    if value.is_meta or value.is_quantized or value.layout != torch.strided:
        raise WeightsError(
            f"checkpoint {str(path)!r}: {name} is a {'meta' if value.is_meta else value.layout} tensor of type "
            f"{value.dtype}, which a safetensors file cannot hold; save it as a plain tensor"
        )
    return value.detach().clone(memory_format=torch.contiguous_format)


def _said(value: Any) -> str:
    """Describe a value in a few words."""
    if isinstance(value, torch.Tensor):
        return f"tensor {list(value.shape)}"
    if isinstance(value, Mapping):
        weights = " with weights" if _is_weights(value) else ""
        keys = ", ".join(str(key) for key in list(value)[:SHOWN])
        return f"mapping of {len(value)} ({keys}{', …' if len(value) > SHOWN else ''}){weights}"
    if isinstance(value, list | tuple | set):
        return f"{type(value).__name__} of {len(value)}"
    return f"{type(value).__name__} {str(value)[:40]}"


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
