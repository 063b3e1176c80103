"""`edakari init`: a recipe to begin with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edakari.cli.console import guarded, show

__all__ = ["init"]

RECIPE = """\
# yaml-language-server: $schema={schema}
# docs/reference/recipe.md says what each key may hold; an editor with a YAML server completes and checks them.

model:
  name: edakari:fashion_cnn  # or timm:NAME, torchvision:NAME, path/to/file.py:function, or a run folder
  weights: pretrained  # or the path of a .safetensors file, or random

data:
  source: embedded:fashion  # or an image folder with train/ and val/ in it, or an .npz file
  batch_size: 128

method: magnitude  # edakari methods lists them; settings stand below: {{name: taylor, iterations: 3}}

budget: macs<=50%  # or params<=8M, size<=1MB, memory<=50%, latency<=12ms; several with commas

groups:
  round_to: 8  # widths become multiples of this number

finetune:
  epochs: 2
  lr: 0.01

measure:
  runtimes: [torch]

export: []  # onnx, openvino, program, ...
"""


@guarded
def init(
    path: Annotated[Path, typer.Argument(help="Where the recipe goes.")] = Path("recipe.yaml"),
    schema_only: Annotated[bool, typer.Option("--schema", help="Write only the schema beside it.")] = False,
) -> None:
    """Write a commented recipe, and the schema by which an editor completes and checks it."""
    from edakari.core.files import write_text
    from edakari.errors import RunFolderError
    from edakari.pipeline.schema import SCHEMA, recipe_schema

    if path.exists() and not schema_only:
        raise RunFolderError(f"{path} already exists; name another file, or ask for --schema alone")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path.parent / SCHEMA, json.dumps(recipe_schema(), indent=1) + "\n")
    if not schema_only:
        write_text(path, RECIPE.format(schema=SCHEMA))
        show(f"{path} is a recipe; check it by `edakari prune {path} --check`, run it by `edakari prune {path}`")
