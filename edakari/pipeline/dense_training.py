"""Training without pruning: of a dense network, or of a pruned one that was moved to other data."""

from __future__ import annotations

import contextlib
import dataclasses as dc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from edakari.core import owned
from edakari.core.file_errors import file_errors, require_writable
from edakari.core.files import replacing, write_json
from edakari.core.memory_format import MemoryFormat, in_memory_format
from edakari.core.processes import Processes
from edakari.core.protocols import Schedule
from edakari.core.reading import read_json
from edakari.cost.example import mapped
from edakari.errors import RecipeError, RunFolderError, WeightsError
from edakari.models import check_trusted
from edakari.pipeline import processes
from edakari.pipeline.context import Notify, RecipeSubject, silent, training_loop, watching
from edakari.pipeline.environment import environment
from edakari.pipeline.folder import RECIPE, differences, settings_of, stored_recipe, told_differences
from edakari.pipeline.load import as_recipe
from edakari.pipeline.masked import fixed_masks
from edakari.pipeline.memory_format import chosen_format
from edakari.pipeline.one_batch import Trial
from edakari.pipeline.preflight import check_training
from edakari.pipeline.settings import Recipe
from edakari.pipeline.tracking import both, tracked
from edakari.pipeline.trial import try_training
from edakari.surgery import is_saved, save_as_pruned
from edakari.tasks.sources.together import reading_together
from edakari.train import FitSettings, task_objective
from edakari.train.resume import checkpoint_in

__all__ = ["train_dense"]

KIND = "edakari.train/1"


@file_errors()
def train_dense(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    path: str | Path,
    *,
    overwrite: bool = False,
    trust_code: bool = False,
    notify: Notify = silent,
) -> Mapping[str, Any]:
    """Train a network by the recipe's `train` section, without pruning, and write it.

    Of a network with a name, the weights are written, to a .safetensors file. A pruned network (`model: runs/ticket`)
    and one that is moved to other data (`transfer`) are written to a folder, which `edakari.load` and other recipes
    read; structure and weight masks stay.

    An interrupted training resumes from the folder `<path>.work` next to the output, which is removed at the end.

    Args:
        recipe: path of a recipe file, content of such a file, or a `Recipe`. The training starts from its model's
            weights; from random ones if there are none, or if they are this very file.
        path: path of the .safetensors file or of the folder.
        overwrite: whether to replace an existing file or network, and the checkpoint of a training by another recipe.
        trust_code: whether to run Python files that a recipe file names.
        notify: callback for the steps and epochs of the stage "train"; see `edakari.run`.

    Returns:
        The metrics, and the values of each epoch.

    Raises:
        RecipeError: the recipe has no `train` section, or asks for something that is not possible here.
        RunFolderError: the file exists already or cannot be written, or a training by another recipe was interrupted.
        WeightsError: the weights to start from do not exist or do not fit.
        EdakariError: the network or its task fails on the first batches, which are tried before anything is written.
        UntrustedCode: a recipe from a file names Python code, and the user has not agreed to run it.
    """
    recipe = as_recipe("train_dense(recipe, path)", recipe, path, trust_code=trust_code)
    path = Path(path)
    schedule = recipe.train
    if schedule is None:
        raise RecipeError("the recipe has no 'train' section; it says how to train the dense network")
    output = _output(recipe, path)
    if path.exists() and not overwrite:
        raise RunFolderError(f"{path} already exists; name another output or give --overwrite")
    for written in (*output.files, _work(path) / RECIPE):
        require_writable(written)
    check_trusted(recipe.model, "the recipe", trust_code=recipe.trust_code)  # before anything is written
    together = processes.started(cpu=recipe.device == "cpu")
    with (
        together.ending_together(),
        tracked(recipe.report_to, output.logs, recipe.content) as trackers,
        watching("train", both(notify, trackers)),
    ):
        check_training(recipe, together)
        return _trained(_started(recipe, path), schedule, output, together, overwrite)


def _trained(
    recipe: Recipe, schedule: Schedule, output: _Output, together: Processes, overwrite: bool
) -> Mapping[str, Any]:
    """Train and write the network of a recipe that this machine can train."""
    work = _work(output.path)
    subject = RecipeSubject(recipe)
    with reading_together(together):
        model, task = subject.model().to(together.device), subject.task()
    example = mapped(task.example(), lambda tensor: tensor.to(together.device))
    try_training(Trial(model, task, example, together))  # before anything is written
    with _resumable(work, recipe, output, together, overwrite):
        form = _format_in(work, together, lambda: chosen_format(model, task, example).form)
        history = training_loop(recipe)(
            model,
            task_objective(task),
            task.batches("train"),
            schedule,
            settings=FitSettings(
                folder=work,
                seed=recipe.seed,
                device=recipe.device,
                memory_format=form,
                compile=recipe.compile,
                gradient_checkpointing=bool(recipe.gradient_checkpointing),
                sync_bn=bool(recipe.sync_bn),
                tf32=recipe.tf32 is not False,
            ),
            hooks=fixed_masks(model),
            evaluate=task.evaluate,
        )
    metrics = dict(history.metrics) if recipe.fit is None else {}
    if not metrics:
        with in_memory_format(model, form):
            metrics = {str(name): float(value) for name, value in task.evaluate(model).items()}
    result = {
        "metrics": metrics,
        "epochs": [dict(epoch) for epoch in history.epochs],
    }
    if together.main:
        output.write(model)
        record = {**result, "memory_format": form, "recipe": recipe.content, "environment": environment(recipe.seed)}
        write_json(output.record, record)
        owned.release(work, KIND, remove=True)
    return result


