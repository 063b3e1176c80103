"""Branches that were dropped: the network is what its own code computes without the block, whatever else goes."""

from __future__ import annotations

import copy
import itertools
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

from edakari.core.plan import DropBranch, Plan
from edakari.core.space import Group, limited
from edakari.graph import trace
from edakari.graph.dropped import Zeros
from edakari.graph.trial_sizes import trial_sizes
from edakari.surgery import apply
from edakari.testing import difference, enlivened, exactness, random_plan

WIDTH = 6


class Block(nn.Module):
    """`x + f(x)` in one of many ways of writing it; `skip` leaves the block out."""

    def __init__(self, inner: nn.Module | None = None):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(WIDTH), nn.BatchNorm2d(WIDTH)
        self.conv1, self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, WIDTH, 1)
        self.act, self.inner, self.skip = nn.ReLU(inplace=True), inner or nn.Identity(), False
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x if self.skip else self.block(x)


class PostActivation(Block):
    def block(self, x):
        out = self.act(self.norm1(self.conv1(x)))
        out = self.inner(out)
        out = self.norm2(self.conv2(out))
        out += x
        return out


class SharedActivation(Block):
    def block(self, x):
        y = self.inner(self.conv1(self.act(self.norm1(x))))
        return self.conv2(self.act(self.norm2(y))) + x


class FunctionalInPlace(Block):
    def block(self, x):
        y = F.relu(self.norm1(x), inplace=True)
        return x + self.conv2(self.inner(self.conv1(y)).mul_(0.5))


class InPlaceByHand(Block):
    def block(self, x):
        y = self.norm1(x)
        y += self.shift
        y[:, :, :1] = 0.25
        y.transpose(2, 3).mul_(2)
        x += self.conv2(self.inner(self.conv1(y)))
        return x


class InPlaceDropout(Block):
    def block(self, x):
        y = F.dropout(self.norm1(x), 0.5, self.training, inplace=True)
        return x + self.conv2(self.inner(self.conv1(y)))


class Reshaped(Block):
    def block(self, x):
        y = self.norm1(x).transpose(2, 3).reshape(x.shape).sub_(0.5)
        return x + self.conv2(self.inner(self.conv1(y)))


