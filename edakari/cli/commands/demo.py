"""`edakari demo`: prunes an embedded network on embedded data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from edakari.cli.commands.prune import run_recipe
from edakari.cli.console import guarded

__all__ = ["demo"]


def demo_recipe(model: str, budget: str) -> dict[str, Any]:
    """Return the recipe of the demo; `recipes/fashion_*.yaml` are longer versions."""
    finetune: dict[str, dict[str, Any]] = {
        "cnn": {"epochs": 6, "lr": 0.02},
        "vit": {"epochs": 3, "lr": 0.001, "optimizer": "adamw", "weight_decay": 0.01},
    }
    return {
        "model": {"name": f"edakari:fashion_{model}", "weights": "pretrained"},
        "data": {"source": "embedded:fashion"},
        "method": {"name": "magnitude"},
        "budget": budget,
        "groups": {"round_to": 8},
        "finetune": {**finetune[model], "distill": {"weight": 0.5, "temperature": 4.0}},
        "measure": {"runtimes": ["torch", "onnxruntime"], "repeats": 100},
        "export": ["onnx"],
        "device": "cpu",
    }


@guarded
def demo(
    model: Annotated[Literal["cnn", "vit"], typer.Option(help="A CNN or a vision transformer.")] = "cnn",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder. Default: runs/demo-MODEL.")] = None,
    budget: Annotated[str, typer.Option(help="Budget of the pruned network, such as latency<=60%.")] = "macs<=50%",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove the results of an earlier run.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Prune an embedded network on embedded images, fine-tune it, and compare: a few minutes."""
    from edakari.pipeline import recipe_from

    folder = output or Path("runs") / f"demo-{model}"
    run_recipe(recipe_from(demo_recipe(model, budget), "the demo's recipe"), folder, overwrite, as_json)
