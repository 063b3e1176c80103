"""Training with token selectors: where each training begins, and what it trains."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from edakari.core.budget import Limits
from edakari.core.plan import KeepTokens, Plan
from edakari.errors import DataError, InfeasibleBudget, SettingsError
from edakari.methods.tokens.method import TokenTraining, sites_of
from edakari.methods.tokens.progressive import Progress, progressive
from edakari.methods.tokens.selector_training import train_selectors
from edakari.methods.tokens.stored_teacher import stored_teacher
from edakari.methods.tokens.training import kept_ratios
from edakari.surgery.tokens import Adaptive, adaptive, attach, gates, selections, token_sites
from edakari.surgery.tokens.costs import TokenCost
from edakari.surgery.tokens.embeddings import embedding_names
from edakari.testing.toys import ToyTask, toy_job
from tests.methods.token_jobs import network, trainer
from tests.surgery.tokens.networks import FAMILIES, LabelledViT, enlivened, images, logits, tiny

SETTINGS = (("package", "append"), ("proportional", True), ("start", "random"))


@dc.dataclass(frozen=True)
class JudgedTask(ToyTask):
    """A network's accuracy is written on it."""

    def evaluate(self, model: nn.Module, split: str = "val") -> Mapping[str, float]:
        """See `edakari.core.protocols.Task`."""
        return {"accuracy": float(getattr(model, "judged", 0.9))}


def test_each_step_of_the_schedule_begins_with_the_last_accepted_network() -> None:
    """Spec 3.8, 4: the others are initialised from the previous step; what is rejected is forgotten."""
    blocks = tuple(f"blocks.{index}" for index in range(4))
    cost = TokenCost("latency", "ms", blocks, 10, "none", np.tile(np.arange(11.0), (4, 1)), 0.0)
    job = dc.replace(toy_job(network(depth=1)), task=JudgedTask())
    starts: list[nn.Module | None] = []
    trained: list[Any] = []

    def train(start: nn.Module | None, counts: Mapping[int, int]) -> nn.Module:
        made: Any = nn.Identity()
        made.judged = 0.5 if len(trained) in (2, 4) else 0.9
        starts.append(start)
        trained.append(made)
        return made

    steps = Progress(grid=0.2, accuracy_drop=0.01)
    counts, last = progressive(job, blocks, 10, Limits(((cost, 31.0),)), train, steps)
    first, second, _, third, *_ = trained
    assert starts[:6] == [None, first, second, second, third, third]
    assert last is trained[-1]
    assert starts[6:] == trained[5:-1]
    assert counts[-1] == 6
    with pytest.raises(InfeasibleBudget, match="allow a larger drop"):
        progressive(job, blocks, 10, Limits(((cost, 5.0),)), train, steps)


def job_and_plan(*counts: tuple[str, int], seed: int = 0) -> Any:
    job = toy_job(network(seed))
    edits = tuple(KeepTokens(block, count, "spvit", SETTINGS) for block, count in counts)
    return job, Plan(edits, job.graph.fingerprint, job.graph.inputs)


def without_training(**settings: Any) -> TokenTraining:
    return TokenTraining(**{"selector_epochs": 0, "joint_epochs": 0, **settings})


def test_a_training_continues_with_the_selectors_and_weights_of_the_one_before() -> None:
    job, plan = job_and_plan(("blocks.1", 12), ("blocks.2", 8), ("blocks.4", 6))
    earlier = attach(network(seed=7), [*plan.tokens()[1:], KeepTokens("blocks.5", 4, "spvit")], job.task.example())
    for selection in selections(earlier).values():
        for parameter in selection.selector.parameters():
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    before = {name: value.clone() for name, value in earlier.state_dict().items()}
    model = train_selectors(job, sites_of(job), plan, without_training(), start=earlier)
    assert {name: each.settings.count for name, each in selections(model).items()} == {
        "blocks.1": 12,
        "blocks.2": 8,
        "blocks.4": 6,
    }
    fresh = attach(network(), plan.tokens(), job.task.example(), job.seed)
    for gate in gates(fresh):
        gate.begin_at_target()
    for name, value in model.state_dict().items():
        if "threshold" in name:
            continue
        expected = fresh.state_dict() if "blocks.1.token_gate" in name else before
        assert torch.equal(value, expected[name]), name
    assert all(torch.equal(value, before[name]) for name, value in earlier.state_dict().items())


def test_the_dense_network_stays_the_teacher() -> None:
    job, plan = job_and_plan(("blocks.1", 12))
    seen: list[Any] = []

    def noting(model: nn.Module, objective: Any, schedule: Any, **options: Any) -> None:
        seen.append(objective.__self__)

    training = without_training(selector_epochs=1)
    earlier = attach(network(seed=7), plan.tokens(), job.task.example())
    train_selectors(dc.replace(job, fit=noting), sites_of(job), plan, training, start=earlier)
    dense = network().state_dict()
    assert all(torch.equal(value, dense[name]) for name, value in seen[0].teacher.state_dict().items())


