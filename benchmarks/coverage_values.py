"""Running networks with values for coverage.py: inputs, outputs that can be compared, gradients."""

from __future__ import annotations

from typing import Any

import torch
from networks import built
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torchvision.models.detection.rpn import RegionProposalNetwork

__all__ = ["in_double", "other_values", "outputs_of", "trains"]

HEADS = ("rpn.head", "head", "roi_heads.box_predictor", "roi_heads.mask_predictor", "roi_heads.keypoint_predictor")
"""Of torchvision's detectors."""

TOLERANCE, IN_FLOAT32 = 1e-9, 1e-4


def other_values(value: Any) -> Any:
    """Real numbers that were not traced; whole numbers say sizes and indices, and stay."""
    generator = torch.Generator().manual_seed(2)
    return torch.rand(value.shape, generator=generator, dtype=value.dtype) if _is_real(value) else value


def in_double(name: str, example: Any) -> tuple[torch.nn.Module, Any, float]:
    """The network with values, an input with values, and how exact it can be: its code may insist on float32."""
    from edakari.testing import enlivened

    plain, inputs = built(name)[0], tree_map(_with_values, example)
    model = enlivened(plain)
    try:
        with torch.no_grad(), _Narrow() as watch:
            for seed in range(1, 5):
                if any(_is_real(x) and bool(x.any()) for x in tree_leaves(_forward(model, inputs))):
                    break
                model = enlivened(plain, seed)  # all zeros would equal whatever is wrong
    except RuntimeError:
        inputs = tree_map(lambda x: x.to(torch.float32) if _is_real(x) else x, inputs)
        return model.to(torch.float32), inputs, IN_FLOAT32
    return model, inputs, IN_FLOAT32 if watch.found else TOLERANCE


class _Narrow(TorchDispatchMode):
    """Notes whether a forward pass in float64 goes through float32 on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        first = args[0] if args else None
        if isinstance(first, torch.Tensor) and isinstance(out, torch.Tensor) and first.dtype == torch.float64:
            self.found = self.found or out.dtype == torch.float32
        return out


def outputs_of(model: torch.nn.Module, example: Any, proposals: list[Any]) -> list[Any]:
    """What a network returns; of a detector, which returns boxes that passed thresholds, what its heads return.

    Args:
        model: the network.
        example: its input.
        proposals: where a detector's second stage looks: filled by the first network, and used by the next, for which
            boxes of equal score might change places.
    """

    def propose(module: torch.nn.Module, args: Any, output: Any) -> Any:
        if not proposals:
            proposals.append(output)
        return proposals[0]

    found: list[Any] = []
    handles = [
        module.register_forward_hook(lambda module, args, output: found.append(output))
        for path, module in model.named_modules()
        if path.removeprefix("model.") in HEADS
    ]
    handles += [m.register_forward_hook(propose) for m in model.modules() if isinstance(m, RegionProposalNetwork)]
    returned = _forward(model, example)
    for handle in handles:
        handle.remove()
    return found if isinstance(example, tuple) and isinstance(example[0], list) else [returned]


def _is_real(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _with_values(value: Any) -> Any:
    if not isinstance(value, torch.Tensor) or (not _is_real(value) and bool(value.any())):
        return value  # whole numbers that an example gives may be sizes
    generator = torch.Generator().manual_seed(1)
    if _is_real(value):
        return torch.rand(value.shape, generator=generator, dtype=torch.float64)
    return torch.randint(0, 50, value.shape, generator=generator)


def trains(small: torch.nn.Module, example: Any, model: torch.nn.Module) -> bool | None:
    """Whether gradients come back finite.

    None where no output has any (a detector that finds nothing), and where the dense network has none either.
    """
    try:
        return _gradients(small, example)
    except (RuntimeError, NotImplementedError) as error:
        try:
            _gradients(model, example)
        except type(error):
            return None
        raise


def _gradients(small: torch.nn.Module, example: Any) -> bool | None:
    for parameter in small.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    outputs = [x for x in tree_leaves(_forward(small, example)) if isinstance(x, torch.Tensor) and x.requires_grad]
    if not any(x.numel() for x in outputs):
        return None
    sum(x.square().mean() for x in outputs if x.numel()).backward()
    return all(p.grad is None or bool(p.grad.isfinite().all()) for p in small.parameters())


def _forward(model: torch.nn.Module, example: Any) -> Any:
    """What a network returns for a copy of an example, which it may write to; what it draws is the same every time."""
    example = tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, example)
    torch.manual_seed(0)
    if isinstance(example, dict):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)
