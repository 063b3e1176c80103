"""SPViT: its losses by hand, gradients that reach what they should, ratios that are met, and runs from end to end."""

from __future__ import annotations

import copy
import dataclasses as dc
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

import edakari
from edakari.core.plan import KeepTokens
from edakari.core.protocols import StepState
from edakari.cost import dense
from edakari.errors import BudgetError, EdakariError, InfeasibleBudget, PlanError
from edakari.methods.spvit import SoftTokenPruning
from edakari.methods.token_baselines import AttentionTokens, MergedTokens, PredictedTokens, RandomTokens
from edakari.methods.tokens.method import TokenTraining
from edakari.methods.tokens.progressive import Progress, phases, profile
from edakari.methods.tokens.training import (
    DualAscent,
    calibrate,
    kept_ratios,
    ratio_loss,
    token_distance,
    token_divergence,
)
from edakari.surgery.tokens import Adaptive, Decision, Rule, attach, detach, gates, selections
from edakari.testing import check_method
from edakari.testing.toys import ToyTask
from tests.methods.token_jobs import SHORT, network, toy_token_job, trainer
from tests.surgery.tokens.networks import LabelledViT, enlivened


def test_ratio_loss_by_hand() -> None:
    kept, target = torch.tensor([0.70, 0.45, 0.20]), torch.tensor([0.617, 0.369, 0.137])
    assert float(ratio_loss(kept, target)) * 3 == pytest.approx(0.017419, abs=1e-6)
    assert 2 * float(ratio_loss(kept, target)) == pytest.approx(0.0116127, abs=1e-6)


def test_ratios_are_of_the_batch_and_not_of_each_image() -> None:
    kept = torch.zeros(2, 10)
    kept[0], kept[1, :4] = 1.0, 1.0
    ratios = kept_ratios([Decision("blocks.0", kept, kept)])
    assert float(ratio_loss(ratios, torch.tensor([0.7]))) == pytest.approx(0.0, abs=1e-12)


def test_token_distance_counts_what_is_left() -> None:
    theirs = torch.randn(2, 5, 8)
    mine, kept = theirs.clone(), torch.ones(2, 5)
    mine[:, 3:] += torch.randn(2, 2, 8)
    kept[:, 3:] = 0
    assert float(token_distance(mine, theirs, kept)) == 0.0
    assert float(token_distance(mine, theirs, torch.ones(2, 5))) > 0.0
    assert float(token_distance(mine, theirs, torch.zeros(2, 5))) == 0.0


def test_token_divergence_by_hand() -> None:
    theirs, mine = torch.zeros(1, 3, 2), torch.tensor([[[0.0, 0.0], [math.log(3.0), 0.0], [-math.inf, -math.inf]]])
    kept = torch.tensor([[1.0, 1.0, 0.0]])
    # halves against three quarters and one: (log 2/3 + log 2) / 2, over two patches
    wanted = 0.5 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2.0))
    assert float(token_divergence(mine, theirs, kept)) == pytest.approx(wanted, rel=1e-6)
    assert float(token_divergence(mine, theirs, torch.zeros(1, 3))) == 0.0


def test_dense_heads_are_taught_patch_by_patch() -> None:
    """LV-ViT: the token loss compares what is said of each patch that is left, where others compare tokens."""
    model = enlivened(LabelledViT(16, 3, 4)).float()
    each = trainer(model=model)
    said: list[torch.Tensor] = []
    for part in (each.student.model, each.teacher):
        part.get_submodule("aux_head").register_forward_hook(lambda module, args, output: said.append(output))
    loss = each.objective(each.student, next(iter(ToyTask().batches("train"))))["tokens"]
    kept = each.student.decisions[-1].kept.detach() > 0
    mine, theirs = (logits[kept].log_softmax(-1) for logits in said)
    assert 0 < int(kept.sum()) < kept.numel()
    wanted = 0.5 * (theirs.exp() * (theirs - mine)).sum(-1).mean()
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    for selection in selections(each.student.model).values():
        grads = [parameter.grad for parameter in selection.selector.parameters()]
        assert all(grad is not None and bool(grad.isfinite().all()) for grad in grads)
        assert any(float(grad.abs().max()) > 0 for grad in grads if grad is not None)


