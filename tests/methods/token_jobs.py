"""A small transformer, its job and its trainer, for tests of methods that prune tokens."""

from __future__ import annotations

import copy
import dataclasses as dc

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from edakari.core.method import Job
from edakari.core.plan import KeepTokens
from edakari.core.space import Group
from edakari.methods.tokens.method import sites_of
from edakari.methods.tokens.selector_training import TokenTraining
from edakari.methods.tokens.training import TokenLoss, TokenTrainer
from edakari.surgery.tokens import Adaptive, attach, token_sites
from edakari.surgery.tokens.costs import TokenCost, tokens_at
from edakari.surgery.tokens.graphs import token_macs
from edakari.testing.toys import ToyTask, toy_job

COSTS: dict[str, TokenCost] = {}
"""Of the networks of these tests, by fingerprint: three traces each."""


def toy_token_job(model: nn.Module, budget: str = "macs<=50%", seed: int = 0) -> Job:
    """What a method that prunes tokens gets; a latency in the budget is the MACs of the blocks under another name."""
    job = toy_job(model, budget, seed)
    cost = COSTS.get(job.graph.fingerprint) or token_macs(job.model, job.task.example(), sites_of(job))
    COSTS[job.graph.fingerprint] = cost
    groups = tuple(Group(tokens_at(block), "token", cost.patches) for block in cost.blocks)
    return dc.replace(job, groups=groups, costs=(cost, dc.replace(cost, name="latency", unit="ms")))


SHORT = TokenTraining(imitation_epochs=1, selector_epochs=1, joint_epochs=1)


def network(seed: int = 0, depth: int = 6) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VisionTransformer(
            img_size=16, patch_size=4, embed_dim=32, depth=depth, num_heads=4, num_classes=4
        ).eval()


def trainer(counts: tuple[int, int] = (10, 6), model: nn.Module | None = None, **loss: float) -> TokenTrainer:
    model, task = model or network(), ToyTask()
    edits = [KeepTokens(block, count, "spvit") for block, count in zip(("blocks.1", "blocks.3"), counts, strict=True)]
    job, last = toy_job(model), token_sites(model, task.example()).blocks[-1]
    teacher = copy.deepcopy(model).requires_grad_(False)
    student = Adaptive(attach(model, edits, task.example())).train()
    weights = TokenLoss(**{"ratio": 2.0, "logits": 0.5, "tokens": 0.5, **loss})
    return TokenTrainer(job, student, teacher, last, [count / 16 for count in counts], weights)