class Tables(nn.Module):
    """A network whose position table is an `nn.Embedding`, with a projection behind the blocks, as CLIP has it."""

    def __init__(self) -> None:
        super().__init__()
        inner = network(depth=2)
        self.stem, self.blocks = inner.patch_embed, inner.blocks
        self.token = nn.Parameter(torch.zeros(32))
        self.table = nn.Embedding(17, 32)
        self.scale = nn.LayerNorm(32)
        self.projection = nn.Parameter(torch.randn(32, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.cat([self.token.to(x.dtype).expand(len(x), 1, -1), x], 1) + self.table(torch.arange(17))
        x = self.blocks(self.scale(x))
        logits: torch.Tensor = x[:, 0] @ self.projection
        return logits


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("vit", {"cls_token", "pos_embed"}),
        ("attention pooling", {"pos_embed"}),
        ("distilled", {"cls_token", "dist_token", "pos_embed"}),
        ("beit", {"cls_token"}),
        ("dinov2 with registers", {"cls_token", "reg_token", "pos_embed"}),
        ("torchvision", {"class_token", "encoder.pos_embedding"}),
        ("hf deit", {f"deit.embeddings.{each}" for each in ("cls_token", "distillation_token", "position_embeddings")}),
        ("labelled", {"cls_token", "pos_embed"}),
        ("tables", {"token", "table.weight"}),
    ],
)
def test_tokens_and_positions_are_found_in_any_network(name: str, wanted: set[str]) -> None:
    model, size = {"labelled": (LabelledViT(24, 3), 24), "tables": (Tables(), 16)}.get(name, (None, 0))
    if model is None:
        make, size, _ = FAMILIES[name]
        model = make()
    job = torch.zeros(1, 3, size, size)
    first = next(
        path for path, _ in model.named_modules() if path.endswith(("blocks.0", "layers.0", "layer_0", "layer.0"))
    )
    assert embedding_names(model.eval(), job, first) == wanted


def test_class_token_and_position_embedding_stay_in_the_joint_training() -> None:
    """Spec, section 4: they are in no group of the optimizer, so that decay does not touch them, either."""
    job, plan = job_and_plan(("blocks.1", 12), ("blocks.3", 6))
    before = {name: value.clone() for name, value in job.model.state_dict().items()}
    training = without_training(joint_epochs=1, joint_lr=0.05, weight_decay=0.5)
    model = train_selectors(job, sites_of(job), plan, training)
    moved = {
        name for name, value in model.state_dict().items() if name in before and not torch.equal(value, before[name])
    }
    assert set(before) - moved == {"cls_token", "pos_embed"}


def both_ways(model: nn.Module) -> tuple[Adaptive, Adaptive]:
    return Adaptive(model, training_rule="count"), Adaptive(model, training_rule="count", training_strategy="topk")


