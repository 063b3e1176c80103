"""Operators by kind, each in a small network: what can be cut is cut exactly, and what stays says why."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

from edakari.core.graph import Graph
from edakari.cost import macs
from edakari.graph import rules, trace
from edakari.surgery import apply, simulate
from edakari.testing import enlivened, exactness, random_plan

IMAGES = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Around(nn.Module):
    """A function between two convolutions of one position; what it returns is mixed once more."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], width: int = 8) -> None:
        super().__init__()
        self.function = function
        self.stem = nn.Conv2d(3, width, 1)
        with torch.no_grad():
            channels = function(self.stem(torch.zeros(2, 3, 6, 6))).shape[1]
        self.head = nn.Conv2d(channels, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.function(self.stem(x)))


def cut_exactly(model: nn.Module, example: Any = IMAGES) -> Graph:
    """The graph of a network that random plans cut exactly."""
    model = enlivened(model)
    graph = trace(model, example)
    for seed in range(3):
        assert exactness(model, example, random_plan(graph, (0.3, 0.7), seed)) < 1e-9
    return graph


def reasons(graph: Graph) -> str:
    return " | ".join(unprunable.reason for unprunable in graph.unprunable)


def along(name: str, **options: object) -> Callable[[torch.Tensor], torch.Tensor]:
    """A reduction over channels beside the channels themselves."""

    def run(x: torch.Tensor) -> torch.Tensor:
        found = getattr(torch, name)(x, dim=1, keepdim=True, **options)
        return x - (found if isinstance(found, torch.Tensor) else found[0])

    return run


def hard(x: torch.Tensor) -> torch.Tensor:
    soft = x.softmax(1)
    chosen = torch.zeros_like(soft).scatter_(1, soft.max(1, keepdim=True)[1], 1.0)
    return x * (chosen - soft.detach() + soft)


def chosen_tokens(x: torch.Tensor) -> torch.Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    best = tokens.norm(dim=-1).topk(9, dim=1).indices
    return tokens.gather(1, best.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])).transpose(1, 2).unflatten(2, (3, 3))