@pytest.mark.parametrize("terms", [("cross_entropy", "ratio", "logits", "tokens"), ("ratio",)])
def test_gradients_reach_every_parameter_of_every_selector(terms: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    each = trainer()
    batch = next(iter(ToyTask().batches("train")))
    losses = each.objective(each.student, batch)
    assert set(losses) == {"cross_entropy", "ratio", "logits", "tokens"}
    torch.stack([losses[name] for name in terms]).sum().backward()
    for selection in selections(each.student.model).values():
        for name, parameter in selection.selector.named_parameters():
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name
            assert float(parameter.grad.abs().max()) > 0, name
    assert all(parameter.grad is None for parameter in each.teacher.parameters())


@pytest.mark.parametrize("rule", ["count", "sample"])
def test_the_task_alone_teaches_selectors_through_attention(rule: Rule) -> None:
    """Without packages, pooling and other losses what is kept matters only as keys that the class token reads."""
    torch.manual_seed(0)
    model, x = network(), torch.randn(6, 3, 16, 16)
    settings = (("package", "none"),)
    attach(model, [KeepTokens(f"blocks.{index}", n, "spvit", settings) for index, n in ((1, 10), (3, 6))], x[:1])
    functional.cross_entropy(Adaptive(model, training_rule=rule).train()(x), torch.arange(6) % 4).backward()
    for selection in selections(model).values():
        grads = {name: each.grad for name, each in selection.selector.named_parameters()}
        assert all(grad is not None and float(grad.abs().max()) > 0 for grad in grads.values()), grads


def test_logits_are_pulled_towards_the_dense_network_by_hand() -> None:
    """KL of the teacher to the student: the mean over images of sum p_dense (log p_dense - log p_student)."""
    torch.manual_seed(0)
    each, batch = trainer(logits=0.7), next(iter(ToyTask().batches("train")))
    with torch.no_grad():  # far apart, so that the two directions differ
        each.student.model.get_submodule("head").weight.normal_()
        each.teacher.get_submodule("head").weight.normal_()
        aim = ToyTask().outputs(each.teacher, batch).double()
    said: list[torch.Tensor] = []
    each.student.model.register_forward_hook(lambda module, args, output: said.append(output))
    with torch.no_grad():
        terms = each.objective(each.student, batch)
    mine = said[0].double()
    dense, student = aim.softmax(-1), mine.softmax(-1)
    wanted = 0.7 * float((dense * (dense / student).log()).sum() / len(aim))
    reverse = 0.7 * float((student * (student / dense).log()).sum() / len(aim))
    assert float(terms["logits"]) == pytest.approx(wanted, rel=1e-4)
    assert abs(wanted - reverse) > 0.05 * wanted


def test_a_boolean_mask_would_have_no_gradient() -> None:
    """Guards against masks that give the right outputs and teach the selectors nothing."""
    for additive in (False, True):
        kept = torch.ones(1, 6, requires_grad=True)
        q = k = v = torch.randn(1, 1, 6, 4)
        mask = torch.log(kept + 1e-6)[:, None, None] if additive else (kept > 0.5)[:, None, None].expand(1, 1, 6, 6)
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).pow(2).sum()
        assert out.requires_grad is additive


def test_what_is_gone_never_returns() -> None:
    each = trainer()
    for _ in range(20):
        each.student(torch.randn(4, 3, 16, 16))
        first, second = each.student.decisions
        assert bool((second.kept <= first.kept).all())


def test_evaluation_repeats_bit_by_bit() -> None:
    each = trainer()
    each.student.eval()
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(each.student(x), each.student(x))


