"""Training with token selectors: where each training begins, and what it trains."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edakari.core.budget import Limits
from edakari.core.plan import KeepTokens, Plan
from edakari.errors import InfeasibleBudget
from edakari.methods.tokens.method import TokenTraining, sites_of
from edakari.methods.tokens.progressive import Progress, progressive
from edakari.methods.tokens.selector_training import train_selectors
from edakari.surgery.tokens import attach, selections
from edakari.surgery.tokens.costs import TokenCost
from edakari.surgery.tokens.embeddings import embedding_names
from edakari.testing.toys import ToyTask, toy_job
from tests.methods.token_jobs import network
from tests.surgery.tokens.networks import FAMILIES, LabelledViT

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
