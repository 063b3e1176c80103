"""Explainers and gates on disk: explainer, predictor and logits of gates as safetensors, the rest as JSON."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors.torch import save_file
from torch import nn

from edakari.core.copying import copied
from edakari.core.files import replacing, write_json
from edakari.core.graph import Graph
from edakari.core.reading import because, read_json
from edakari.criteria.labels import LabelSource
from edakari.errors import RunFolderError
from edakari.graph.taps import find_taps
from edakari.methods.saliency.explained import Saliency, frozen
from edakari.models.explainer import Explainer
from edakari.models.saliency import Frame
from edakari.models.weights import load_weights, read_weights, weights_digest

__all__ = ["Gates", "SaliencyMethod", "load_gates", "load_saliency", "save_gates", "save_saliency"]

VERSION = 2
GATES, GATE_LOGITS = "gates.json", "gates.safetensors"
CONTENT, EXPLAINER, PREDICTOR = "saliency.json", "explainer.safetensors", "predictor.safetensors"


@runtime_checkable
class SaliencyMethod(Protocol):
    """A method that trains an explainer of where a network looks; `edakari explain isp` shows its runs."""

    def saliency(self, folder: Path, model: nn.Module, graph: Graph) -> Saliency:
        """Load the explainer of the networks of a run.

        Args:
            folder: artifacts of the run, as in `Job.artifacts`.
            model: dense network, with the weights that the run pruned.
            graph: graph of the dense network.

        Raises:
            RunFolderError: the folder has no explainer, or the explainer of another network.
        """

    def explained_labels(self) -> LabelSource:
        """Return the source of the classes to explain: the data, or the network's own predictions."""


def save_saliency(saliency: Saliency, folder: str | Path, model: nn.Module) -> None:
    """Write the explainer of a network into a folder.

    Args:
        saliency: explainer of the network.
        folder: folder to write to; it is created if it does not exist.
        model: the explained network; the explainer is valid for its weights only.
    """
    folder, explainer = Path(folder), saliency.explainer
    for name, module in ((EXPLAINER, explainer), (PREDICTOR, saliency.predictor)):
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in module.state_dict().items()}
        with replacing(folder / name) as temporary:
            save_file(tensors, temporary)
    content = {
        "version": VERSION,
        "weights": weights_digest(model),
        "taps": [tap.module for tap in saliency.taps],
        "classes": explainer.labels.num_embeddings,
        "image": [explainer.frame.height, explainer.frame.width],
        "family": explainer.family,
        "agreement": saliency.agreement,
    }
    write_json(folder / CONTENT, content)


def load_saliency(folder: str | Path, model: nn.Module, graph: Graph) -> Saliency:
    """Read the explainer of a network.

    Args:
        folder: folder that `save_saliency` wrote.
        model: the network, with the weights for which the explainer was trained.
        graph: graph of the network.

    Returns:
        The explainer, on the device of the network.

    Raises:
        RunFolderError: the folder has no explainer, or the explainer of another network or other weights.
        WeightsError: the weights are damaged or do not fit.
    """
    folder = Path(folder)
    content = _content(folder / CONTENT)
    if content["weights"] != weights_digest(model):
        raise RunFolderError(f"{folder} explains a network with other weights; train the explainer again")
    taps = find_taps(model, graph, content["taps"])
    sizes = [(tap.channels, tap.height, tap.width) for tap in taps]
    explainer = Explainer(sizes, content["classes"], Frame(*content["image"]), content["family"])
    load_weights(explainer, read_weights(folder / EXPLAINER), repr(str(folder / EXPLAINER)))
    predictor = copied(model)
    load_weights(predictor, read_weights(folder / PREDICTOR), repr(str(folder / PREDICTOR)))
    device = next(model.parameters(), torch.empty(0)).device
    return Saliency(taps, frozen(explainer.to(device)), frozen(predictor), float(content["agreement"]))


@dc.dataclass(frozen=True)
class Gates:
    """Trained gates of a network.

    Args:
        logits: logits of each group's gates, float [size]; the offset is part of them.
        offset: the offset.
        temperature: temperature of the training.
        budget: the budget for which the gates were trained.
    """

    logits: Mapping[str, torch.Tensor]
    offset: float
    temperature: float
    budget: str

    def scores(self) -> dict[str, torch.Tensor]:
        """Return scores for `edakari.allocate`, from 0 to 1, in the order of the logits."""
        return {name: torch.sigmoid(logits.double()) for name, logits in self.logits.items()}


def save_gates(gates: Gates, folder: str | Path, model: nn.Module) -> None:
    """Write trained gates into a folder, from which other budgets can be met without a training.

    Args:
        gates: the gates.
        folder: folder to write to; it is created if it does not exist.
        model: the network before pruning; the gates are valid for its weights only.
    """
    folder = Path(folder)
    with replacing(folder / GATE_LOGITS) as temporary:
        save_file({name: each.contiguous().clone() for name, each in gates.logits.items()}, temporary)
    content = {
        "version": VERSION,
        "weights": weights_digest(model),
        "groups": {name: len(each) for name, each in gates.logits.items()},
        "offset": gates.offset,
        "temperature": gates.temperature,
        "budget": gates.budget,
    }
    write_json(folder / GATES, content)


def load_gates(folder: str | Path, model: nn.Module) -> Gates:
    """Read trained gates from a folder.

    Args:
        folder: folder that `save_gates` wrote, such as `kept` of a run.
        model: the network before pruning, with the weights for which the gates were trained.

    Raises:
        RunFolderError: the folder has no gates, or those of another network or other weights.
        WeightsError: the logits are damaged.
    """
    folder = Path(folder)
    content = _content(folder / GATES)
    if content["weights"] != weights_digest(model):
        raise RunFolderError(f"{folder} holds gates of a network with other weights; train the gates again")
    found = read_weights(folder / GATE_LOGITS)
    logits = {name: found[name] for name in content["groups"]}
    return Gates(logits, float(content["offset"]), float(content["temperature"]), str(content["budget"]))


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RunFolderError(f"{path} does not exist; give the folder `kept` of a run with method 'isp'")
    try:
        content: dict[str, Any] = read_json(path)
        version = content["version"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunFolderError(f"{path} is damaged: {because(error)}") from None
    if version != VERSION:
        raise RunFolderError(f"{path} has version {version!r}; this edakari reads version {VERSION}")
    return content
