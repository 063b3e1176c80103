"""Masked tokens, removed tokens and tokens taken out by hand give the same outputs; nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

import edakari
from edakari.core.plan import KeepChannels, KeepTokens, Plan
from edakari.errors import ModelError, PlanError
from edakari.surgery.replay import BothMasked
from edakari.surgery.tokens import (
    Adaptive,
    PackageMode,
    Selection,
    SelectionSettings,
    TokenState,
    attach,
    detach,
    package,
    restore,
    selections,
    token_layout,
)
from edakari.surgery.tokens.selectors import Candidates, Site, build_selector
from tests.surgery.tokens.networks import FAMILIES, LabelledViT, enlivened, images, logits, plan, tiny

Settings = tuple[tuple[str, bool | int | float | str], ...]
MODES = ["merge", "add", "append", "none"]
STRATEGIES = ["mask", "padded", "packed", "bucketed"]
EDGES = (8, 16, 24, 36)


def attached(
    mode: str = "merge",
    selector: str = "spvit",
    counts: tuple[int, int] = (20, 11),
    settings: Settings = (),
    **options: Any,
) -> Any:
    model = tiny(**options)
    settings = (("package", mode), *settings)
    edits = [
        KeepTokens(block, count, selector, settings)
        for block, count in zip(("blocks.2", "blocks.4"), counts, strict=True)
    ]
    return attach(model, edits, images(1))


def spread(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """Selectors that keep another number of tokens in every image: thresholds in the middle of their scores."""
    for index, selection in enumerate(selections(model).values()):
        with torch.no_grad():
            for name, parameter in selection.selector.named_parameters():
                generator = torch.Generator().manual_seed(len(name) + index)
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
            selection.get_buffer("threshold").zero_()
    runner = Adaptive(model, "mask", "threshold").eval()
    for index, selection in enumerate(selections(model).values()):
        logits(runner, x)
        score = runner.decisions[index].score
        score = score[score.isfinite()].sort().values
        # between two scores: on one of them, rounding would decide
        selection.get_buffer("threshold").copy_(score[len(score) // 2 - 1 : len(score) // 2 + 1].mean())
    return model


def by_hand(model: Any, image: torch.Tensor, mode: str, proportional: bool) -> tuple[torch.Tensor, list[int]]:
    """One image, tokens taken out in plain Python: patches, then packages, in lists.

    A package that counts as many tokens is there so many times.
    """
    chosen = selections(model)
    detached = {name: selection.selector for name, selection in chosen.items()}
    tokens = model._pos_embed(model.patch_embed(image[None]))[0]
    head, patches, packs, weight, counts = tokens[:1], tokens[1:], tokens[:0], 0.0, []
    times: list[int] = []
    for index, block in enumerate(model.blocks):
        if (selector := detached.get(f"blocks.{index}")) is not None:
            x = torch.cat([patches, packs])[None]
            seen = Candidates(x, torch.ones(1, x.shape[1]).double(), len(patches), torch.zeros(1, 0), 1, None)
            verdict = selector(seen)
            keep = verdict.score[0] >= chosen[f"blocks.{index}"].get_buffer("threshold")
            gone, q = patches[~keep], verdict.weight[0][~keep]
            patches = patches[keep]
            counts.append(int(keep.sum()))
            if mode != "none" and len(gone):
                mean = (q[:, None] * gone).sum(0) / q.sum()
                times = [*times, len(gone)] if mode == "append" else [sum(times) + len(gone)]
                if mode == "append":
                    packs = torch.cat([packs, mean[None]])
                elif mode == "add":
                    packs = (packs[0] if len(packs) else 0) + mean[None].reshape(1, -1)
                else:
                    old = packs[0] * weight if len(packs) else 0.0
                    weight = weight + float(q.sum())
                    packs = ((mean * q.sum() + old) / weight)[None]
        copies = torch.tensor(times if proportional and len(packs) else [1] * len(packs), dtype=torch.long)
        x = torch.cat([head, patches, packs.repeat_interleave(copies, 0)])
        x = type(block).forward(block, x[None])[0]
        firsts = 1 + len(patches) + copies.cumsum(0) - copies
        head, patches, packs = x[:1], x[1 : 1 + len(patches)], x[firsts]
    return model.forward_head(model.norm(torch.cat([head, patches, packs])[None]))[0], counts


@pytest.mark.parametrize("start", ["random", "unlike"])
@pytest.mark.parametrize(
    ("mode", "proportional"), [*((mode, False) for mode in MODES), ("merge", True), ("append", True)]
)
def test_masked_equals_removed_by_hand(mode: str, proportional: bool, start: str) -> None:
    settings = (("proportional", proportional), ("start", start))
    model, x = spread(attached(mode, settings=settings), images(6)), images(6)
    with torch.no_grad():
        wanted, counts = zip(*(by_hand(model, image, mode, proportional) for image in x), strict=True)
    assert len({tuple(count) for count in counts}) > 2
    for strategy in STRATEGIES:
        runner = Adaptive(model, strategy, "threshold", edges=EDGES).eval()
        found = logits(runner, x)
        assert [d.kept.sum(1).long().tolist() for d in runner.decisions] == [list(c) for c in zip(*counts, strict=True)]
        torch.testing.assert_close(found, torch.stack(wanted), atol=1e-12, rtol=0)


@pytest.mark.parametrize("proportional", [False, True])
@pytest.mark.parametrize("selector", ["spvit", "evit", "dynamicvit", "random", "tome"])
def test_a_fixed_number_removed_equals_masked(selector: str, proportional: bool) -> None:
    settings = (("proportional", proportional),) if selector != "tome" else ()
    model, x = attached("none" if selector == "tome" else "merge", selector, settings=settings), images()
    removed = logits(model, x)
    torch.testing.assert_close(logits(Adaptive(model).eval(), x), removed, atol=1e-12, rtol=0)
    assert not torch.allclose(removed, logits(detach(model), x), atol=1e-3)


def test_packages_after_merging_stand_for_all_that_was_merged() -> None:
    edits = [KeepTokens("blocks.2", 20, "tome"), KeepTokens("blocks.4", 11, "spvit", (("package", "merge"),))]
    model, x = attach(tiny(), edits, images(1)), images()
    removed = logits(model, x)
    torch.testing.assert_close(logits(Adaptive(model).eval(), x), removed, atol=1e-12, rtol=0)


@pytest.mark.parametrize("mode", ["append", "merge", "none"])
def test_a_dense_head_hears_living_patches_alone(mode: str) -> None:
    """LV-ViT: neither packages nor masked patches come into the largest of the patches' logits."""
    model, x, seen = enlivened(LabelledViT()), images(), []
    dense = logits(model, x)
    edits = [KeepTokens(f"blocks.{index}", n, "spvit", (("package", mode),)) for index, n in ((1, 20), (3, 11))]
    attach(model, edits, images(1))
    model.blocks[3].norm2.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    removed = logits(model, x)
    packages = {"append": 2, "merge": 1, "none": 0}[mode]
    assert seen[-1].shape[1] == 1 + 11 + packages
    with torch.no_grad():
        last = seen[-1] + model.blocks[3].mlp(model.blocks[3].norm2(seen[-1])) / 2
        tokens = model.norm(last[:, :12])
        wanted = model.head(tokens[:, 0]) + 0.5 * model.aux_head(tokens[:, 1:]).amax(1)
    torch.testing.assert_close(removed, wanted, atol=1e-12, rtol=0)
    torch.testing.assert_close(logits(Adaptive(model).eval(), x), removed, atol=1e-12, rtol=0)
    spread(model, x)
    free = logits(Adaptive(model, "mask", "threshold").eval(), x)
    for strategy in STRATEGIES[1:]:
        found = logits(Adaptive(model, strategy, "threshold", edges=EDGES).eval(), x)
        torch.testing.assert_close(found, free, atol=1e-12, rtol=0)
    assert torch.equal(logits(detach(model), x), dense)


