"""`edakari convert`: converts a checkpoint of another training to a safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edakari.cli.commands.inspect import keywords
from edakari.cli.console import guarded, print_json, show
from edakari.cli.layout import Column, Grid

__all__ = ["convert"]

SHOWN = 12


@guarded
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="File written by torch.save, such as best.pth.tar.")],
    output: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    key: Annotated[str | None, typer.Option(help="Dotted key of the weights, such as ema.state_dict.")] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Take only names with this prefix, and remove it; '' keeps all names.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Network whose names and shapes must fit, such as timm:resnet50.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="Keyword argument of its constructor: key=value, such as num_classes=10."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write the weights in a checkpoint as safetensors, which recipes read; runs no code from the file."""
    from rich.markup import escape

    from edakari.core.file_errors import require_writable
    from edakari.errors import RunFolderError, WeightsError

    if output.suffix != ".safetensors":
        raise WeightsError(f"{output}: the output must be a .safetensors file")
    if output.exists() and not overwrite:
        raise RunFolderError(f"{output} already exists; choose another file or pass --overwrite")
    require_writable(output)
    done = _converted(checkpoint, output, key, prefix, model, keywords(option or []))
    if as_json:
        print_json(done)
        return
    rows = {
        "weights under": done["key"] or "the file itself",
        "prefixes removed": ", ".join(done["prefixes"]) or "none",
        "tensors": f"{done['tensors']}, {done['bytes'] / 1e6:.1f} MB ({', '.join(done['types'])})",
        "fit": done["model"] or "not compared with a network; use --model NAME",
        "left out": "\n".join([*done["left_out"][:SHOWN], *_more(done["left_out"])]) or "nothing",
    }
    show(Grid((Column("", figures=False), Column("", figures=False)), [[name, text] for name, text in rows.items()]))
    show(f"\nWeights: [bold]{escape(str(output.resolve()))}[/]")


def _converted(
    checkpoint: Path, output: Path, key: str | None, prefix: str | None, model: str | None, options: dict[str, Any]
) -> dict[str, Any]:
    import torch
    from safetensors.torch import save_file

    from edakari.core.files import replacing
    from edakari.models import build, check_fit
    from edakari.models.checkpoints import convert as found_in

    wanted = {}
    if model is not None:
        with torch.device("meta"):
            wanted = build(model, **options).state_dict()
    found = found_in(checkpoint, key=key, prefix=prefix, names=wanted)
    if model is not None:
        check_fit(wanted, found.tensors, repr(str(checkpoint)))
    with replacing(output) as temporary:
        save_file(dict(found.tensors), temporary, metadata={"format": "pt"})
    return {
        "key": found.key,
        "prefixes": list(found.prefixes),
        "tensors": len(found.tensors),
        "bytes": sum(each.numel() * each.element_size() for each in found.tensors.values()),
        "types": sorted({str(each.dtype).removeprefix("torch.") for each in found.tensors.values()}),
        "model": model,
        "left_out": list(found.left_out),
        "output": str(output),
    }


def _more(entries: list[str]) -> list[str]:
    return [f"and {len(entries) - SHOWN} more"] if len(entries) > SHOWN else []
