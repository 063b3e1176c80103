"""What random networks found, each as the smallest network that showed it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

from edakari.core.graph import Graph
from edakari.core.plan import KeepChannels, Plan
from edakari.cost import macs
from edakari.graph import trace
from edakari.surgery import apply
from edakari.testing import enlivened, exactness, random_plan

IMAGES = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def cut_exactly(model: nn.Module) -> Graph:
    """The graph of a network that random plans cut exactly."""
    torch.manual_seed(0)
    model = enlivened(model)
    graph = trace(model, IMAGES)
    for seed in range(4):
        assert exactness(model, IMAGES, random_plan(graph, (0.3, 0.7), seed)) < 1e-9
    return graph


def sizes(graph: Graph) -> dict[str, int]:
    return {group.name: group.size for group in graph.groups}


class LayerNorm(nn.Module):
    """A class of the user's own that is called as one of torch's and is made otherwise."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.data_format = nn.Parameter(torch.ones(width)), "channels_first"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(x, dim=1) * self.scale[:, None, None]


def test_a_class_may_be_called_as_one_of_torch():
    graph = cut_exactly(nn.Sequential(nn.Conv2d(3, 8, 1), LayerNorm(8), nn.Conv2d(8, 4, 1)))
    assert sizes(graph) == {"0": 8}


class NormOfTokens(nn.Module):
    """A group norm whose channels are tokens: its space is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(3, 8), nn.GroupNorm(4, 16), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.embed(x.flatten(2).transpose(1, 2))))


def test_what_a_group_norm_takes_for_space_may_be_cut():
    assert sizes(cut_exactly(NormOfTokens())) == {"embed": 8}


class ConvolutionOfTokens(nn.Module):
    """A convolution of one position, over a space that is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Linear(3, 8), nn.Conv1d(16, 6, 1), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.mix(self.embed(x.flatten(2).transpose(1, 2)))).mean(1)


def test_what_a_convolution_takes_for_space_counts_among_its_macs():
    model = enlivened(ConvolutionOfTokens())
    graph = cut_exactly(model)
    assert sizes(graph) == {"embed": 8, "mix": 6}
    plan = random_plan(graph, 0.5)
    assert macs(graph).total(plan.sizes()) == macs(trace(apply(model, plan), IMAGES)).total({})


def test_what_is_expanded_is_cut_with_what_it_meets():
    normalized = nn.Sequential(nn.Conv2d(3, 8, 1), Normalize(), nn.Conv2d(8, 4, 1))
    assert sizes(cut_exactly(normalized)) == {"0": 8}


class Normalize(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / x.norm(dim=1, keepdim=True).expand_as(x)


class SlicedToOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 2, 1), nn.Conv2d(1, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x)[:, :1])


def test_a_slice_of_one_position_says_why_it_stays():
    graph = cut_exactly(SlicedToOne())
    assert (
        "one position by itself"
        in {unprunable.where: unprunable.reason for unprunable in graph.unprunable}["conv.weight[0]"]
    )


class MixedTokens(nn.Module):
    """Attention over tokens that a layer made: keys can go."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.mix, self.head = nn.Linear(16, 9), nn.Linear(3, 4)
        self.bias, self.causal = None if causal else nn.Parameter(torch.rand(9, 9)), causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.mix(x.flatten(2)).transpose(1, 2)
        return self.head(F.scaled_dot_product_attention(x, x, x, self.bias, is_causal=self.causal)).mean(1)


def test_keys_that_are_gone_are_not_attended_to():
    assert sizes(cut_exactly(MixedTokens(causal=False))) == {"mix": 9}


def test_a_causal_mask_keeps_tokens_whole():
    graph = cut_exactly(MixedTokens(causal=True))
    assert not graph.groups
    assert any("sees depend on their index" in unprunable.reason for unprunable in graph.unprunable)


class HalvesOfBranches(nn.Module):
    """Branches side by side, seen as rows; what comes out is cut in two, so that each branch already is."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Conv2d(3, 12, 1), nn.Conv2d(3, 12, 3, 1, 1), nn.Conv2d(12, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.cat((self.left(x), self.right(x)), 1)
        y = both.view(x.shape[0], 2, -1, *x.shape[2:]).amax(1)
        half = y.shape[1] // 2
        return self.head(torch.cat((y[:, :half].tanh(), y[:, half:]), 1))


def test_concatenations_are_seen_as_rows_when_they_are_masked():
    assert sizes(cut_exactly(HalvesOfBranches())) == {"left": 6}


class CastHeads(nn.Module):
    """Code that turns a width into heads by a cast, after which nobody knows where the number came from."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(3, 12), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x.flatten(2).transpose(1, 2))
        heads = x.view(*x.shape[:2], 2, int(x.shape[2] / 2)).transpose(1, 2)
        return self.head(F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)).mean(1)


def test_a_number_that_was_cast_keeps_whole_what_it_counts():
    assert sizes(cut_exactly(CastHeads())) == {"embed": 6}


class Swapped(nn.Module):
    """Halves that change places: whatever their lengths, the whole is as long."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        half = int(y.shape[1] / 2)
        return self.head(torch.cat((y[:, half:], y[:, :half]), 1))


def test_a_slice_at_a_number_that_was_cast_is_cut_only_as_far_as_it_holds():
    # with 7 channels the code halves at 3, where the first half ends if it lost one; with 6 it would not
    (group,) = cut_exactly(Swapped()).groups
    assert (group.size, group.least) == (4, 3)


class UnevenChunks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat(self.conv(x).chunk(2, 1)[::-1], 1))


def test_chunks_of_unequal_length_stay_whole():
    assert sizes(cut_exactly(UnevenChunks())) == {}