def test_epsilon_of_training_leaks_little() -> None:
    model, x = spread(attached(), images()), images()
    runner = Adaptive(model, "mask", "threshold").eval()
    exact = logits(runner, x)
    runner.floor = 1e-6
    leaky = logits(runner, x)
    assert 0 < float((leaky - exact).abs().max()) <= 5e-6


@pytest.mark.parametrize("strategy", ["topk", *STRATEGIES])
def test_batch_invariance(strategy: str) -> None:
    model, x = spread(attached(), images(8)).float(), images(8).float()
    runner = Adaptive(model, strategy, "count" if strategy == "topk" else "threshold", edges=EDGES).eval()
    together = logits(runner, x)
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    assert torch.allclose(logits(runner, x[order]), together[order], atol=1e-5)
    for index in range(len(x)):
        assert torch.allclose(logits(runner, x[index : index + 1])[0], together[index], atol=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_keep_all_is_the_dense_network(strategy: str) -> None:
    model, x = attached(counts=(36, 36)), images()
    for selection in selections(model).values():
        selection.get_buffer("threshold").fill_(-torch.inf)
    found = logits(Adaptive(model, strategy, "threshold", edges=(36,)).eval(), x)
    removed = logits(model, x)
    dense = logits(detach(model), x)
    assert torch.equal(removed, dense)
    assert torch.allclose(found, dense, atol=1e-6)
    assert torch.equal(found.argmax(1), dense.argmax(1))


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_prune_all_leaves_class_token_and_package(pool: str) -> None:
    """Spec, test 1, without a prefix too: each image has its prefix and one package, in every strategy."""
    prefix = 1 if pool == "token" else 0
    model, seen = attached(global_pool=pool, class_token=pool == "token"), []
    model.blocks[5].attn.register_forward_hook(lambda module, args, output: seen.append(output.shape[:2].numel()))
    for selection in selections(model).values():
        selection.get_buffer("threshold").fill_(torch.inf)
    wanted = logits(Adaptive(model, "mask", "threshold").eval(), images())
    assert bool(wanted.isfinite().all())
    for strategy in ("padded", "packed", "bucketed"):
        found = logits(Adaptive(model, strategy, "threshold", edges=(0,)).eval(), images())
        torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
    assert seen == [5 * (prefix + 36 + 1), *(3 * [5 * (prefix + 1)])]


def test_fixed_numbers_in_training_have_a_gradient() -> None:
    model, x = attached(), images()
    runner = Adaptive(model, training_rule="count").train()
    found = runner(x)
    assert [decision.kept.sum(1).tolist() for decision in runner.decisions] == [[20.0] * 5, [11.0] * 5]
    found.pow(2).sum().backward()
    for selection in selections(model).values():
        assert all(float(parameter.grad.abs().max()) > 0 for parameter in selection.selector.parameters())
    detach(model)


def test_padded_to_a_cap_keeps_the_best_and_packs_the_rest() -> None:
    model, x = spread(attached(), images()), images()
    free = Adaptive(model, "padded", "threshold").eval()
    logits(free, x)
    before = [decision.kept.sum(1) for decision in free.decisions]
    capped = Adaptive(model, "padded", "threshold", caps={"blocks.2": 8}).eval()
    logits(capped, x)
    assert torch.equal(capped.decisions[0].kept.sum(1), before[0].clamp(max=8))
    alone = torch.cat([logits(capped, image[None]) for image in x])
    torch.testing.assert_close(logits(capped, x), alone, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name: str) -> None:
    make, size, prefix = FAMILIES[name]
    model, x = enlivened(make()), images(3, size, 3)
    layout = token_layout(model, x[:1])
    assert (layout.prefix, layout.grid, len(layout.blocks)) == (prefix, (4, 4), 4)
    dense, state = logits(model, x), {key: value.clone() for key, value in model.state_dict().items()}
    for selector in ("spvit", "evit", "tome"):
        # only packages can count as several tokens; they stay one for merged and for EViT's
        settings: Settings = (("proportional", True),) if selector == "spvit" else ()
        edits = [KeepTokens(layout.names[index], count, selector, settings) for index, count in ((1, 9), (3, 6))]
        removed = logits(attach(model, edits, x[:1]), x)
        masked = logits(Adaptive(model).eval(), x)
        torch.testing.assert_close(masked, removed, atol=1e-12, rtol=0)
        assert float((removed - dense).abs().max() / dense.abs().max()) > 1e-3
        if selector == "spvit":
            spread(model, x)
            wanted = logits(Adaptive(model, "mask", "threshold").eval(), x)
            for strategy in STRATEGIES[1:]:
                found = logits(Adaptive(model, strategy, "threshold", edges=(4, 8, 16)).eval(), x)
                torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
        detach(model)
        assert torch.equal(logits(model, x), dense)
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        assert list(model.state_dict()) == list(state)


def test_the_prefix_survives_any_selector() -> None:
    model = enlivened(FAMILIES["dinov2 with registers"][0]())
    x, seen = images(2, 56, 3), []
    attach(model, [KeepTokens("blocks.1", 3, "random")], x[:1])
    model.blocks[1].norm1.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    selection = selections(model)["blocks.1"]
    tokens = model._pos_embed(model.patch_embed(x))
    before = model.blocks[0](tokens)[:, :5]
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        selection.selector.score.copy_(torch.randn(16, generator=generator))
        logits(model, x)
        assert torch.equal(seen[-1][:, :5], before)


@pytest.mark.parametrize("mode", ["none", "append"])
@pytest.mark.parametrize("prefix", [1, 2, 5])
def test_the_prefix_survives_ten_thousand_selectors(prefix: int, mode: PackageMode) -> None:
    """In training every image has random scores of its own."""
    settings = SelectionSettings(block="block", prefix=prefix, patches=16, entering=16, count=3, package=mode)
    selection = Selection(build_selector("random", Site(8, 2, 16, 1), {}), settings).train()
    x = torch.randn(10_000, prefix + 16, 8, generator=torch.Generator().manual_seed(0))
    found, state = selection(x, TokenState()), TokenState(strategy="mask", rule="sample", bias_floor=1e-6)
    assert torch.equal(found[:, :prefix], x[:, :prefix])
    assert found.shape[1] == prefix + 3 + (mode == "append")
    masked = selection(x, state)
    assert torch.equal(masked[:, :prefix], x[:, :prefix])
    assert state.alive is not None
    assert bool((state.alive[:, :prefix] == 1).all())
    assert 0.4 < float(state.alive[:, prefix : prefix + 16].mean()) < 0.6


def test_an_oblong_image_keeps_its_grid() -> None:
    model = enlivened(timm.create_model("vit_tiny_patch16_224", img_size=(32, 64), depth=2, num_classes=5))
    x = torch.randn(1, 3, 32, 64).double()
    assert token_layout(model, x).grid == (2, 4)


def test_channels_and_tokens_in_one_plan() -> None:
    model = tiny(depth=4)
    graph = edakari.trace(model, images(1))
    hidden = next(group for group in graph.groups if group.size == 64)
    channels = KeepChannels(hidden.name, tuple(range(0, 64, 2)))
    tokens = KeepTokens("blocks.1", 17, "evit", (("package", "merge"),))
    whole = Plan((channels, tokens), graph.fingerprint, graph.inputs)
    assert Plan.from_json(whole.to_json()) == whole
    assert whole.sizes() == {hidden.name: 32, "blocks.1:tokens": 17}
    small, x = edakari.apply(model, whole), images()
    found = logits(small, x)
    assert torch.allclose(logits(edakari.simulate(model, whole).eval(), x), found, atol=1e-12)
    one = Plan((channels,), graph.fingerprint, graph.inputs)
    first = edakari.apply(model, one)
    later = Plan((tokens,), edakari.trace(first, images(1)).fingerprint, graph.inputs)
    assert torch.equal(logits(edakari.apply(first, later), x), found)
    assert torch.equal(logits(edakari.apply(model, one.then(later)), x), found)


@pytest.mark.parametrize("settings", [(), (("package", "append"), ("proportional", True))])
@pytest.mark.parametrize("selector", ["spvit", "evit"])
def test_channels_of_every_kind_and_tokens_are_masked_together(selector: str, settings: Settings) -> None:
    """Embedding, heads, hidden channels and tokens: nothing is cut in the twin, and nothing of it leaks."""
    model, x = tiny(depth=4), images()
    graph = edakari.trace(model, images(1))
    channels = tuple(
        KeepChannels(group.name, tuple(range(0, group.size, 2)))
        for group in graph.groups
        if group.kind in ("embedding", "hidden", "head") and group.size % 2 == 0
    )
    assert {graph[edit.group].kind for edit in channels} >= {"embedding", "hidden"}
    whole = Plan((*channels, *(KeepTokens(f"blocks.{b}", n, selector, settings) for b, n in ((1, 20), (3, 11)))),
                 graph.fingerprint, graph.inputs)  # fmt: skip
    twin = edakari.simulate(model, whole).eval()
    assert isinstance(twin, BothMasked)
    shapes = {value.shape for value in twin.masked.state_dict().values()}
    assert {value.shape for value in model.state_dict().values()} <= shapes
    torch.testing.assert_close(logits(twin, x), logits(edakari.apply(model, whole), x), atol=1e-12, rtol=0)


def test_tokens_twice_are_refused() -> None:
    one = plan(KeepTokens("blocks.1", 17, "evit"))
    with pytest.raises(PlanError, match="both plans prune tokens"):
        one.then(plan(KeepTokens("blocks.2", 9, "evit")))
    assert one.then(one).edits == one.edits
    model = attach(tiny(), one.edits, images(1))
    with pytest.raises(ModelError, match="already has token selectors"):
        attach(model, one.edits, images(1))


@pytest.mark.parametrize(
    ("edits", "text"),
    [
        ([KeepTokens("blocks.9", 5, "spvit")], "'blocks.9'.*mean 'blocks"),
        ([KeepTokens("blocks.1", 37, "spvit")], "keeps 37.*36 arrive"),
        ([KeepTokens("blocks.1", 9, "spvit"), KeepTokens("blocks.2", 10, "spvit")], "keeps 10.*9 arrive"),
        ([KeepTokens("blocks.1", 9, "spvit"), KeepTokens("blocks.1", 8, "spvit")], "twice"),
        ([KeepTokens("blocks.0", 9, "evit")], "block 0 has none"),
        ([KeepTokens("blocks.1", 9, "tome")], "leaves at least 18 of 36"),
        ([KeepTokens("blocks.1", 9, "random", (("colour", "red"),))], "colour"),
        ([KeepTokens("blocks.1", 9, "spvit", (("package", "big"),))], "'big'.*merge"),
    ],
)
def test_wrong_edits_are_told(edits: list[KeepTokens], text: str) -> None:
    with pytest.raises(PlanError, match=text):
        attach(tiny(), edits, images(1))


def test_an_unknown_selector_is_told() -> None:
    with pytest.raises(edakari.errors.UnknownName, match="spvit"):
        attach(tiny(), [KeepTokens("blocks.1", 9, "spvitt")], images(1))


def test_a_network_without_tokens_is_told() -> None:
    with pytest.raises(ModelError, match="has no tokens to prune"):
        token_layout(timm.create_model("resnet18"), torch.zeros(1, 3, 64, 64))


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 4, 4)
        self.blocks = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.blocks(self.stem(x).flatten(2).transpose(1, 2))
        return tokens.mean(1)


