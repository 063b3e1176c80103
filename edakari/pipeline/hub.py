"""A run's pruned network as a repository of the Hugging Face Hub."""

from __future__ import annotations

import importlib
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from edakari.core.arguments import require
from edakari.core.file_errors import file_errors
from edakari.core.files import write_json, write_text
from edakari.core.optional import needs, require_packages
from edakari.core.reading import because, inside, require_regular
from edakari.errors import ExportError, RunFolderError
from edakari.pipeline.deployment import about_run, exported_files, write_about
from edakari.pipeline.folder import RunFolder

__all__ = ["hub_files", "push"]

NETWORK = ("plan.json", "network.json", "weights.safetensors", "masks.safetensors")
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@file_errors()
def hub_files(folder: str | Path, repo: str, output: str | Path) -> None:
    """Write the files of a repository: model card, `config.json`, the network for `edakari.load`, and its exports.

    Nothing of the recipe, of the machine or of the data is among them but what the card says: method, budget, classes
    and figures.

    Args:
        folder: folder of a finished run.
        repo: name of the repository, USER/NAME.
        output: folder to write to.

    Raises:
        ExportError: the name has another form.
        RunFolderError: the run is not finished, or a file is damaged.
    """
    path = (str, Path)
    require("hub_files(folder, repo, output)", folder=(folder, path), repo=(repo, str), output=(output, path))
    from edakari.report import collect
    from edakari.report.card import config, model_card

    if not NAME.fullmatch(repo):
        raise ExportError(f"a repository is named USER/NAME in letters, digits, '-', '_' and '.', found {repo!r}")
    run, output = RunFolder(Path(folder)), Path(output)
    if not run.done("finetune"):
        raise RunFolderError(f"{folder} holds no finished network yet; run its recipe to the end with `edakari prune`")
    report, metadata = collect(run.path), about_run(run).metadata
    files = [each for each in exported_files(run.exported, str(metadata["plan"])) if each.get("network") == "pruned"]
    about: dict[str, Any] = {**metadata, "files": files}
    for name in NETWORK:
        if name != NETWORK[-1] or (run.path / name).exists():
            _copied(run.path, name, output / name)
    if files:
        for each in files:
            _copied(run.exported, each["path"], output / run.exported.name / each["path"])
            weights = Path(each["path"]).with_suffix(".bin").name
            if each["path"].endswith(".xml"):
                _copied(run.exported, weights, output / run.exported.name / weights)
        write_about(output / run.exported.name, about)
    write_json(output / "config.json", config(report, about))
    write_text(output / "README.md", model_card(report, about, repo))


def push(folder: str | Path, repo: str, *, private: bool = False) -> str:
    """Upload a run's pruned network to the Hugging Face Hub, as the user whom `hf auth login` has logged in.

    Args:
        folder: folder of a finished run.
        repo: name of the repository, USER/NAME; it is made if there is none.
        private: whether a new repository is private.

    Returns:
        The address of the repository.

    Raises:
        ExportError: the Hub refuses, or cannot be reached.
        MissingPackage: the extra `hub` is not installed.
        RunFolderError: the run is not finished, or a file is damaged.
    """
    require_packages("hub", "pushing to the Hugging Face Hub", "huggingface_hub")
    with tempfile.TemporaryDirectory() as temporary:
        hub_files(folder, repo, temporary)
        with needs("hub", "pushing to the Hugging Face Hub"):
            library: Any = importlib.import_module("huggingface_hub")
        try:
            api = library.HfApi(library_name="edakari")
            address = api.create_repo(repo, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo, folder_path=temporary, commit_message="Pruned by edakari")
        except Exception as error:  # of the network, of the Hub, and of whoever is not logged in
            said = next(iter(str(error).strip().splitlines()), "no message")
            raise ExportError(
                f"{repo} cannot be pushed: {type(error).__name__}: {said}. Log in with `hf auth login` as somebody who "
                "may write to it, and try again"
            ) from error
    return str(address)


def _copied(folder: Path, name: str, target: Path) -> None:
    """Copy a file or a folder of a run folder, which must not lead out of it."""
    try:
        source = inside(folder, name)
        parts = sorted(source.rglob("*")) if source.is_dir() else [source]
        for part in parts:
            if part.is_dir():
                continue
            require_regular(inside(folder, part.relative_to(folder)))
            copy = target / part.relative_to(source) if source.is_dir() else target
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(part, copy)
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{folder / name} cannot be copied: {because(error)}") from error
