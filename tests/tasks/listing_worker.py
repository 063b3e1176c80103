"""One of two processes that open the data of a folder together; the second one can list no folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from edakari.core.processes import Processes
from edakari.errors import DataError
from edakari.pipeline import processes
from edakari.pipeline.context import RecipeSubject, Run
from edakari.pipeline.recipe import recipe_from
from edakari.pipeline.store import MemoryStore
from edakari.tasks.sources import from_folder
from edakari.tasks.sources.listing import image_files, sizes_on_disk
from edakari.tasks.sources.together import reading_together


def main(folder: Path) -> None:
    """Lists made in one process are those of both, and so is what is wrong with them."""
    here = processes.started(cpu=True)
    expected = from_folder(folder)
    files, sizes = image_files(folder), sizes_on_disk(folder, expected.names)
    with pytest.MonkeyPatch.context() as patch:
        if here.rank:
            patch.setattr(os, "scandir", _refuse)
            patch.setattr("edakari.tasks.images.image_size", _refuse)
        with reading_together(here):
            found = from_folder(folder)
            assert image_files(folder) == files
            assert (sizes_on_disk(folder, found.names) == sizes).all()
        assert found.identity() == expected.identity()
        assert (found.labels == expected.labels).all()
        assert found.pixels(1).shape == (3, 8, 8)
        _opened(folder, here)
        (folder / "dog" / "a.png").unlink(missing_ok=True)
        here.wait()
        with pytest.raises(DataError, match=r"dog.*no images"), reading_together(here):
            from_folder(folder)
        if here.rank:  # outside of the context each process reads for itself
            with pytest.raises(DataError, match="cannot be read"):
                from_folder(folder)


def _opened(folder: Path, here: Processes) -> None:
    """The data of a run."""
    data = {"source": str(folder), "workers": 0, "image_size": 8, "batch_size": 2}
    recipe = recipe_from(
        {"model": {"name": "timm/resnet18"}, "data": data, "budget": "macs<=50%", "method": "magnitude"}
    )
    run = Run(recipe, RecipeSubject(recipe), MemoryStore(), here)
    run.open_data()
    assert run.task.digest()  # type: ignore[attr-defined]


def _refuse(path: Any) -> None:
    raise PermissionError(path)