class Net(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.stem, self.blocks, self.head = nn.Conv2d(3, WIDTH, 1), nn.Sequential(*blocks), nn.Conv2d(WIDTH, 2, 1)

    def forward(self, x):
        self.seen = x.mean()
        return self.head(self.blocks(self.stem(x)))


KINDS = (PostActivation, SharedActivation, FunctionalInPlace, InPlaceByHand, InPlaceDropout, Reshaped)


def drop(graph, branches):
    return Plan(tuple(DropBranch(branch.name) for branch in branches), graph.fingerprint, graph.inputs)


def subsets(items):
    return itertools.chain.from_iterable(itertools.combinations(items, count) for count in range(1, len(items) + 1))


def block_of(model, branch):
    path = branch.exit.rpartition(".")[0]
    return model.get_submodule(path)


@pytest.mark.parametrize("kind", KINDS)
def test_without_any_blocks_the_network_is_its_own_code_without_them(kind):
    torch.manual_seed(0)
    model = enlivened(Net(kind(), kind(SharedActivation())))
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    graph = trace(model, x)
    names = [branch.name for branch in graph.branches]
    assert len(names) == len(set(names)) == 3
    for chosen in subsets(graph.branches):
        plain = copy.deepcopy(model)
        for branch in chosen:
            block_of(plain, branch).skip = True
        with torch.no_grad():
            small = apply(model, drop(graph, chosen))
            assert difference(small(x.clone()), plain(x.clone())) < 1e-12, [branch.name for branch in chosen]
        assert not small.seen.is_meta


@pytest.mark.parametrize("kind", KINDS)
def test_branches_and_channels_go_at_once(kind):
    torch.manual_seed(0)
    model = enlivened(Net(kind(SharedActivation()), kind()))
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    graph = trace(model, x)
    assert graph.groups
    assert graph.branches
    for seed in range(6):
        assert exactness(model, x, random_plan(graph, keep=(0.2, 1.0), seed=seed, drop=0.5)) < 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_in_training_too_nothing_writes_into_what_goes_round_a_block(kind):
    model = Net(kind())
    small = apply(model.train(), drop(graph := trace(model, torch.zeros(1, 3, 4, 4)), graph.branches))
    found = {}
    small.blocks.register_forward_pre_hook(lambda module, args: found.update(before=args[0].clone()))
    small.blocks.register_forward_hook(lambda module, args, output: found.update(after=output.clone()))
    small(torch.randn(2, 3, 4, 4))
    assert torch.equal(found["before"], found["after"])


class Aliased(nn.Module):
    """Blocks that cannot go: a stand-in would not be called, or a write into the shortcut would be missing."""

    def __init__(self, how):
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(3, WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 1), nn.Conv2d(WIDTH, 2, 1)
        self.last = nn.Conv2d(WIDTH, WIDTH, 1)
        self.how, self.twin, self.plain = how, nn.ModuleList([self.conv]), [self.conv]
        self.writer = Writer()

    def forward(self, x):
        x = self.stem(x)
        match self.how:
            case "two names":
                x = x + self.twin[0](x)
            case "a list":
                x = x + self.plain[0](x)
            case "writes by a view":
                x = x + self.writer(x)
            case "a gate":
                x = x + torch.sigmoid(self.conv(x))
            case "divided by":
                x = x + 1 / (2 + self.conv(x).square())
            case "by itself":
                y = self.conv(x)
                x = x + y / y
            case "divided by what passes on":
                x = x.relu()
                y = self.conv(x)
                x = x + self.last(y) / y
            case "padded by ones":
                x = x + F.pad(self.conv(x)[..., 1:], (1, 0), value=1.0)
        return self.head(x)


class Writer(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, x):
        x[:, :, 0] = 0.5
        return self.conv(x)


HOWS = [
    "two names",
    "a list",
    "writes by a view",
    "a gate",
    "divided by",
    "by itself",
    "divided by what passes on",
    "padded by ones",
]


@pytest.mark.parametrize("how", HOWS)
def test_what_would_go_wrong_is_not_offered(how):
    model = enlivened(Aliased(how))
    x = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    graph = trace(model, x)
    offered = [branch.exit for branch in graph.branches]
    # the convolution behind the write may go: the write stays
    assert offered == (["writer.conv"] if how == "writes by a view" else [])
    for branch in graph.branches:
        assert exactness(model, x, drop(graph, [branch])) < 1e-12


class Whole(nn.Module):
    """One residual as a whole, and one in it."""

    def __init__(self, deep):
        super().__init__()
        self.mean, self.a, self.b = torch.rand(1, 3, 1, 1), nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.inner = nn.Conv2d(8, 8, 1) if deep else None

    def forward(self, x):
        self.mean = self.mean.type_as(x)
        x = x - self.mean
        y = self.a(x).relu()
        if self.inner is not None:
            y = y + self.inner(y)
        return x + self.b(y)


@pytest.mark.parametrize("deep", [False, True])
def test_the_whole_network_is_no_branch_and_what_it_stores_stays(deep):
    model = Whole(deep)
    graph = trace(model, torch.zeros(1, 3, 6, 6))
    assert [branch.exit for branch in graph.branches] == (["inner"] if deep else [])
    for plan in (drop(graph, graph.branches), random_plan(graph)):
        small = apply(model, plan)
        assert not small.mean.is_meta
        assert small(torch.rand(1, 3, 6, 6)).isfinite().all()
    bare = trace(identity := Bare(), torch.zeros(1, 3, 6, 6))
    assert not apply(identity, drop(bare, ())).mean.is_meta


class Bare(nn.Module):
    """No parameters at all."""

    def __init__(self):
        super().__init__()
        self.mean = torch.rand(1, 3, 1, 1)

    def forward(self, x):
        self.mean = self.mean.type_as(x)
        return x - self.mean


class Embed(nn.Module):
    def forward(self, x):
        return x.flatten(2).transpose(1, 2)


class Unembed(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], 3, -1)


class Flattened(nn.Module):
    """`embed(conv(unembed(body(x)))) + x` only goes where what is around it goes too: its zeros have another form."""

    def __init__(self, c):
        super().__init__()
        self.body, self.conv, self.embed, self.unembed = nn.Linear(c, c), nn.Conv2d(c, c, 1), Embed(), Unembed()

    def forward(self, x):
        return self.embed(self.conv(self.unembed(self.body(x)))) + x