def test_multipliers_rise_while_too_many_stay() -> None:
    dual = DualAscent([0.5, 0.25], rate=0.05)
    state = StepState(nn.Linear(1, 1), torch.optim.SGD([nn.Parameter(torch.zeros(1))]), 0, 0)
    assert float(dual.term(torch.tensor([0.7, 0.2]))) == 0.0
    dual.after_step(state)
    torch.testing.assert_close(dual.multipliers, torch.tensor([0.01, -0.0025]))
    assert float(dual.term(torch.tensor([0.7, 0.2]))) == pytest.approx(0.01 * 0.2 + 0.0025 * 0.05)
    again = DualAscent([0.5, 0.25], rate=0.05)
    again.load_state_dict(dual.state_dict())
    assert torch.equal(again.multipliers, dual.multipliers)
    for _ in range(10_000):
        dual.after_step(state)
    assert dual.multipliers.tolist() == [5.0, -5.0]


def test_damping_keeps_ratios_from_swinging_past_their_target() -> None:
    """A ratio that follows a force as slowly as selectors do: 0.0006 a step, as seen in the test on glyphs below."""

    def path(damping: float) -> list[float]:
        dual, ratio, seen = DualAscent([0.25], 0.05, damping), torch.tensor([0.58], requires_grad=True), []
        state = StepState(nn.Linear(1, 1), torch.optim.SGD([ratio]), 0, 0)
        for _ in range(500):
            (force,) = torch.autograd.grad(dual.term(ratio) + ratio_loss(ratio, dual.targets), ratio)
            dual.after_step(state)
            with torch.no_grad():
                ratio -= 6e-4 * force
            seen.append(float(ratio.detach()))
        return seen

    damped = path(TokenTraining().dual_damping)
    assert min(damped) > 0.22
    assert damped[150] == pytest.approx(0.25, abs=0.02)
    assert min(path(0.0)) < 0.05  # it keeps next to nothing for hundreds of steps


def test_thresholds_keep_what_was_planned_on_average() -> None:
    torch.manual_seed(0)
    model, task = network(), ToyTask()
    edits = [KeepTokens("blocks.1", 9, "spvit"), KeepTokens("blocks.3", 5, "spvit")]
    attach(model, edits, task.example())
    for selection in selections(model).values():
        for parameter in selection.selector.parameters():
            parameter.data = parameter.data * 3
    caps = calibrate(model, task.outputs, list(task.batches("calibration")))
    runner = Adaptive(model, "padded", "threshold").eval()
    found = []
    for batch in task.batches("calibration"):
        task.outputs(runner, batch)
        found.append(kept_ratios(runner.decisions))
    torch.testing.assert_close(torch.stack(found).mean(0), torch.tensor([9 / 16, 5 / 16]), atol=0.02, rtol=0)
    assert all(cap % 8 == 0 for cap in caps.values())


@pytest.mark.parametrize(
    "method",
    [
        SoftTokenPruning(training=SHORT),
        PredictedTokens(training={"imitation_epochs": 1, "selector_epochs": 1, "joint_epochs": 1}),  # type: ignore[arg-type]
        AttentionTokens(),
        *(pytest.param(each, marks=pytest.mark.slow) for each in (RandomTokens(), MergedTokens())),
    ],
    ids=lambda method: type(method).__name__,
)
def test_methods_keep_their_promises(method: Any) -> None:
    check_method(method, [network()], toy_token_job)


def test_training_moves_selectors_and_keeps_the_constraint() -> None:
    job = toy_token_job(network(), "macs<=70%")
    outcome = SoftTokenPruning(training=TokenTraining(selector_epochs=6, joint_epochs=0, selector_lr=0.05)).prune(job)
    fresh = edakari.apply(network(), outcome.plan)
    moved = [
        not torch.equal(value, fresh.state_dict()[name])
        for name, value in outcome.model.state_dict().items()
        if "selector" in name
    ]
    assert sum(moved) > len(moved) / 2
    rest = {name: value for name, value in outcome.model.state_dict().items() if "token_gate" not in name}
    assert all(torch.equal(value, network().state_dict()[name]) for name, value in rest.items())


