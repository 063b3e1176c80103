"""Views of the classes that the filters of a network respond to, and of the filters that a plan keeps."""

from __future__ import annotations

import dataclasses as dc
import fnmatch
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edakari.core.graph import Graph
from edakari.core.layout import Axis, extent
from edakari.core.plan import KeepChannels, Plan
from edakari.criteria import FeatureDiscrimination, ResponseSettings
from edakari.criteria.capture import watching
from edakari.criteria.discrimination import Discriminated
from edakari.criteria.dividing import until
from edakari.criteria.labels import LabelSource
from edakari.criteria.responses import (
    Reduce,
    Response,
    called,
    collect_responses,
    labels_per_pixel,
    respond,
)
from edakari.errors import DataError, UnknownName
from edakari.graph import trace
from edakari.graph.layer_outputs import LayerOutput
from edakari.graph.receptive import Seen, receptive_fields
from edakari.report.filters import FilterView, FilterViews, LayerView
from edakari.tasks import ImageTask

__all__ = ["Choice", "filter_views"]

Floats = npt.NDArray[np.float64]
Spot = tuple[LayerOutput, int, int]
"""A layer output, the index of a filter, and the index of an image."""

LAYERS = 4
"""Default number of layers."""
LEGIBLE = 13
"""Smallest side of a crop in pixels at which its content is recognisable."""


@dc.dataclass(frozen=True, kw_only=True)
class Choice:
    """Settings of the filter views.

    Args:
        layers: patterns of the names of modules to show; empty is four layers, evenly spaced from first to last.
        filters: number of filters per layer; half of them are the most discriminative ones, half the least.
        crops: number of image crops per filter.
        images: largest number of calibration images.
        top: number of strongest images per filter from which its score is computed; below 1, a fraction of all images.
        labels: "data" takes the labels of the data, "predicted" the network's predictions.
    """

    layers: tuple[str, ...] = ()
    filters: int = 8
    crops: int = 8
    images: int = 12800
    top: int | float = 0.05
    labels: LabelSource = "data"


def filter_views(model: nn.Module, plan: Plan, task: ImageTask, choice: Choice = Choice()) -> FilterViews:
    """Show the classes that the filters of a network respond to, and the filters that a plan keeps.

    Args:
        model: network before pruning, in evaluation mode.
        plan: plan that prunes the network.
        task: task whose calibration images excite the filters.
        choice: settings of the views.

    Raises:
        UnknownName: no layer matches a pattern.
        DataError: there are too few images, or no labels.
    """
    graph = trace(model, task.example())
    criterion = FeatureDiscrimination(
        responses=ResponseSettings(
            reduce=_reduce(graph, task, choice), images=choice.images, top=choice.top, labels=choice.labels
        ),
        normalize="none",
    )
    responses = collect_responses(model, graph, task.batches("calibration"), task, criterion.responses)
    found = {
        layer_output: each
        for (layer_output, group), each in criterion.discriminate(responses).items()
        if _plain(layer_output, group)
    }
    kept = _kept(graph, plan)
    chosen = {
        layer_output: _ends(found[layer_output], choice.filters)
        for layer_output in _chosen(tuple(found), choice.layers)
    }
    fields = receptive_fields(graph)
    spots = {
        (layer_output, index, int(image))
        for layer_output, indices in chosen.items()
        for index in indices
        for image in found[layer_output].strongest.ids[index, : choice.crops]
    }
    crops = _crops(model, task, spots, fields, choice.images)
    layers = tuple(
        LayerView(
            _name(layer_output),
            *_extent(fields.get(layer_output.operator), task.example()),
            each.rfc_entropy.numpy(),
            kept[_group(layer_output)],
            sum(_group(other) == _group(layer_output) for other in found) > 1,
            tuple(
                _filter(layer_output, index, each, kept[_group(layer_output)], crops, responses.labels, choice.crops)
                for index in chosen.get(layer_output, ())
            ),
        )
        for layer_output, each in found.items()
    )
    return FilterViews(layers, task.classes, responses.images, responses.top, plan.method)


def _reduce(graph: Graph, task: ImageTask, choice: Choice) -> Reduce:
    """Labels per pixel are looked up at the position that excites a filter most."""
    batch = next(iter(task.batches("calibration")), None)
    return "max" if batch is not None and labels_per_pixel(graph, batch, choice.labels) else "l2"


def _group(layer_output: LayerOutput) -> str:
    return next(iter(layer_output.dims()))


def _plain(layer_output: LayerOutput, group: str) -> bool:
    """Whether a layer output's filters are the channels of one group, one by one."""
    return isinstance(layer_output.layouts[layer_output.dims()[group]], Axis)


def _name(layer_output: LayerOutput) -> str:
    return layer_output.weight.rpartition(".")[0] or layer_output.weight


def _kept(graph: Graph, plan: Plan) -> dict[str, npt.NDArray[np.bool_]]:
    masks = {group.name: np.ones(group.size, dtype=np.bool_) for group in graph.groups}
    for edit in plan.edits:
        if isinstance(edit, KeepChannels):
            masks[edit.group] = np.isin(np.arange(len(masks[edit.group])), edit.indices)
    return masks