class Outer(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.stem, self.after, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)
        self.embed, self.unembed = Embed(), Unembed()
        self.groups = nn.ModuleList(Flattened(8) for _ in range(blocks))
        self.sound = nn.ModuleList(nn.Linear(8, 8) for _ in range(blocks))

    def forward(self, x):
        x = self.stem(x)
        y = self.embed(x)
        for group, sound in zip(self.groups, self.sound, strict=True):
            y = group(y)
            y = y + sound(y)
        return self.head(self.after(self.unembed(y)) + x)


def counted(monkeypatch, name):
    from importlib import import_module

    module, calls = import_module(f"edakari.graph.{name}"), []
    real = module.fault_of
    monkeypatch.setattr(module, "fault_of", lambda *args: calls.append(1) or real(*args))
    return calls


def test_a_branch_that_an_outer_one_hides_is_tried_by_itself(monkeypatch):
    trials = counted(monkeypatch, "trial_cuts")
    needed = []
    for blocks in (2, 8):
        trials.clear()
        model = enlivened(Outer(blocks))
        x = torch.rand(1, 3, 3, 5, dtype=torch.float64)
        graph = trace(model, x)
        needed.append(len(trials))
        assert [branch.exit for branch in graph.branches] == [*(f"sound.{i}" for i in range(blocks)), "after"]
        for seed in range(4):
            assert exactness(model, x, random_plan(graph, 0.6, seed, drop=0.5)) < 1e-9
    assert needed[1] <= needed[0] + 3, "trials grow with the number of kinds, not of blocks"


class SameHeaviest(nn.Module):
    """Two branches in one module, which have the same heaviest module."""

    def __init__(self):
        super().__init__()
        self.stem, self.heavy, self.light = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.back, self.last, self.head = nn.Linear(4, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        y = x + self.back(self.light(x).relu())
        z = y + self.heavy(y)
        return self.head(x + self.last(z.tanh()))


def test_every_branch_has_a_name_of_its_own():
    model = enlivened(SameHeaviest())
    x = torch.rand(2, 5, dtype=torch.float64)
    graph = trace(model, x)
    names = [branch.name for branch in graph.branches]
    assert len(set(names)) == len(names) == 3
    dense = dict(model.named_modules())
    for chosen in subsets(graph.branches):
        small = apply(model, drop(graph, chosen))
        zeros = {path for path, module in small.named_modules() if isinstance(module, Zeros)}
        assert zeros >= {branch.exit for branch in chosen if branch is chosen[-1]}
        assert zeros <= {branch.exit for branch in chosen}
        assert exactness(model, x, drop(graph, chosen)) < 1e-12
    assert set(dense) == set(dict(model.named_modules()))


class Compared(nn.Module):
    """Two widths compared in a way that no trace follows; in a cut network they agree by chance where sizes do."""

    def __init__(self, width):
        super().__init__()
        self.channels, self.conv = width, nn.Conv2d(width, width, 1)

    def forward(self, x):
        if float(x.shape[1]) != float(self.channels):
            raise AssertionError("another width")
        return self.conv(x)


class Chain(nn.Module):
    def __init__(self, between, width, at):
        super().__init__()
        self.first = nn.ModuleList(nn.Conv2d(3 if not i else width, width, 1) for i in range(at))
        self.other = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(between))
        self.up, self.head, self.tail = Compared(width), nn.Conv2d(width, 2, 1), nn.Conv2d(width, 2, 1)

    def forward(self, x):
        for layer in self.first:
            x = layer(x)
        y = x
        for layer in self.other:
            y = layer(y)
        return self.head(self.up(x)) + self.tail(y)


@pytest.mark.parametrize(("width", "between"), [(4, 3), (4, 8), (8, 5), (8, 6), (8, 12), (16, 11)])
def test_no_width_agrees_by_chance_in_all_trial_cuts(width, between):
    for at in (1, 2, 3):
        model = Chain(between, width, at).eval()
        graph = trace(model, torch.zeros(1, 3, 2, 2))
        for seed in range(3):
            apply(model, random_plan(graph, keep=(0.2, 0.9), seed=seed))


