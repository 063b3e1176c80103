"""Responses of each filter to each image, reduced inside hooks, so that no activation is stored."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from edakari.core.arguments import require
from edakari.core.graph import Graph
from edakari.core.layout import Axis, extent
from edakari.core.networks import unwrapped
from edakari.core.processes import Processes
from edakari.core.protocols import Batch, Task
from edakari.core.settings import Count, OpenFraction, settings
from edakari.criteria.capture import watching
from edakari.criteria.dividing import own_batches
from edakari.criteria.labels import Labels, LabelSource, at_positions, classes_of, labels_of
from edakari.criteria.ranking import Ranking, Strongest
from edakari.criteria.reduce import channels
from edakari.errors import DataError, ModelError
from edakari.graph.layer_outputs import LayerOutput, layer_outputs_of

__all__ = [
    "FilterResponses",
    "Reduce",
    "Response",
    "ResponseSettings",
    "called",
    "collect_responses",
    "labels_per_pixel",
    "respond",
]

Reduce = Literal["l2", "max"]
"""Reduction of a filter's feature map to one number: its L2 norm, or its largest entry."""


@dc.dataclass(frozen=True, slots=True)
class Response:
    """Responses of a group's filters at one layer output, for one batch.

    Args:
        values: responses, float32 [images, filters].
        positions: flat index (row * width + column) of the largest entry, int64 [images, filters]; None if not wanted.
        size: height and width of the map; (1, length) for maps with one spatial dimension.
    """

    values: torch.Tensor
    positions: torch.Tensor | None
    size: tuple[int, int]

    def labels(self, labels_NYX: torch.Tensor) -> torch.Tensor | None:
        """Look up the labels at the positions, int64 [images, filters], in labels per pixel."""
        return None if self.positions is None else at_positions(labels_NYX, self.positions, self.size)


@settings
class ResponseSettings:
    """How responses are collected.

    Args:
        reduce: how a filter's map becomes its response: "l2" takes the L2 norm, "max" the largest entry.
        images: largest number of images to look at (whole batches), over all processes.
        top: number of strongest images of each filter that count; below 1, a fraction of the images.
        labels: "data" takes the labels of the data, "predicted" the network's own predictions.
    """

    reduce: Reduce = "l2"
    images: Count = 12800
    top: Count | OpenFraction = 0.05
    labels: LabelSource = "data"

    @property
    def most(self) -> int:
        """Number of responses to keep for each filter."""
        return self.top if isinstance(self.top, int) else max(1, round(self.top * self.images))

    def count(self, images: int) -> int:
        """Return the number of responses per filter that count, for a number of images.

        Raises:
            DataError: there are fewer images than `top`.
        """
        if isinstance(self.top, int) and self.top > images:
            raise DataError(
                f"the strongest {self.top} responses of each filter are asked for, but there are {images} images; "
                "lower `top`, or raise `images` and data.calibration_size"
            )
        return self.top if isinstance(self.top, int) else max(1, round(self.top * images))


AS_PUBLISHED = ResponseSettings()


@dc.dataclass(frozen=True)
class FilterResponses:
    """The strongest responses of all filters.

    Args:
        strongest: the strongest responses at each layer output and group, in the network's order.
        labels: labels of the images, int64 [images], or class weights [images, classes]; -1 for labels per pixel.
        images: number of images seen.
        classes: number of classes.
        top: number of responses that count for each filter.
    """

    strongest: Mapping[tuple[LayerOutput, str], Strongest]
    labels: torch.Tensor
    images: int
    classes: int
    top: int


def collect_responses(
    model: nn.Module,
    graph: Graph,
    batches: Iterable[Batch],
    task: Task | None,
    how: ResponseSettings = AS_PUBLISHED,
) -> FilterResponses:
    """Run a network once over images, and collect each filter's strongest responses with their images' indices.

    The network runs in evaluation mode. Each process runs a part of the batches; all processes get the same result.

    Args:
        model: the network; it does not change.
        graph: its graph.
        batches: pairs of images and labels, the same on all processes.
        task: the task that calls the network; None calls the network with the images.
        how: see `ResponseSettings`.

    Raises:
        DataError: there are no images, too few of them, no labels, or labels that do not fit the network.
        ModelError: a response is not finite, or the batch size of a tensor differs from that of the images.
    """
    model = unwrapped(model, "score(model, graph, batches, task)")
    require("score(model, graph, batches, task)", graph=(graph, Graph), batches=(batches, Iterable))
    layer_outputs, here = layer_outputs_of(graph), Processes.here()
    rankings: dict[tuple[LayerOutput, str], Ranking] = {}
    labels: Labels | None = None
    placed, seen = False, 0
    pending: dict[tuple[LayerOutput, str], Response] = {}

    def take(layer_output: LayerOutput, x: torch.Tensor) -> None:
        for group in layer_output.dims():
            pending[layer_output, group] = respond(layer_output, group, x, size, how.reduce, placed)

    with watching(model, layer_outputs, take):
        for first, batch in own_batches(batches, how.images):
            if not rankings:
                placed = _at_places(graph, batch, how)
                rankings = _rankings(model, graph, layer_outputs, how.most, placed)
            size = len(batch[0])
            outputs = called(model, batch, task)
            own = labels_of(batch, outputs, how.labels)
            labels = labels or Labels(classes_of(outputs))
            for key, response in pending.items():
                rankings[key].add(response.values, first, response.labels(own) if placed else None)
            pending.clear()
            if not placed:
                labels.add(own, first)
            seen += size
    # a process has seen no image if there are fewer batches than processes
    placed = any(here.gathered_objects(placed))
    rankings = rankings or _rankings(model, graph, layer_outputs, how.most, placed)
    images = int(here.reduced(torch.tensor(seen)))
    return _filter_responses(rankings, Labels.agreed(labels)[0], images, how)