def test_an_attention_that_cannot_be_wrapped_is_named() -> None:
    with pytest.raises(ModelError, match=r"'blocks\.0'.*cannot be wrapped"):
        token_layout(Mixer(), torch.zeros(1, 1, 16, 16))


def test_another_image_size_is_told() -> None:
    model = attach(tiny(dynamic_img_size=True), [KeepTokens("blocks.2", 20, "spvit")], images(1))
    with pytest.raises(PlanError, match="made for 36 patches, but got 16"):
        model(images(1, 16))


def test_restore_puts_tokens_back() -> None:
    x = torch.arange(6.0).view(1, 3, 2)
    back = restore(x, torch.tensor([[3, 0, -1]]), 4, fill=9.0)
    assert back.tolist() == [[[2, 3], [9, 9], [9, 9], [0, 1]]]


def test_package_by_hand() -> None:
    x = torch.tensor([[[1, 0], [0, 1], [2, 2], [4, 0]]]).double()
    q, keep = torch.tensor([[0.9, 0.25, 0.8, 0.5]]).double(), torch.tensor([[1, 0, 1, 0]]).double()
    first, weight = package(x, q * (1 - keep), "merge")
    torch.testing.assert_close(first, torch.tensor([[8 / 3, 1 / 3]]).double())
    assert weight.tolist() == [0.75]
    summed, _ = package(x, q * (1 - keep), "append", "sum")
    torch.testing.assert_close(summed, torch.tensor([[2.0, 0.25]]).double())
    later = torch.tensor([[0, 0, 0.8, 0]]).double()
    merged, both = package(x, later, "merge", before=(first, weight))
    torch.testing.assert_close(merged, torch.tensor([[3.6, 1.85]]).double() / 1.55)
    torch.testing.assert_close(both, torch.tensor([1.55]).double())
    added, _ = package(x, later, "add", before=(first, weight))
    torch.testing.assert_close(added, torch.tensor([[14 / 3, 7 / 3]]).double())
    appended, _ = package(x, later, "append", before=(first, weight))
    assert appended.tolist() == [[2.0, 2.0]]
    nothing, none = package(x, torch.zeros(1, 4).double(), "merge")
    assert nothing.tolist() == [[0.0, 0.0]]
    assert none.tolist() == [0.0]