@pytest.mark.parametrize(("size", "count"), [(8, 30), (64, 200), (6, 9)])
def test_trial_sizes_tell_all_widths_apart(size, count):
    groups = [Group(f"g{i}", "channel", size + i % 2, least=1 + i % 2) for i in range(count)]
    found = trial_sizes(groups)
    assert len({tuple(turn[group.name] for turn in found.turns) for group in groups}) == count
    for turn in (*found.turns, *found.alternate):
        assert all(group.least <= turn.get(group.name, 1) < group.size for group in groups if group.name in turn)
    first, second = found.turns[:2]
    assert found.crowded == (len(set(first.values())) < count)
    few = trial_sizes(groups[:4])
    assert len(few.turns) == 2
    assert all(few.turns[1][group.name] == group.least for group in groups[:4]), "the smallest sizes are tried too"
    assert {*found.alternate[0], *found.alternate[1]} == set(first) == set(second)


class Standardised(nn.Conv2d):
    """A weight is standardised by statistics over its inputs, so that a single one is too few (BiT)."""

    def forward(self, x):
        flat = self.weight.reshape(1, self.weight.shape[0], -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias)


@pytest.mark.parametrize("width", [3, 4, 16])
def test_a_size_that_is_too_small_raises_the_least_one(width):
    layers = [Standardised(width if i else 3, width, 1) for i in range(3)]
    model = enlivened(nn.Sequential(*layers, nn.Conv2d(width, 2, 1)))
    x = torch.rand(2, 3, 3, 3, dtype=torch.float64)
    graph = trace(model, x)
    least = {group.name: group.least for group in graph.groups}
    assert {least["0"], least["1"]} == {2}
    assert [group.least for group in limited(graph.groups, min_channels=1)] == [group.least for group in graph.groups]
    for seed in range(8):
        assert exactness(model, x, random_plan(graph, keep=(0.01, 0.9), seed=seed)) < 1e-9