def test_progressive_schedule_walks_from_the_back_and_merges_phases(tmp_path: Path) -> None:
    job = dc.replace(toy_token_job(network(), "macs<=70%"), artifacts=tmp_path)
    method = SoftTokenPruning(
        schedule="progressive",
        progress=Progress(grid=0.25, accuracy_drop=1.0),
        training=TokenTraining(selector_epochs=0, joint_epochs=1, joint_lr=0.01),
    )
    outcome = method.prune(job)
    trail = json.loads((tmp_path / "progressive.json").read_text())
    walked = list(dict.fromkeys(step["block"] for step in trail))
    assert walked == [f"blocks.{index}" for index in range(5, 5 - len(walked), -1)]
    for step in trail:
        ratios = [step["ratios"][block] for block in sorted(step["ratios"])]
        assert ratios == sorted(ratios, reverse=True)
    assert dense(edakari.trace(outcome.model, job.task.example()))["macs"] <= job.budget.terms[0].limit
    strict = dc.replace(method, progress=dc.replace(method.progress, accuracy_drop=-1.0))
    with pytest.raises(InfeasibleBudget, match="allow a larger drop"):
        strict.prune(toy_token_job(network(), "macs<=70%"))


def test_phases_and_profiles() -> None:
    assert phases([1.0, 0.95, 0.9, 0.85, 0.5, 0.45], 0.085) == (2, 4)
    assert phases([1.0, 1.0], 0.085) == ()
    schedule = profile([0.8, 0.5])
    assert schedule(0.0, 100, 2) == (100, 100)
    assert schedule(0.5, 100, 2) == (80, 50)


def test_wrong_settings_are_told() -> None:
    job = toy_token_job(network())
    with pytest.raises(PlanError, match="must not increase"):
        AttentionTokens(blocks=(1, 3), keep_ratios=(0.5, 0.7)).prune(job)
    with pytest.raises(PlanError, match="1 ratios for 2 selectors"):
        AttentionTokens(blocks=(1, 3), keep_ratios=(0.5,)).prune(job)
    with pytest.raises(PlanError, match="indices from 0 to 5"):
        AttentionTokens(blocks=(1, 6)).prune(job)
    with pytest.raises(EdakariError, match="selector_epochs must be at least 0, found -1"):
        SoftTokenPruning(training={"selector_epochs": -1}).prune(job)  # type: ignore[arg-type]
    with pytest.raises(InfeasibleBudget, match="fewest tokens"):
        AttentionTokens(blocks=(5,)).prune(job)
    with pytest.raises(BudgetError, match="does not depend on the number of tokens"):
        AttentionTokens().prune(toy_token_job(network(), "params<=50%"))


