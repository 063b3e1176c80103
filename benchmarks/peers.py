"""The peers of the coverage table, each asked to prune a network as its own documentation says."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from networks import built
from torch import nn

RATIO = 0.55


def torch_pruning(name: str) -> dict[str, Any]:
    """torch-pruning's MetaPruner, every group at the same ratio, random scores."""
    import torch_pruning as tp

    model, example = built(name)
    model.eval()
    before = sum(p.numel() for p in model.parameters())
    heads = {m.qkv: m.num_heads for m in model.modules() if hasattr(m, "qkv") and hasattr(m, "num_heads")}
    ignored = [last for last in [_last_linear(model)] if last is not None]
    start = time.process_time()
    pruner = tp.pruner.MetaPruner(
        model,
        example,
        importance=tp.importance.RandomImportance(),
        pruning_ratio=RATIO,
        ignored_layers=ignored,
        num_heads=heads,
    )
    traced = time.process_time()
    share = _share(model, pruner, ignored)
    counted = time.process_time()
    pruner.step()
    for module in model.modules():
        if hasattr(module, "qkv") and hasattr(module, "head_dim"):
            module.num_heads = pruner.num_heads[module.qkv]
            module.head_dim = module.qkv.out_features // (3 * module.num_heads)
            module.attn_dim = module.qkv.out_features // 3
    seconds = time.process_time() - counted + traced - start
    with torch.no_grad():
        _forward(model, example)
    return {"seconds": seconds, "prunable": share, "parameters": sum(p.numel() for p in model.parameters()) / before}


def _share(model: nn.Module, pruner: Any, ignored: list[nn.Module]) -> float:
    """Share of the parameters in a dimension of some group that the pruner would cut."""
    touched: dict[int, int] = {}
    graph = pruner.DG
    for group in graph.get_all_groups(ignored_layers=ignored, root_module_types=pruner.root_module_types):
        for dependency, _ in group:
            for parameter in _cut(dependency):
                touched[id(parameter)] = parameter.numel()
    return sum(touched.values()) / sum(p.numel() for p in model.parameters())


def _cut(dependency: Any) -> list[nn.Parameter]:
    """What a step of a group makes smaller; fewer inputs leave a bias as it is."""
    layer = dependency.target.module
    if isinstance(layer, nn.Parameter):
        return [layer]
    inputs_only = "in_channels" in dependency.handler.__name__ and isinstance(
        layer, nn.Linear | nn.modules.conv._ConvNd
    )
    return [layer.weight] if inputs_only else list(layer.parameters(recurse=False))


def _last_linear(model: nn.Module) -> nn.Module | None:
    return next((m for m in reversed(list(model.modules())) if isinstance(m, nn.Linear | nn.Conv2d)), None)


def _forward(model: nn.Module, example: Any) -> Any:
    if isinstance(example, dict):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def kirigami(name: str) -> dict[str, Any]:
    """torch-kirigami's graph alone: its automatic planning takes minutes for most networks; see core.py."""
    from torch_kirigami import DependencyGraph

    model, example = built(name)
    arguments = {"kwargs": example} if isinstance(example, dict) else {"args": _as_tuple(example)}
    start = time.process_time()
    DependencyGraph.build(model.eval(), **arguments)
    return {"seconds": time.process_time() - start}


def _as_tuple(example: Any) -> tuple[Any, ...]:
    return example if isinstance(example, tuple) else (example,)


PEERS: dict[str, Callable[[str], dict[str, Any]]] = {"torch-pruning": torch_pruning, "torch-kirigami": kirigami}