class EitherWhole(nn.Module):
    """Fails where both of two widths are cut; a third has nothing to do with it."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(5, 6) for _ in range(3))
        self.check, self.heads = Check(), nn.ModuleList(nn.Linear(6, 2) for _ in range(3))

    def forward(self, x):
        tensors = self.check(*(layer(x) for layer in self.layers))
        return sum(head(tensor) for head, tensor in zip(self.heads, tensors, strict=True))


class Check(nn.Module):
    def forward(self, x, y, z):
        if 6.0 not in (float(x.shape[1]), float(y.shape[1])):
            raise ValueError("one of both is whole")
        return x, y, z


def test_a_size_that_is_too_small_together_with_another_raises_one_of_them():
    layers = [layer for i in range(2) for layer in (Standardised(8 if i else 3, 8, 1), nn.GroupNorm(2, 8))]
    model = enlivened(nn.Sequential(*layers, Standardised(8, 4, 1), nn.Conv2d(4, 2, 1)))
    x = torch.rand(2, 3, 3, 3, dtype=torch.float64)
    graph = trace(model, x)
    # one group of channels of one would leave a single value of each weight
    assert {group.kind: group.least for group in graph.groups if group.name.endswith(("group", "channel"))} == {
        "group": 1,
        "channel": 2,
    }
    for seed in range(6):
        assert exactness(model, x, random_plan(graph, keep=(0.01, 0.9), seed=seed)) < 1e-9


class ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.mix, self.head = (nn.Linear(5, 8), nn.LayerNorm(8), Mix(), nn.Linear(8, 2))

    def forward(self, x):
        x = self.stem(x)
        y, _ = self.mix(mask=None, hidden=self.norm(x))
        return self.head(x + y)


class Mix(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, hidden, mask=None):
        return self.linear(hidden), mask


def test_modules_that_get_tensors_by_keyword_go():
    model = enlivened(ByKeyword())
    x = torch.rand(2, 5, dtype=torch.float64)
    graph = trace(model, x)
    assert [branch.exit for branch in graph.branches] == ["mix"]
    with torch.no_grad():
        small = apply(model, drop(graph, graph.branches))
        assert difference(small(x), model.head(model.stem(x))) < 1e-12


def test_only_groups_that_cure_a_fault_are_kept_whole():
    model = enlivened(EitherWhole())
    x = torch.rand(2, 5, dtype=torch.float64)
    graph = trace(model, x)
    assert [group.name for group in graph.groups] == ["layers.2"]
    assert exactness(model, x, random_plan(graph, 0.5)) < 1e-12


def test_random_chains_of_blocks_lose_random_branches():
    chance = random.Random(0)
    for seed in range(4):
        blocks = [chance.choice(KINDS)(chance.choice(KINDS)() if chance.random() < 0.6 else None) for _ in range(3)]
        model = enlivened(Net(*blocks), seed)
        x = torch.randn(1, 3, 5, 4, dtype=torch.float64)
        graph = trace(model, x)
        assert exactness(model, x, random_plan(graph, keep=(0.2, 1.0), seed=seed, drop=0.4)) < 1e-9


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def rotated(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class GroupedAttention(nn.Module):
    def __init__(self, width, heads, shared, head_dim):
        super().__init__()
        self.heads, self.shared, self.head_dim = heads, shared, head_dim
        self.q, self.o = nn.Linear(width, heads * head_dim, bias=False), nn.Linear(heads * head_dim, width, bias=False)
        self.k, self.v = (nn.Linear(width, shared * head_dim, bias=False) for _ in range(2))

    def forward(self, x, cos, sin):
        images, length, _ = x.shape
        q = self.q(x).view(images, length, self.heads, self.head_dim).transpose(1, 2)
        k = self.k(x).view(images, length, self.shared, self.head_dim).transpose(1, 2)
        v = self.v(x).view(images, length, self.shared, self.head_dim).transpose(1, 2)
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        k, v = (each.repeat_interleave(self.heads // self.shared, 1) for each in (k, v))
        read = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(read.transpose(1, 2).reshape(images, length, -1))


class Gated(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class LlamaBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1, self.attention = RMSNorm(width), GroupedAttention(width, 4, 2, 4)
        self.norm2, self.mlp = RMSNorm(width), Gated(width, 12)

    def forward(self, x, cos, sin):
        x = x + self.attention(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class Llama(nn.Module):
    """Rotary positions are computed once in the forward pass, and read by all blocks."""

    def __init__(self, blocks, width=16):
        super().__init__()
        self.embedding, self.layers = nn.Embedding(9, width), nn.ModuleList(LlamaBlock(width) for _ in range(blocks))
        self.norm, self.head = RMSNorm(width), nn.Linear(width, 9, bias=False)

    def forward(self, words):
        x = self.embedding(words)
        indices = torch.arange(words.shape[1], device=words.device, dtype=x.dtype)
        turns = torch.outer(indices, 0.1 ** torch.arange(2, device=words.device, dtype=x.dtype))
        table = torch.cat((turns, turns), -1)
        cos, sin = table.cos(), table.sin()
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.head(self.norm(x))


def test_each_block_of_a_language_model_offers_the_same_branches(monkeypatch):
    trials = counted(monkeypatch, "trial_cuts")
    words = torch.tensor([[1, 3, 0, 8, 5]])
    needed = []
    for blocks in (4, 8, 16):
        trials.clear()
        model = enlivened(Llama(blocks))
        graph = trace(model, words)
        needed.append(len(trials))
        names = [f"layers.{block}.{part}:branch" for block in range(blocks) for part in ("attention", "mlp")]
        assert [branch.name for branch in graph.branches] == names
    assert needed[2] <= needed[1] <= 6, "the number of trial cuts does not grow with depth"
    assert exactness(model, words, random_plan(graph, (0.3, 0.9), drop=0.4)) < 1e-9


class Lit(nn.Module):
    """Scales an image by a map of as many channels, which is made of features that are read elsewhere too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features, self.map = nn.Conv2d(3, width, 1), nn.Conv2d(width, 3, 1)
        self.image, self.head = nn.Conv2d(3, width, 1), nn.Conv2d(width, 2, 1)

    def forward(self, x):
        features = self.features(x)
        x = x * self.map(features) + x
        return self.head(self.image(x) + features)


@pytest.mark.parametrize("width", [5, 8, 12, 16])
def test_a_width_that_is_cut_to_that_of_the_image_fits_by_no_chance(width):
    model = enlivened(Lit(width))
    graph = trace(model, torch.rand(1, 3, 6, 6, dtype=torch.float64))
    for branch in graph.branches:
        plan = Plan((DropBranch(branch.name),), graph.fingerprint, graph.inputs)
        assert exactness(model, torch.rand(1, 3, 6, 6, dtype=torch.float64), plan, graph) < 1e-12
    middling = trial_sizes(graph.groups, {3, 6}).turns[0]
    assert not {3, 6} & set(middling.values())