def _chosen(layer_outputs: Sequence[LayerOutput], patterns: Sequence[str]) -> list[LayerOutput]:
    if not layer_outputs:
        raise DataError("the network has no layer whose filters are the channels of one group")
    if not patterns:
        indices = np.linspace(0, len(layer_outputs) - 1, min(LAYERS, len(layer_outputs))).round().astype(int)
        return [layer_outputs[index] for index in dict.fromkeys(indices.tolist())]
    names = [_name(layer_output) for layer_output in layer_outputs]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UnknownName("layer", pattern, names)
    return [
        layer_output
        for layer_output, name in zip(layer_outputs, names, strict=True)
        if any(fnmatch.fnmatch(name, p) for p in patterns)
    ]


def _ends(each: Discriminated, count: int) -> list[int]:
    """Return the indices of the filters of lowest and of highest entropy, in this order."""
    order: list[int] = np.argsort(each.rfc_entropy.numpy(), kind="stable").tolist()
    if len(order) <= count:
        return order
    return [*order[: (count + 1) // 2], *order[len(order) - count // 2 :]]


def _crops(
    model: nn.Module, task: ImageTask, spots: Iterable[Spot], fields: Mapping[int, Seen], images: int
) -> dict[Spot, Floats]:
    """Crop the receptive field of each filter's strongest response, by running these images again."""
    by_image: dict[int, list[Spot]] = {}
    for spot in spots:
        by_image.setdefault(spot[2], []).append(spot)
    layer_outputs = tuple({spot[0]: None for wanted in by_image.values() for spot in wanted})
    responses: dict[LayerOutput, Response] = {}
    found: dict[Spot, Floats] = {}
    first = 0

    def take(layer_output: LayerOutput, x: torch.Tensor) -> None:
        count = len(x) // int(extent(layer_output.layouts[0], {}))
        responses[layer_output] = respond(layer_output, _group(layer_output), x, count, "max", True)

    with watching(model, layer_outputs, take):
        for batch in until(task.batches("calibration"), images):
            wanted = [image for image in range(first, first + len(batch[0])) if image in by_image]
            if wanted:
                some = torch.stack([batch[0][image - first] for image in wanted])
                called(model, (some,), None)
                pictures = task.pictures(some).permute(0, 2, 3, 1).double().numpy()
                for row, image in enumerate(wanted):
                    for spot in by_image[image]:
                        found[spot] = _cropped(
                            pictures[row], responses[spot[0]], row, spot[1], fields.get(spot[0].operator)
                        )
            first += len(batch[0])
    return found


def _cropped(pixels: Floats, response: Response, row: int, index: int, seen: Seen | None) -> Floats:
    size = pixels.shape[0], pixels.shape[1]
    if seen is None or len(seen) != 2 or response.positions is None:
        return pixels
    position = int(response.positions[row, index])
    place = position // response.size[1], position % response.size[1]
    rows, columns = (seen[dim] for dim in sorted(seen))
    height, width = int(rows.size), int(columns.size)
    if height >= size[0] and width >= size[1]:
        return pixels
    margin = max(0, (LEGIBLE - min(height, width)) // 2)
    first = int(rows.start + rows.jump * place[0]) - margin, int(columns.start + columns.jump * place[1]) - margin
    # enough padding around the image for any crop
    padding = max(height, width) + margin + max(size)
    framed = np.pad(pixels, ((padding, padding), (padding, padding), (0, 0)), constant_values=np.nan)
    top, left = first[0] + padding, first[1] + padding
    return framed[top : top + height + 2 * margin, left : left + width + 2 * margin]


def _extent(seen: Seen | None, example: torch.Tensor) -> tuple[tuple[int, int] | None, int]:
    """Height and width of a receptive field, or None if it is the full image, and the margin around it."""
    if seen is None or len(seen) != 2:
        return None, 0
    height, width = (int(seen[dim].size) for dim in sorted(seen))
    if height >= example.shape[2] and width >= example.shape[3]:
        return None, 0
    return (height, width), max(0, (LEGIBLE - min(height, width)) // 2)


def _filter(
    layer_output: LayerOutput,
    index: int,
    each: Discriminated,
    kept: npt.NDArray[np.bool_],
    crops: Mapping[Spot, Floats],
    labels: torch.Tensor,
    count: int,
) -> FilterView:
    images: list[int] = each.strongest.ids[index, :count].tolist()
    return FilterView(
        index,
        float(each.rfc_entropy[index]),
        bool(kept[index]),
        tuple(crops[layer_output, index, image] for image in images),
        tuple(_class(each, index, place, labels) for place in range(len(images))),
        each.shares[index].numpy(),
    )


def _class(each: Discriminated, index: int, place: int, labels: torch.Tensor) -> int:
    """Class of an image that excites a filter; of several classes the one that most of the filter's images have."""
    if each.strongest.labels is not None:
        return int(each.strongest.labels[index, place])
    shown = labels[each.strongest.ids[index, place]]
    return int(shown) if shown.ndim == 0 else int(torch.where(shown > 0, each.shares[index], -1.0).argmax())