@pytest.mark.parametrize("package", ["append", "merge", "none"])
@pytest.mark.parametrize("proportional", [True, False])
def test_tokens_removed_in_training_equal_masked_ones(
    package: str, proportional: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same outputs, the same gradients of what follows, and a gradient for every part of every selector."""
    monkeypatch.setattr(adaptive, "FLOOR", 1e-14)
    model, x = tiny(depth=4), images()
    settings = (("package", package), ("proportional", proportional))
    edits = [KeepTokens(f"blocks.{b}", n, "spvit", settings) for b, n in ((1, 20), (2, 11))]
    attach(model, edits, x[:1])
    widths: list[int] = []
    model.blocks[3].norm1.register_forward_hook(lambda module, args, output: widths.append(output.shape[1]))
    grads = []
    for runner in both_ways(model):
        model.zero_grad()
        out = runner.train()(x)
        out.pow(2).sum().backward()
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
        torch.testing.assert_close(out.detach(), logits(model, x), atol=1e-10, rtol=0)
    packages = {"append": 2, "merge": 1, "none": 0}[package]
    assert (widths[0], widths[2]) == (1 + 36 + packages, 1 + 11 + packages)
    for name, masked in grads[0].items():
        removed = grads[1][name]
        assert masked is not None, name
        assert removed is not None, name
        if "token_gate" in name:
            assert float(removed.abs().max()) > 0, name
        elif name.startswith(("blocks.3", "norm", "head")):
            torch.testing.assert_close(removed, masked, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("dense_head", [False, True])
def test_the_losses_of_removed_tokens_are_those_of_masked_ones(dense_head: bool) -> None:
    each = trainer(model=enlivened(LabelledViT(16, 3, 4)).float() if dense_head else None)
    batch = next(iter(ToyTask().batches("train")))
    found = []
    for runner in both_ways(each.student.model):
        each.student = runner.train()
        terms = each.objective(runner, batch)
        found.append({name: float(term.detach()) for name, term in terms.items()})
    assert found[1] == {name: pytest.approx(term, rel=1e-3, abs=1e-6) for name, term in found[0].items()}
    assert found[0]["tokens"] > 0


def staged() -> nn.Module:
    small = {"embed_dim": 16, "depths": (2, 2, 2, 2), "num_heads": (2, 2, 2, 2), "window_size": 2}
    name = "swin_tiny_patch4_window7_224"
    return timm.create_model(name, img_size=64, num_classes=3, drop_path_rate=0.0, **small)


@pytest.mark.parametrize("start", ["random", "unlike"])
@pytest.mark.parametrize("build", [network, staged])
def test_sampled_decisions_begin_near_the_planned_numbers(build: Callable[[], nn.Module], start: str) -> None:
    torch.manual_seed(0)
    model = build().eval()
    x = images(16, 64, 3).float() if build is staged else images(64, 16, 3).float()
    sites, settings = token_sites(model, x[:1]), (("start", start),)
    fractions = (0.25,) if build is staged else (0.5, 0.25)
    names = [sites.names[index] for index in (0, 3)][: len(fractions)]
    counts = [int(sites.patches[0] * fraction) for fraction in fractions]
    attach(
        model, [KeepTokens(name, count, "spvit", settings) for name, count in zip(names, counts, strict=True)], x[:1]
    )
    for gate in gates(model):
        gate.begin_at_target()
    runner = Adaptive(model).train()
    runner(x)
    assert kept_ratios(runner.decisions).tolist() == pytest.approx(fractions, abs=0.06)


def test_a_stage_learns_from_positions_that_are_skipped() -> None:
    model, x = enlivened(staged()), images(2, 64, 3)
    block = token_sites(model, x[:1]).names[0]
    attach(model, [KeepTokens(block, 100, "spvit")], x[:1])
    for runner in both_ways(model):
        model.zero_grad()
        out = runner.train()(x)
        torch.testing.assert_close(out.detach(), logits(model, x), atol=1e-12, rtol=0)
        out.pow(2).sum().backward()
        selectors = [parameter for gate in gates(model) for parameter in gate.parameters()]
        assert all(parameter.grad is not None and float(parameter.grad.abs().max()) > 0 for parameter in selectors)


def test_removal_needs_equal_numbers() -> None:
    with pytest.raises(SettingsError, match="joint_rule: count"):
        TokenTraining(joint_strategy="topk", joint_rule="sample")


@pytest.mark.parametrize("dense_head", [False, True])
def test_a_stored_teacher_says_what_a_live_one_says(dense_head: bool, tmp_path: Path) -> None:
    each = trainer(model=enlivened(LabelledViT(16, 3, 4)).float() if dense_head else None)
    each.student.training_rule = "count"
    batch = next(iter(ToyTask().with_indices()))
    live = each.objective(each.student, batch)
    job = dc.replace(each.job, folder=tmp_path)
    each.stored = stored_teacher(job, each.teacher, each.last, tokens=True)
    assert each.stored.labelled is dense_head
    each.teacher = nn.Identity()  # nobody asks it any more
    stored = each.objective(each.student, batch)
    assert {name: float(term.detach()) for name, term in stored.items()} == {
        name: pytest.approx(float(term.detach()), rel=5e-3, abs=1e-4) for name, term in live.items()
    }
    other = (*batch[:2], batch[2].flip(0))
    assert float(each.objective(each.student, other)["tokens"].detach()) > 2 * float(live["tokens"].detach())


class Mirrored(ToyTask):
    """Its training images are augmented."""

    def with_indices(self, views: int = 1) -> Any:
        """See `edakari.core.protocols.IndexedTask`."""
        return [(images.flip(3), *rest) for images, *rest in super().with_indices(views)]


class Unnumbered(ToyTask):
    """Its examples have no indices."""

    with_indices = None  # type: ignore[assignment]


def test_stored_tokens_need_equal_images() -> None:
    each = trainer()
    job = dc.replace(each.job, task=Mirrored())
    with pytest.raises(DataError, match=r"loss.tokens: 0"):
        stored_teacher(job, each.teacher, each.last, tokens=True)
    found = stored_teacher(job, each.teacher, each.last, tokens=False)
    assert found.shapes == ((4,),)
    folder = Path(str(found.bank.logits.filename)).parent  # type: ignore[attr-defined]
    assert folder.is_dir()
    del found
    assert not folder.exists()
    with pytest.raises(DataError, match="teacher: live"):
        TokenTraining(teacher="stored").check_task(each.teacher, Unnumbered(), None)


def test_a_training_with_stored_outputs_and_removed_tokens() -> None:
    job, plan = job_and_plan(("blocks.1", 12), ("blocks.3", 6))
    training = TokenTraining(selector_epochs=1, joint_epochs=1, joint_strategy="topk", teacher="stored", joint_lr=0.01)
    before = network().state_dict()
    model = train_selectors(job, sites_of(job), plan, training)
    moved = {
        name for name, value in model.state_dict().items() if name in before and not torch.equal(value, before[name])
    }
    assert set(before) - moved == {"cls_token", "pos_embed"}
