"""Finds where a network's feature maps can be read: one tap per resolution."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from edakari.core.graph import Graph, ModuleCall
from edakari.core.layout import Layout, extent
from edakari.errors import ModelError, UnknownName

__all__ = ["Tap", "Tapped", "find_taps"]

Form = Literal["maps", "channels_last", "tokens"]

MOST_PREFIX_TOKENS = 8


@dc.dataclass(frozen=True, slots=True)
class Tap:
    """A module whose output is a feature map.

    Args:
        module: dotted path of the module.
        form: "maps" [N, C, H, W], "channels_last" [N, H, W, C], or "tokens" [N, prefix + H * W, C].
        layout: layout of the channels.
        height: number of rows of the map.
        width: number of columns of the map.
        prefix: number of tokens before those of the map, such as a class token.
    """

    module: str
    form: Form
    layout: Layout
    height: int
    width: int
    prefix: int = 0

    @property
    def channels(self) -> int:
        """Number of channels in the dense network."""
        return int(extent(self.layout, {}))

    def feature_map(self, output: torch.Tensor) -> torch.Tensor:
        """Convert the module's output to [N, C, H, W]."""
        if self.form == "tokens":
            output = output[:, self.prefix :].reshape(len(output), self.height, self.width, -1)
        return output if self.form == "maps" else output.permute(0, 3, 1, 2)


class Tapped(nn.Module):
    """A network that also returns the outputs at its taps.

    Args:
        network: network that takes one tensor.
        taps: taps to read; a module that runs several times is read the last time.
    """

    def __init__(self, network: nn.Module, taps: Sequence[Tap]) -> None:
        super().__init__()
        self.network, self.taps = network, tuple(taps)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the network's own output, and a feature map [N, C, H, W] for each tap."""
        outputs: dict[str, torch.Tensor] = {}

        def reader(name: str) -> Any:
            def read(module: nn.Module, args: Any, output: torch.Tensor) -> None:
                outputs[name] = output

            return read

        handles = [
            self.network.get_submodule(tap.module).register_forward_hook(reader(tap.module)) for tap in self.taps
        ]
        try:
            own = self.network(images)
        finally:
            for handle in handles:
                handle.remove()
        return own, [tap.feature_map(outputs[tap.module]) for tap in self.taps]


def find_taps(model: nn.Module, graph: Graph, names: Sequence[str] = (), most: int = 4) -> tuple[Tap, ...]:
    """Find the last feature map of each resolution, finest first.

    The candidates are the modules on the path from image to output. Containers are entered, and so is a module that
    changes the resolution more than twofold. Blocks are not entered, since a stage's result does not lie inside of
    them. These are the maps that timm's `features_only` returns.

    Args:
        model: network.
        graph: graph of the network.
        names: modules to read instead, finest first.
        most: largest number of resolutions; the coarsest ones are read.

    Raises:
        ModelError: the network has no feature maps, or a named module returns none.
        UnknownName: there is no such module.
    """
    calls = {call.module: call for call in graph.calls}
    image = _shape(calls[""].inputs)
    if image is None or len(image) != 4:
        raise ModelError(f"feature maps are read of networks that take images [N, C, H, W]; this one takes {image}")
    if names:
        return tuple(_named(name, calls, image) for name in names)
    order = {call.module: index for index, call in enumerate(graph.calls)}
    found: dict[tuple[int, int], Tap] = {}
    for module in sorted(_trunk(model, calls, ""), key=lambda module: order[module]):
        tap = _tap(calls[module], image)
        if tap is not None:
            found[tap.height, tap.width] = tap
    taps = sorted(found.values(), key=lambda tap: -tap.height * tap.width)
    if not taps:
        raise ModelError(
            f"{type(model).__name__} has no module that returns feature maps (a tensor [N, C, H, W], [N, H, W, C] or "
            "of tokens on a grid, of at least 2 x 2 positions). If its own code makes them, put a torch.nn.Identity "
            "there and name it"
        )
    return tuple(taps[-most:])


def _trunk(module: nn.Module, calls: Mapping[str, ModuleCall], path: str) -> Iterator[str]:
    """Yield the dotted paths of the blocks on the path through a module."""
    for name, child in module.named_children():
        own = f"{path}.{name}" if path else name
        call = calls.get(own)
        inner = list(_trunk(child, calls, own)) if call is None or _entered(child, call) else []
        if inner:
            yield from inner
        elif call is not None:
            yield own


def _entered(module: nn.Module, call: ModuleCall) -> bool:
    before, after = _shape(call.inputs), _shape(call.outputs)
    far = before is not None and len(before) == 4 and (after is None or len(after) != 4 or before[2] > 2 * after[2])
    return isinstance(module, nn.Sequential) or far


def _named(name: str, calls: Mapping[str, ModuleCall], image: Sequence[int]) -> Tap:
    if name not in calls:
        raise UnknownName("module to tap", name, filter(None, calls))
    tap = _tap(calls[name], image)
    if tap is None:
        raise ModelError(f"module {name!r} gives no feature map, but a tensor of shape {_shape(calls[name].outputs)}")
    return tap


def _shape(tensors: Sequence[Sequence[Layout]]) -> list[int] | None:
    """Shape of the first tensor; None if there is none."""
    return [int(extent(layout, {})) for layout in tensors[0]] if tensors else None


def _tap(call: ModuleCall, image: Sequence[int]) -> Tap | None:
    """The tap of a module; None if its output is no map of at least 2 x 2."""
    if len(call.outputs) != 1:
        return None
    (layouts,), shape = call.outputs, _shape(call.outputs)
    match shape:
        case [_, _, height, width] if min(height, width) > 1 and _fits(height, width, image):
            return Tap(call.module, "maps", layouts[1], height, width)
        case [_, height, width, _] if min(height, width) > 1 and _fits(height, width, image):
            return Tap(call.module, "channels_last", layouts[3], height, width)
        case [_, tokens, _]:
            for prefix in range(MOST_PREFIX_TOKENS + 1):
                height = round(((tokens - prefix) * image[2] / image[3]) ** 0.5) if tokens > prefix else 0
                if height > 1 and (tokens - prefix) % height == 0:
                    width = (tokens - prefix) // height
                    if width > 1 and _fits(height, width, image):
                        return Tap(call.module, "tokens", layouts[2], height, width, prefix)
    return None


def _fits(height: int, width: int, image: Sequence[int]) -> bool:
    """Whether positions lie on a grid over the image, up to rounding."""
    return abs(image[2] / height - image[3] / width) <= max(1.0, 0.2 * image[2] / height)