def called(model: nn.Module, batch: Batch, task: Task | None) -> Any:
    """Compute a network's outputs for a batch."""
    if task is not None:
        return task.outputs(model, batch)
    return model(batch[0].to(next(model.parameters()).device))


def respond(
    layer_output: LayerOutput, group: str, x: torch.Tensor, images: int, reduce: Reduce, placed: bool
) -> Response:
    """Reduce the feature maps at a layer output to responses.

    Args:
        layer_output: the layer output.
        group: name of the group of the filters.
        x: the tensor at the layer output.
        images: number of images in the batch.
        reduce: reduction of a feature map to a number.
        placed: whether to return the position of the largest entry, too.

    Raises:
        ModelError: the first dimension of the tensor does not fit the number of images.
    """
    x, dim, several = _by_filter(layer_output, group, x, images)
    others = [each for each in range(1, x.dim()) if each != dim]
    if reduce == "l2":
        wide = torch.promote_types(x.dtype, torch.float32)  # sums of squares overflow in half precision
        norm = torch.linalg.vector_norm(x, dim=others, dtype=wide) if others else x.abs()
        return Response(norm.float(), None, (1, 1))
    space = [x.shape[each] for each in others if not (several and each == dim + 1)]
    maps_NFS = x.movedim([dim, dim + 1], [1, 2]) if several else x.movedim(dim, 1)
    maps_NFS = maps_NFS.reshape(images, x.shape[dim], -1)
    if not placed:
        return Response(maps_NFS.amax(2).float(), None, (1, 1))
    largest, positions = maps_NFS.max(2)
    height, width = space[-2:] if len(space) > 1 else (1, math.prod(space))
    return Response(largest.float(), positions % (height * width), (height, width))


def _by_filter(layer_output: LayerOutput, group: str, x: torch.Tensor, images: int) -> tuple[torch.Tensor, int, bool]:
    """Return the tensor, images first; the dimension of filters; whether the next one holds a filter's positions."""
    layouts, dim = layer_output.layouts, layer_output.dims()[group]
    per_image = int(extent(layouts[0], {}))
    if x.dim() != len(layouts) or x.shape[0] != per_image * images:
        raise ModelError(
            f"module {layer_output.module!r} passes on a tensor of shape {list(x.shape)} for {images} images, where "
            f"{per_image * images} along the first dimension are expected; leave its groups out (groups.exclude)"
        )
    layout = layouts[dim]
    if per_image > 1:
        x, dim = x.reshape(images, per_image, *x.shape[1:]), dim + 1
    if isinstance(layout, Axis):
        return x, dim, False
    where = torch.from_numpy(channels(layout, group))
    order = where.argsort(stable=True)[int((where < 0).sum()) :].to(x.device)
    filters = int(where.max()) + 1
    x = x.index_select(dim, order)
    return x.reshape(*x.shape[:dim], filters, -1, *x.shape[dim + 1 :]), dim, True


def labels_per_pixel(graph: Graph, batch: Batch, source: LabelSource) -> bool:
    """Return whether labels belong to pixels instead of images.

    Args:
        graph: graph of the network.
        batch: a batch of scoring images.
        source: source of the labels.
    """
    if source == "predicted":
        outputs = graph.calls[0].outputs
        return bool(outputs) and len(outputs[0]) == 4
    labels = batch[1] if isinstance(batch, tuple | list) and len(batch) > 1 else None
    return isinstance(labels, torch.Tensor) and labels.ndim == 3 and not labels.is_floating_point()


def _at_places(graph: Graph, batch: Batch, how: ResponseSettings) -> bool:
    """Return whether labels belong to pixels; see `labels_per_pixel`.

    Raises:
        DataError: they do, but the reduction has no position.
    """
    placed = labels_per_pixel(graph, batch, how.labels)
    if placed and how.reduce != "max":
        raise DataError(
            "labels at every pixel are counted at the place of the largest response, but reduce is "
            f"{how.reduce!r}; set it to 'max' (method.criterion.responses.reduce in a recipe)"
        )
    return placed


def _rankings(
    model: nn.Module, graph: Graph, layer_outputs: Sequence[LayerOutput], most: int, placed: bool
) -> dict[tuple[LayerOutput, str], Ranking]:
    device = next(model.parameters()).device
    return {
        (each, group): Ranking(graph[group].size, most, device, placed)
        for each in layer_outputs
        for group in each.dims()
    }


class _Decoded(Mapping[tuple[LayerOutput, str], Strongest]):
    """Rankings in decoded form, each decoded on access: all decoded at once would take more memory."""

    def __init__(self, rankings: Mapping[tuple[LayerOutput, str], Ranking], top: int) -> None:
        self.rankings, self.top = rankings, top

    def __getitem__(self, key: tuple[LayerOutput, str]) -> Strongest:
        return self.rankings[key].strongest(self.top)

    def __iter__(self) -> Iterator[tuple[LayerOutput, str]]:
        return iter(self.rankings)

    def __len__(self) -> int:
        return len(self.rankings)


def _filter_responses(
    rankings: Mapping[tuple[LayerOutput, str], Ranking], labels: Labels, images: int, how: ResponseSettings
) -> FilterResponses:
    top = how.count(images)
    for ranking in rankings.values():
        ranking.gather()
    return FilterResponses(_Decoded(rankings, top), labels.table(images), images, labels.classes, top)