class AsManyZeros(nn.Module):
    """As many zeros as channels, among which statistics are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 1), nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        zeros = torch.zeros(y.shape[0], y.shape[1], *y.shape[2:], dtype=y.dtype, device=y.device)
        return self.head(self.norm(torch.cat((y, zeros), 1).permute(0, 2, 3, 1))).mean((1, 2))


def test_constants_are_as_long_as_the_number_that_made_them():
    assert sizes(cut_exactly(AsManyZeros())) == {"conv": 8}


class Reciprocal(nn.Module):
    """Divides by what is nothing in a narrow network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.head(y * (8 // (y.shape[1] // 8)))


def test_what_a_narrow_network_raises_keeps_it_whole():
    graph = cut_exactly(Reciprocal())
    assert sizes(graph) == {}
    assert any("by zero" in unprunable.reason for unprunable in graph.unprunable)


def test_an_instance_norm_without_scale_knows_its_width():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.InstanceNorm2d(8), nn.Conv2d(8, 4, 1))
    cut_exactly(model)
    graph = trace(model, IMAGES.float())
    assert apply(model, random_plan(graph, 0.5))[1].num_features == 4


class Remembered(nn.Module):
    """Makes its positions in the first pass and keeps them: later passes run through fewer lines."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head, self.positions = nn.Linear(3, 12), nn.Linear(12, 4), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x.flatten(2).transpose(1, 2))
        if self.positions is None:
            self.positions = torch.linspace(0, 1, 16, dtype=x.dtype, device=x.device).view(1, -1, 1).repeat(1, 1, 1)
        x = (x + self.positions).unflatten(2, (2, -1)).softmax(-1).flatten(2)
        return self.head(x).mean(1)


def test_a_second_pass_through_other_lines_is_no_fault():
    assert sizes(cut_exactly(Remembered())) == {"embed": 6}


def test_spectral_norm_is_taken_of_what_is_left():
    layer = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 8, 1))
    assert sizes(cut_exactly(nn.Sequential(layer, nn.Conv2d(8, 4, 1)))) == {"0.parametrizations.weight": 8}


class LiteralGroups(nn.Module):
    """A group norm in the code, whose number of groups half of the channels would fit by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(3, 48, 1), nn.Conv2d(48, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.group_norm(self.up(x), 4))


class RememberedGroups(LiteralGroups):
    """The same, with the number in an attribute that goes by another name."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = 4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.group_norm(self.up(x), num_groups=self.parts))


def test_groups_of_a_norm_that_are_written_into_the_code_stay():
    assert sizes(cut_exactly(LiteralGroups())) == {"up": 12}


def test_groups_of_a_norm_follow_an_attribute_of_any_name():
    graph = cut_exactly(RememberedGroups())
    assert sizes(graph) == {"up:group": 4, "up:channel": 12}
    plan = Plan((KeepChannels("up:group", (1, 3)),), graph.fingerprint, graph.inputs, "test")
    assert apply(RememberedGroups().double(), plan).parts == 2


class ByKeyword(nn.Module):
    """Gives torch's functions their arguments by name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.deep = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.LayerNorm(8)
        self.qkv, self.out, self.pair = nn.Linear(8, 24), nn.Linear(8, 6), nn.Bilinear(6, 6, 4)

    def forward(self, x):
        x = F.conv2d(input=x, weight=self.conv.weight, bias=self.conv.bias)
        x = F.batch_norm(
            input=x,
            running_mean=self.norm.running_mean,
            running_var=self.norm.running_var,
            weight=self.norm.weight,
            bias=self.norm.bias,
        )
        x = torch.cat(tensors=[x], dim=1).flatten(start_dim=2).transpose(dim0=1, dim1=2)
        x = F.layer_norm(input=x, normalized_shape=[x.shape[-1]], weight=self.deep.weight, bias=self.deep.bias)
        qkv = F.linear(input=x, weight=self.qkv.weight, bias=self.qkv.bias)
        q, k, v = torch.chunk(input=qkv, chunks=3, dim=-1)
        x = F.scaled_dot_product_attention(query=q, key=k, value=v)
        x = torch.sum(input=F.linear(x, bias=self.out.bias, weight=self.out.weight), dim=1)
        return F.bilinear(input1=x, input2=x, weight=self.pair.weight, bias=self.pair.bias)


def test_functions_that_get_their_arguments_by_name():
    model, x = enlivened(ByKeyword()), torch.rand(2, 3, 4, 4, dtype=torch.float64)
    graph = trace(model, x)
    assert [group.size for group in graph.groups] == [8, 8, 6]
    for seed in range(3):
        assert exactness(model, x, random_plan(graph, seed=seed)) < 1e-12


class PerImage(nn.Module):
    """A kernel for each image, mixed out of a few (CondConv): one convolution with as many groups as images."""

    def __init__(self) -> None:
        super().__init__()
        self.groups, self.kernels, self.route = 1, nn.Parameter(torch.randn(3, 8 * 8)), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        images, channels, height, width = x.shape
        kernels = (self.route(x.mean((2, 3))).sigmoid() @ self.kernels).view(images * 8, 8, 1, 1)
        x = F.conv2d(x.reshape(1, images * channels, height, width), kernels, groups=self.groups * images)
        return x.view(images, 8, height, width)


def test_groups_of_a_convolution_that_runs_for_each_image_are_left_alone():
    model = enlivened(nn.Sequential(nn.Conv2d(3, 8, 1), PerImage(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)))
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    graph = trace(model, x)
    for plan in (Plan((), graph.fingerprint, graph.inputs), random_plan(graph)):
        assert exactness(model, x, plan, graph) < 1e-12
        assert apply(model, plan, graph)[1].groups == 1
    assert "2" in sizes(graph)
