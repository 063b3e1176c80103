"""Explainers on disk: explainer and predictor as safetensors, the rest as JSON."""

from __future__ import annotations

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

__all__ = ["SaliencyMethod", "load_saliency", "save_saliency"]

VERSION = 2
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