def glyphs(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """6 x 6 patches of noise; some carry the pattern of the image's class. Images, labels, which patches."""
    patterns = functional.normalize(torch.randn(6, 16, generator=torch.Generator().manual_seed(5)), dim=1) * 3
    labels = torch.randint(0, 6, (count,), generator=generator)
    number = torch.randint(2, 9, (count,), generator=generator)
    order = torch.rand(count, 36, generator=generator).argsort(1)
    carries = (order < number[:, None]).float()
    noise = torch.randn(count, 36, 16, generator=generator)
    x = torch.where(carries[..., None] > 0, patterns[labels][:, None] + 0.7 * noise, noise)
    images = x.view(count, 6, 6, 4, 4).permute(0, 1, 3, 2, 4).reshape(count, 1, 24, 24)
    return images, labels, carries


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_multipliers_hold_the_ratio_while_decisions_are_sampled(seed: int) -> None:
    """Specification, test 11: the first selector keeps its target within 0.10.

    By multipliers alone it kept 0.09 of the patches in place of 0.25 after 500 steps, with a multiplier of 2.5. With
    scores that begin at 0 it kept 0.25 and 0.44 after 300 steps, for seeds 0 and 1.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model: nn.Module = VisionTransformer(
        img_size=24, patch_size=4, in_chans=1, num_classes=6, embed_dim=32, depth=4, num_heads=4
    )
    settings = tuple({"start": "random", "package": "append", "proportional": True}.items())
    edits = [KeepTokens("blocks.0", 9, "spvit", settings), KeepTokens("blocks.2", 5, "spvit", settings)]
    targets = [9 / 36, 5 / 36]
    dual = DualAscent(targets, 0.05, TokenTraining().dual_damping)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(250):
        x, y, _ = glyphs(64, generator)
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    student = Adaptive(attach(model, edits, torch.zeros(1, 1, 24, 24))).train()
    student.training_rule = "sample"
    for gate in gates(student.model):
        gate.begin_at_target()
    optimizer, kept = torch.optim.AdamW(student.parameters(), lr=2e-3), []
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    for step in range(300):
        x, y, _ = glyphs(64, generator)
        loss = functional.cross_entropy(student(x), y)
        ratios = kept_ratios(student.decisions)
        (loss + 2 * ratio_loss(ratios, torch.tensor(targets)) + dual.term(ratios)).backward()
        optimizer.step()
        optimizer.zero_grad()
        falling.step()
        dual.after_step(StepState(student, optimizer, step, 0))
        kept.append(float(ratios[0].detach()))
    assert sum(kept[-25:]) / 25 == pytest.approx(targets[0], abs=0.10)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_behaviour_on_images_whose_class_is_in_few_patches(seed: int) -> None:
    """Specification, test 11: with selectors at block 0 the choice of tokens matters.

    Packages are the method's own; scores start by chance, since nothing is alike here. Decisions are drawn first, and
    go by the numbers of tokens in the end, as the network will run.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model: nn.Module = VisionTransformer(
        img_size=24, patch_size=4, in_chans=1, num_classes=6, embed_dim=32, depth=4, num_heads=4
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(350):
        x, y, _ = glyphs(64, generator)
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    test = glyphs(1024, torch.Generator().manual_seed(99))

    def accuracy(network: nn.Module) -> float:
        with torch.no_grad():
            return float((network.eval()(test[0]).argmax(1) == test[1]).float().mean())

    whole = accuracy(model)
    counts, example = (9, 5), torch.zeros(1, 1, 24, 24)

    def edits(selector: str, **settings: Any) -> list[KeepTokens]:
        blocks = zip((0, 2), counts, strict=True)
        return [KeepTokens(f"blocks.{block}", count, selector, tuple(settings.items())) for block, count in blocks]

    packages = {"package": "append", "proportional": True}
    student = Adaptive(attach(model, edits("spvit", start="random", **packages), example)).train()
    model, targets = student.model, [count / 36 for count in counts]
    dual = DualAscent(targets, 0.05)
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    for step in range(500):
        student.training_rule = "sample" if step < 300 else "count"
        x, y, _ = glyphs(64, generator)
        loss = functional.cross_entropy(student(x), y)
        if student.training_rule == "sample":
            kept = kept_ratios(student.decisions)
            loss = loss + 2 * ratio_loss(kept, torch.tensor(targets)) + dual.term(kept)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        falling.step()
        if student.training_rule == "sample":
            dual.after_step(StepState(student, optimizer, step, 0))

    def random_drop(**settings: Any) -> float:
        dropping = attach(detach(copy.deepcopy(model)), edits("random", **settings), example)
        return sum(accuracy(dropping) for _ in range(3)) / 3

    bare, packed = random_drop(package="none"), random_drop(**packages)
    runner = Adaptive(model, "mask", "count").eval()
    assert accuracy(runner) >= whole - 0.04
    recall = float((runner.decisions[0].kept * test[2]).sum() / test[2].sum())
    assert recall >= 2 * 9 / 36
    assert accuracy(runner) - bare >= 0.10
    assert packed - bare >= 0.05
    calibrate(model, lambda network, batch: network(batch), list(glyphs(1024, generator)[0].split(256)))
    adaptive = Adaptive(model, "mask", "threshold").eval()
    accuracy(adaptive)
    kept_B = adaptive.decisions[0].kept.sum(1)
    assert float(kept_B.mean()) / 36 == pytest.approx(targets[0], abs=0.02)
    assert float(torch.corrcoef(torch.stack([kept_B, test[2].sum(1)]))[0, 1]) > 0