@dc.dataclass(frozen=True)
class _Output:
    """Where a trained network is written: the weights as a file, or the complete network as a folder.

    Args:
        path: path of the file or folder.
        folder: whether it is a folder.
    """

    path: Path
    folder: bool

    @property
    def record(self) -> Path:
        """File of the metrics."""
        return self.path / "training.json" if self.folder else self.path.with_suffix(".json")

    @property
    def logs(self) -> Path:
        """Folder in which trackers make one of theirs."""
        return self.path if self.folder else self.path.with_suffix("")

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that are written."""
        return (self.path / "network.json" if self.folder else self.path, self.record)

    def write(self, model: nn.Module) -> None:
        """Write a network."""
        if self.folder:
            save_as_pruned(model, self.path)
            return
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
        with replacing(self.path) as temporary:
            save_file(tensors, temporary)


def _work(path: Path) -> Path:
    """The folder of the checkpoints of a training."""
    return path.with_name(f"{path.name}.work")


def _output(recipe: Recipe, path: Path) -> _Output:
    """Choose what is written: weights fit a network with a name, but not one whose structure is its own."""
    own = is_saved(recipe.model.name) or recipe.transfer is not None
    if own and path.suffix == ".safetensors":
        what = "is moved to other data by `transfer`" if recipe.transfer is not None else "was pruned"
        raise RunFolderError(
            f"{recipe.model.name} {what}, so that weights alone would not fit it by name; name a folder for the "
            f"complete network, such as --output {path.with_suffix('')}"
        )
    return _Output(path, own)


def _started(recipe: Recipe, path: Path) -> Recipe:
    """The recipe with the weights that training starts from: random ones if it is to make the weights that it names."""
    weights = recipe.model.weights
    if is_saved(recipe.model.name):
        return recipe  # weights lie in the folder
    if weights is not None and Path(weights).resolve() != path.resolve():
        if weights.endswith(".safetensors") and not Path(weights).is_file():
            raise WeightsError(
                f"model.weights: there is no file {weights!r} to start from; give --output {weights} to train it, or "
                "--set model.weights=random to start from random weights"
            )
        return recipe
    return dc.replace(recipe, model=dc.replace(recipe.model, weights="random"))


@contextlib.contextmanager
def _resumable(work: Path, recipe: Recipe, output: _Output, together: Processes, overwrite: bool) -> Iterator[None]:
    """Context with the folder of checkpoints; a training that fails before its first checkpoint leaves none behind."""
    if together.main:
        for written in output.files:
            owned.remove_parts(written.parent, written.name)
        _claim(work, recipe, overwrite)
    together.wait()
    try:
        yield
    except Exception:
        if together.main and not checkpoint_in(work).exists():
            with contextlib.suppress(OSError):  # the first error matters, not that the clean-up fails as well
                owned.release(work, KIND, remove=True)
        raise


def _format_in(work: Path, together: Processes, choose: Callable[[], MemoryFormat]) -> MemoryFormat:
    """The memory format of a training: that in the folder of its checkpoints, else a new choice, which is stored."""
    path = work / "memory_format.json"

    def found() -> MemoryFormat:
        if not path.is_file():
            write_json(path, {"memory_format": choose()})
        known: MemoryFormat = read_json(path)["memory_format"]
        return known

    return together.from_main(found)


def _claim(work: Path, recipe: Recipe, overwrite: bool) -> None:
    """Make the folder of checkpoints, or continue with that of an interrupted training by the same recipe."""
    from edakari.pipeline.yaml_file import write_yaml  # which needs an extra

    content = recipe.content
    own = {key: content[key] for key in ("model", "transfer", "data", "train", "seed")}
    found = owned.marker(work)
    if found is None and not owned.is_free(work):
        raise RunFolderError(f"{work} is not empty and was not made by `edakari train`; name another file, or move it")
    if found is None:
        owned.mark(work, KIND)
    elif found.get("clearing"):
        owned.clear(work, KIND)
    owned.sweep(work)
    if (work / RECIPE).exists():
        differing = list(differences(stored_recipe(work), own))
        if not differing:
            return
        if not overwrite and checkpoint_in(work).exists():
            raise RunFolderError(
                f"{work} holds an interrupted training by another recipe: {told_differences(differing)}. To resume it, "
                f"repeat its settings{settings_of(differing)}; to start again, name another file or give --overwrite"
            )
        owned.clear(work, KIND)
    write_yaml(work / RECIPE, own)