def masked_tokens(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[:, :, torch.tensor([[True, False] * 3] * 6)] = 0.5
    x.index_add_(2, torch.tensor([0, 2]), x[:, :, 3:5])
    x[..., [0, 1]] = x.mean((2, 3))[:, :, None, None]
    return x.index_copy(3, torch.tensor([1]), x[..., 2:3])


def sparse_experts(x: torch.Tensor) -> torch.Tensor:
    tokens = x.flatten(2).transpose(1, 2).flatten(0, 1)
    found = torch.zeros_like(tokens)
    for first in range(2):
        rows = torch.arange(first, len(tokens), 2)
        found.index_add_(0, rows, tokens[rows] * (first + 0.5))
    return found.unflatten(0, (x.shape[0], -1)).transpose(1, 2).unflatten(2, x.shape[2:])


def filtered(x: torch.Tensor) -> torch.Tensor:
    found = torch.fft.rfft2(x, norm="ortho")
    weight = torch.view_as_complex(torch.arange(48.0, dtype=x.dtype).view(6, 4, 2).cos())
    low = torch.zeros_like(found)
    low[:, :, :3, :3] = (found * weight)[:, :, :3, :3]
    return torch.fft.irfft2(low, s=x.shape[-2:], norm="ortho")


def regions(name: str, by_position: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    def run(x: torch.Tensor) -> torch.Tensor:
        boxes = torch.tensor([[0.0, 0, 0, 4, 4], [1.0, 1, 1, 5, 5]], dtype=x.dtype)
        x = x.repeat_interleave(4, 1) if by_position else x
        return getattr(torchvision.ops, name)(x, boxes, 2)

    return run


def unpooled(x: torch.Tensor) -> torch.Tensor:
    found, index = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(found, index, 2)


def transformed(x: torch.Tensor) -> torch.Tensor:
    theta = torch.eye(2, 3, dtype=x.dtype) + x.mean((1, 2, 3)).view(-1, 1, 1) / 10
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)


def nearest(x: torch.Tensor) -> torch.Tensor:
    flat = x.flatten(2).transpose(1, 2)
    return torch.cdist(flat, flat[:, :4].tanh()).transpose(1, 2).unflatten(2, (6, 6))


class Blurred(nn.Module):
    """A blur whose kernel is the same for each channel, and repeated as often as there are channels."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.head, self.width = nn.Conv2d(3, width, 1), nn.Conv2d(width, 4, 1), width
        self.register_buffer("kernel", torch.rand(1, 1, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel = self.kernel.repeat(self.width, 1, 1, 1)
        return self.head(F.conv2d(self.stem(x), kernel, padding=1, groups=self.width))


def test_kernels_that_are_repeated_for_each_channel() -> None:
    assert [group.size for group in cut_exactly(Blurred()).groups] == [8]


def repeated_index(x: torch.Tensor) -> torch.Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    order = tokens.detach().mean(-1).argsort(1)[:, :9]
    taken = torch.gather(tokens, 1, order.unsqueeze(-1).repeat(1, 1, tokens.shape[-1]))
    return taken.transpose(1, 2).unflatten(2, (3, 3))


def joined(x: torch.Tensor) -> torch.Tensor:
    found = torch.empty(x.shape[0], 2 * x.shape[1], *x.shape[2:], dtype=x.dtype)
    found[:, : x.shape[1]] = x
    found[:, x.shape[1] :] = torch.tanh(x)
    return found


def quantized_by_loss(x: torch.Tensor) -> torch.Tensor:
    rounded = (x * 4).round() / 4
    return x + rounded * F.mse_loss(rounded, x) + F.smooth_l1_loss(x, x.mean(1, keepdim=True).expand_as(x))


FREE = {
    "index by repeat": repeated_index,
    "parts of a new tensor": joined,
    "loss": quantized_by_loss,
    "histogram": lambda x: x * torch.histc(x, 4, -0.5, 0.5)[0],
    **{name: along(name) for name in ("max", "min", "median", "mode", "amax", "prod", "logsumexp", "norm", "aminmax")},
    **{name: along(name, correction=1) for name in ("std", "var")},
    "kept values alone": lambda x: x * torch.linalg.vector_norm(x, -torch.inf, 1, True),
    "argmin and gather": lambda x: x + torch.tanh(x).gather(1, x.argmin(1, keepdim=True)),
    "one-hot by scatter": hard,
    "cumsum": lambda x: x.cumsum(1),
    "cummax": lambda x: x.cummax(1).values,
    "tokens by number": chosen_tokens,
    "tokens under masks": masked_tokens,
    "sparse experts": sparse_experts,
    "fourier over space": filtered,
    "roi_align": regions("roi_align", False),
    "roi_pool": regions("roi_pool", False),
    "ps_roi_align": regions("ps_roi_align", True),
    "ps_roi_pool": regions("ps_roi_pool", True),
    "max_unpool": unpooled,
    "affine_grid": transformed,
    "fold": lambda x: F.fold(F.unfold(x, 3, padding=1), (6, 6), 3, padding=1),
    "cdist": nearest,
    "assignment": lambda x: x.clone().masked_fill_(x > 1, 0.5).index_put_((x < 0,), x.new_tensor(0.25)),
}


@pytest.mark.parametrize("name", FREE)
def test_channels_are_cut_through(name: str) -> None:
    assert [(group.name, group.size) for group in cut_exactly(Around(FREE[name])).groups] == [("stem", 8)]


def shuffled(x: torch.Tensor) -> torch.Tensor:
    return x[:, torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])]


def written(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[:, [0, 2]] = 0.0
    return x


STAY = {
    "read index": (lambda x: x + x.argmax(1, keepdim=True), "with indices of positions"),
    "index as a number": (lambda x: x * x.max(1).indices.unsqueeze(1), "with indices of positions"),
    "index of everything": (lambda x: x * x.argmax(), "count the positions of all dimensions"),
    "topk": (lambda x: x.topk(4, 1).values, "by rank"),
    "sort": (lambda x: x.sort(1).values, "by rank"),
    "permutation": (shuffled, "selects positions by index"),
    "written by number": (written, "index"),  # torch 2.11 has another operator for it than 2.15, with words of its own
    "index_select": (lambda x: x.index_select(1, torch.arange(7, -1, -1)), "selects positions by index"),
    "index_add": (lambda x: x.index_add(1, torch.arange(8), x), "written by index"),
    "flip": (lambda x: x.flip(1), "reorders positions"),
    "fourier over channels": (lambda x: torch.fft.rfft(x, dim=1).abs(), "into frequencies"),
    "response": (lambda x: F.local_response_norm(x, 3), "changes the neighbours"),
}


@pytest.mark.parametrize("name", STAY)
def test_channels_that_stay_say_why(name: str) -> None:
    function, why = STAY[name]
    graph = cut_exactly(Around(function))
    assert not graph.groups
    assert why in reasons(graph)


def test_every_rule_that_keeps_positions_says_why() -> None:
    silent = [
        f"{path.name}:{node.lineno}"
        for path in Path(rules.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "pin" and node.args
        if getattr(getattr(node.func, "value", None), "id", "") == "tracer"
        if not any(keyword.arg == "why" for keyword in node.keywords)
    ]
    assert not silent


class Elsewhere(nn.Module):
    """Looks up channels by the numbers of other channels."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.right(x)
        return self.head(y - y.gather(1, self.left(x).argmax(1, keepdim=True)))


def test_numbers_of_other_channels_keep_both() -> None:
    graph = cut_exactly(Elsewhere())
    assert not graph.groups
    assert "selects positions by index" in reasons(graph)


class Numbered(nn.Module):
    """Returns which channel is the largest."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        best, index = self.conv(x).max(1)
        return best, index.flatten(1)


def test_numbers_of_channels_that_are_returned_keep_them() -> None:
    graph = cut_exactly(Numbered())
    assert not graph.groups
    assert "returns indices of its positions" in reasons(graph)


class Attention(nn.Module):
    """CBAM's gate over space, as it is usually written."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.gate = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(2, 1, 3, padding=1)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.body(x)
        both = torch.cat([torch.mean(y, 1, keepdim=True), torch.max(y, 1, keepdim=True)[0]], 1)
        return self.head(x + y * torch.sigmoid(self.gate(both)))


def test_gates_by_the_largest_channel_leave_the_stream_free() -> None:
    assert [group.size for group in cut_exactly(Attention()).groups] == [8]


class Deformed(nn.Module):
    def __init__(self, groups: int, offset_groups: int, masked: bool) -> None:
        super().__init__()
        count = 9 * offset_groups
        self.stem, self.offset = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2 * count, 1)
        self.mask = nn.Conv2d(8, count, 1) if masked else None
        self.conv, self.head = torchvision.ops.DeformConv2d(8, 12, 3, padding=1, groups=groups), nn.Conv2d(12, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(self.conv(x, self.offset(x), None if self.mask is None else self.mask(x).sigmoid()))


@pytest.mark.parametrize(
    ("groups", "offset_groups", "masked", "expected"),
    [
        (1, 1, False, [8, 12]),
        (1, 1, True, [8, 12]),
        (1, 2, True, [2, 4, 12]),
        (2, 1, True, [2, 4, 6]),
        (2, 4, False, [2, 2, 2, 6]),
    ],
)
def test_deformable_convolutions(groups: int, offset_groups: int, masked: bool, expected: list[int]) -> None:
    model = Deformed(groups, offset_groups, masked)
    graph = cut_exactly(model)
    assert sorted(group.size for group in graph.groups) == sorted(expected)
    small = apply(model, random_plan(trace(model, IMAGES.float()), 0.5)).conv
    assert (small.in_channels // small.groups, small.out_channels) == (small.weight.shape[1], small.weight.shape[0])


class Pairs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 8), nn.Linear(3, 6)
        self.both, self.head = nn.Bilinear(8, 6, 5), nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(2).transpose(1, 2)
        return self.head(self.both(self.left(x), self.right(x)))


def test_bilinear_layers() -> None:
    assert [group.size for group in cut_exactly(Pairs()).groups] == [8, 6, 5]


class Sized(nn.Module):
    """Takes a size, and which of its embeddings, from integers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.embed, self.head = nn.Conv2d(3, 8, 1), nn.Embedding(5, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor, size: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(self.stem(x), size=size.tolist()) + self.embed(kinds).mean(1)[:, :, None, None]
        return self.head(x)


def test_integers_among_the_inputs_are_kept() -> None:
    example = (IMAGES, torch.tensor([4, 5]), torch.tensor([[0, 4, 1], [3, 3, 2]]))
    graph = cut_exactly(Sized(), example)
    assert [group.size for group in graph.groups] == [8]
    plan = random_plan(graph, 0.5)
    model = enlivened(Sized())
    again = type(plan).from_json(plan.to_json())
    assert torch.equal(apply(model, again)(*example), apply(model, plan)(*example))
    assert not torch.equal(simulate(model, again)(*example), model(*example))


class Experts(nn.Module):
    """Experts whose products are one operator, which deals rows out to them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 16), nn.Linear(8, 4)
        self.experts = nn.Parameter(torch.rand(2, 16, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.stem(x.flatten(2).transpose(1, 2).flatten(0, 1))
        ends = torch.tensor([20, len(rows)], dtype=torch.int32, device=x.device)
        return self.head(nn.functional.grouped_mm(rows, self.experts, offs=ends))


def multiplies_groups() -> bool:
    """Whether this torch has the operator, for numbers of 32 bits: 2.11 has it for bf16 alone."""
    try:
        with torch.device("meta"):  # as it is traced
            F.grouped_mm(torch.zeros(4, 4), torch.zeros(2, 4, 4), offs=torch.zeros(2, dtype=torch.int32))
    except (AttributeError, RuntimeError):
        return False
    return True


@pytest.mark.skipif(not multiplies_groups(), reason="this torch has no such operator")
def test_products_of_experts_are_counted() -> None:
    graph = trace(Experts(), IMAGES.float())
    assert "assigned to groups by index" in reasons(graph)
    assert macs(graph).total({}) == 72 * (3 * 16 + 16 * 8 + 8 * 4)
    # what torch itself needs of the lengths of rows, in words
    assert "multiple of 16 bytes" in reasons(graph)


class Images(nn.Module):
    """Features of images in the places of tokens that a mask names."""

    def __init__(self, expanded: bool) -> None:
        super().__init__()
        self.words, self.features, self.norm = nn.Embedding(9, 8), nn.Conv2d(3, 8, 3, 3), nn.LayerNorm(8)
        self.head, self.expanded = nn.Linear(8, 4), expanded

    def forward(self, x: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        tokens = self.words(words)
        features = self.features(x).flatten(2).transpose(1, 2)
        mask = (words == 7).unsqueeze(-1)
        mask = mask.expand_as(tokens) if self.expanded else mask
        return self.head(self.norm(tokens.masked_scatter(mask, features)))


@pytest.mark.parametrize("expanded", [True, False])
def test_features_in_the_places_of_tokens(expanded: bool) -> None:
    words = torch.tensor([[1, 7, 7, 7, 7, 3], [7, 2, 7, 4, 7, 7]])
    assert [group.size for group in cut_exactly(Images(expanded), (IMAGES, words)).groups] == [8]


class Sequences(nn.Module):
    """A recurrent layer over sequences of several lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.over, self.head = nn.Linear(3, 8), nn.GRU(8, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        steps = self.embed(x.flatten(2).transpose(1, 2))
        packed = nn.utils.rnn.pack_padded_sequence(steps, lengths, batch_first=True, enforce_sorted=False)
        return self.head(nn.utils.rnn.pad_packed_sequence(self.over(packed)[0], batch_first=True)[0])


def test_sequences_of_several_lengths() -> None:
    graph = cut_exactly(Sequences(), (IMAGES, torch.tensor([7, 36])))
    assert [(group.name, group.size) for group in graph.groups] == [("embed", 8), ("over", 6)]


class Bags(nn.Module):
    """Sums of embeddings, chosen by integers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.EmbeddingBag(7, 8, mode="sum"), nn.Linear(8, 4)
        self.shift = nn.Parameter(torch.rand(8))

    def forward(self, x: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(words) + self.shift) + x.mean()


def test_bags_of_embeddings() -> None:
    graph = cut_exactly(Bags(), (IMAGES, torch.tensor([[1, 2, 6], [0, 0, 3]])))
    assert [(group.name, group.size) for group in graph.groups] == [("shift", 8)]
    assert "embed.weight[0]" in {unprunable.where for unprunable in graph.unprunable}
