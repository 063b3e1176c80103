"""ISP: what its specification promises, on networks small enough to reckon by hand, and behaviour in a minute."""

from __future__ import annotations

import dataclasses as dc
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import edakari
from edakari.core.method import Job, method_named
from edakari.core.plan import KeepChannels, Plan
from edakari.core.protocols import Schedule
from edakari.cost import bind, dense, macs
from edakari.errors import DataError, EdakariError, InfeasibleBudget, ModelError, RunFolderError
from edakari.graph.taps import find_taps
from edakari.methods.isp import InterpretationSteeredPruning
from edakari.methods.masking.gates import FreeLogits, HyperLogits, drawn, gumbel
from edakari.methods.masking.masks import maskable
from edakari.methods.saliency.explained import Explained, Saliency, widened
from edakari.methods.saliency.explaining import (
    checked,
    unchanged,
)
from edakari.methods.saliency.gating import Gated, Pairs, cost_penalty, inner_groups
from edakari.methods.saliency.losses import area, divergence, roughness
from edakari.methods.saliency.saved import load_saliency, save_saliency
from edakari.models.explainer import Explainer
from edakari.models.saliency import Frame
from edakari.models.weights import weights_digest
from edakari.surgery import apply
from edakari.testing import ToyTask, check_method, toy_cnn, toy_job, toy_vit
from edakari.train import FitSettings, fitter

SHORT: dict[str, Any] = {"predictor_epochs": 1, "explainer_epochs": 2, "gate_epochs": 12, "gate_lr": 0.5}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"selector": "realx", "gates": "hyper", "gate_mode": "soft", "streams": True, "labels": "predicted"},
    ],
)
def test_conformance(options: dict[str, Any]) -> None:
    check_method(InterpretationSteeredPruning(**{**SHORT, "explainer_epochs": 1, "gate_epochs": 4}, **options))


def test_it_is_registered() -> None:
    assert method_named("isp") is InterpretationSteeredPruning


# 4. KL direction


def test_divergence_by_hand() -> None:
    aim, said = (torch.tensor([p]).log() for p in ([0.5, 0.5], [0.25, 0.75]))
    assert float(divergence(aim, said)) == pytest.approx(0.143841, abs=1e-6)
    assert float(divergence(said, aim)) == pytest.approx(0.130812, abs=1e-6)
    assert float(divergence(aim, aim)) == 0


# 5. Regularisers


@pytest.mark.parametrize("count", [1, 3])
def test_roughness_by_hand(count: int) -> None:
    assert float(roughness(torch.ones(count, 1, 32, 32))) == pytest.approx(19.2)
    checkers = ((torch.arange(4)[:, None] + torch.arange(4)) % 2).float().expand(count, 1, 4, 4)
    assert float(roughness(checkers)) == pytest.approx(13.2)


@pytest.mark.parametrize(("power", "wanted"), [(0.3, 0.10226), (0.5, 0.02236)])
def test_area_by_hand(power: float, wanted: float) -> None:
    assert float(area(torch.zeros(2, 1, 4, 4), power)) == pytest.approx(wanted, abs=1e-5)
    assert float(area(torch.ones(2, 1, 4, 4), power)) == pytest.approx(1.0, abs=1e-3)


# 6. Gates


def test_a_gate_by_hand() -> None:
    theta = torch.tensor([0.0, 5.0], requires_grad=True)  # the second keeps the group open
    draw = drawn(theta + 3.0, torch.tensor([-3.2, 0.0]), 0.4, [2])
    assert float(draw.soft[0].detach()) == pytest.approx(0.37754, abs=1e-5)
    assert draw.hard.tolist() == [0.0, 1.0]
    draw.hard[0].backward()
    assert theta.grad is not None
    assert float(theta.grad[0]) == pytest.approx(0.58751, abs=1e-4)


def share_open(logits: torch.Tensor) -> float:
    size = len(logits)
    draws = [drawn(logits, gumbel(size, 0, step), 0.4, [size]) for step in range(20)]
    assert all(bool(((draw.hard == 0) | (draw.hard == 1)).all()) for draw in draws)
    return float(torch.stack([draw.hard for draw in draws]).mean())


def test_gates_start_open() -> None:
    (group,) = [group for group in toy_job(toy_cnn()).graph.groups if group.name == "first.0"]
    wide = dc.replace(group, size=20000)
    with torch.no_grad():
        logits = FreeLogits([wide], 3.0, "normal", 0)()
        assert share_open(logits) == pytest.approx(0.9946, abs=1e-3)
        assert share_open(torch.zeros(20000)) == pytest.approx(1 - math.exp(-1), abs=3e-3)
    assert 0.0 < share_open(torch.full((20000,), -0.3665)) < 0.51
    assert bool((FreeLogits([wide], 3.0, "zeros", 0)() == 3.0).all())


def test_noise_is_a_function_of_seed_and_step() -> None:
    assert torch.equal(gumbel(50, 3, 7), gumbel(50, 3, 7))
    assert not torch.equal(gumbel(50, 3, 7), gumbel(50, 3, 8))
    assert bool(gumbel(100000, 0, 0).isfinite().all())
    assert float(gumbel(100000, 0, 0).mean()) == pytest.approx(0.5772, abs=0.02)


def test_a_group_never_closes_whole() -> None:
    draw = drawn(torch.tensor([-9.0, -8.0, -9.0, 1.0, 2.0]), torch.zeros(5), 0.4, [3, 2])
    assert draw.hard.tolist() == [0, 1, 0, 1, 1]


def test_a_hyper_network_gives_a_logit_for_every_channel() -> None:
    groups = toy_job(toy_cnn()).groups
    logits, again = HyperLogits(groups, 3.0, 0), HyperLogits(groups, 3.0, 0)
    assert logits().shape == (sum(group.size for group in groups),)
    assert torch.equal(logits(), again())
    assert float(logits().detach().mean()) == pytest.approx(3.0, abs=0.5)
    logits().sum().backward()
    assert all(parameter.grad is not None for parameter in logits.parameters())
    assert torch.allclose(logits.inputs[:, 0] @ logits.inputs[:, 0].T, torch.eye(len(groups)), atol=1e-5)


# 7. Cost


def test_the_penalty_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1))
    graph = edakari.trace(model, torch.zeros(1, 3, 5, 5))
    limits = bind(edakari.Budget.parse("macs<=50%"), graph)
    for size, wanted in ((8.0, math.log(2)), (6.0, math.log(1.5)), (4.0, 0.0), (2.0, 0.0)):
        assert float(cost_penalty(limits, graph.groups, torch.tensor([size]))) == pytest.approx(wanted, abs=1e-6)
    sizes = torch.tensor([8.0], requires_grad=True)
    cost_penalty(limits, graph.groups, sizes).backward()
    assert sizes.grad is not None
    assert float(sizes.grad) == pytest.approx(1 / 8)


def test_both_layers_of_every_pair_count() -> None:
    """With all gates open the gated network costs what the dense one does; each inner width costs both its layers."""
    model = edakari.build("edakari:resnet20")
    graph = edakari.trace(model, torch.zeros(1, 3, 32, 32))
    job = Job(model, graph, graph.groups, ToyTask(), edakari.Budget.parse("macs<=50%"), lambda *_, **__: None)
    inner = inner_groups(job)
    assert len(inner) == 9
    whole, none = macs(graph).total({}), macs(graph).total({group.name: 0 for group in inner})
    stem, shortcuts, head = 27 * 16 * 1024, 16 * 32 * 256 + 32 * 64 * 64, 640
    assert none == stem + shortcuts + head
    assert whole == dense(graph)["macs"]


# 8. and 10. Identity, and the way from gates to the cut network


def parts(network: nn.Module, streams: bool = False) -> tuple[Job, Saliency, Gated]:
    job = toy_job(network)
    torch.manual_seed(0)
    taps = find_taps(job.model, job.graph)
    sizes = [(tap.channels, tap.height, tap.width) for tap in taps]
    explainer = Explainer(sizes, 4, Frame(16, 16)).eval()
    saliency = Saliency(taps, explainer, job.model, 1.0)
    groups = maskable(job.graph, job.groups if streams else inner_groups(job))
    gated = Gated(job, groups, saliency, FreeLogits(groups, 3.0, "zeros", 0), 0.4, "hard").double()
    return job, saliency, gated


def forced(gated: Gated, closed: dict[str, list[int]]) -> torch.Tensor:
    """Noise that closes these channels and opens all others."""
    noise = torch.full((gated.masks.size,), 10.0)
    for name, indices in closed.items():
        noise[gated.masks.part(name).start + torch.tensor(indices)] = -10.0
    return noise


def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, 16, 16, generator=generator).double(), torch.arange(4)


@pytest.mark.parametrize("network", [toy_cnn, toy_vit])
def test_open_gates_change_nothing(network: Any) -> None:
    job, saliency, gated = parts(network(), streams=True)
    gated.take(forced(gated, {}))
    x, labels = images()
    with gated.masks.installed(), torch.no_grad():
        said, raw, gates = gated(x, labels)
    with torch.no_grad():
        plain, whole = Explained(job.model, saliency.taps, saliency.explainer).eval()(x, labels)
    assert bool((gates == 1).all())
    if network is toy_cnn:
        assert torch.equal(said, plain)
        assert functional.mse_loss(raw, whole) == 0
    else:  # layer norms are computed from what is open
        assert torch.allclose(said, plain, atol=1e-12)
        assert functional.mse_loss(raw, whole) < 1e-12


@pytest.mark.parametrize("network", [toy_cnn, toy_vit])
def test_closed_gates_are_channels_that_are_gone(network: Any) -> None:
    job, saliency, gated = parts(network(), streams=True)
    closed = {group.name: list(range(1, group.size, 3)) for group in gated.masks.groups}
    edits = tuple(
        KeepChannels(group.name, tuple(index for index in range(group.size) if index % 3 != 1))
        for group in gated.masks.groups
    )
    plan = Plan(edits, job.graph.fingerprint, job.graph.inputs)
    gated.take(forced(gated, closed))
    x, labels = images()
    small = apply(job.model, plan).eval()
    with torch.no_grad():
        with gated.masks.installed():
            said, raw, gates = gated(x, labels)
        cut = Explained(small, saliency.taps, saliency.explainer, widened(plan, job.graph)).eval()
        other, found = cut(x, labels)
        plain = job.model(x)
    assert torch.allclose(said, other, atol=1e-10)
    assert torch.allclose(raw, found, atol=1e-5)  # heads give float32
    assert not torch.allclose(said, plain, atol=1e-3)
    sizes = {g.name: int(part.sum()) for g, part in zip(gated.masks.groups, gates.split(gated.sizes), strict=True)}
    assert sizes == dict(plan.sizes())
    assert macs(job.graph).total(sizes) == dense(edakari.trace(small.float(), job.task.example()))["macs"]


def test_gates_get_gradients_from_both_paths() -> None:
    _, _, gated = parts(toy_cnn())
    gated.take(gumbel(gated.masks.size, 0, 0))
    x, labels = images()
    for path in (0, 1):
        gated.logits.zero_grad()
        with gated.masks.installed():
            gated(x, labels)[path].square().sum().backward()
        theta = gated.logits.theta
        assert isinstance(theta, nn.Parameter)
        assert theta.grad is not None
        for name in ("first.0", "right.0"):
            part = theta.grad[0, gated.masks.part(name)]
            assert bool((part != 0).any()), (path, name)


# 9. Freezing


def test_only_what_is_to_be_trained_moves(tmp_path: Path) -> None:
    job = dc.replace(toy_job(toy_cnn()), artifacts=tmp_path)
    before = weights_digest(job.model)
    seen: list[list[str]] = []

    def fit(model: nn.Module, objective: Any, schedule: Schedule, **options: Any) -> None:
        own = {name: value.clone() for name, value in model.state_dict().items()}
        job.fit(model, objective, schedule, **options)
        moved = {name for name, value in model.state_dict().items() if not torch.equal(value, own[name])}
        seen.append(sorted({name.split(".")[0] for name in moved}))

    InterpretationSteeredPruning(**SHORT).prune(dc.replace(job, fit=fit))
    predictor, explainer, gates = seen
    assert {"stem", "first", "head"} <= set(predictor)
    assert explainer == ["explainer"]
    assert gates == ["logits"]
    assert weights_digest(job.model) == before


def test_a_network_that_should_have_stayed_is_told() -> None:
    model = toy_cnn()
    with (
        pytest.raises(ModelError, match="training changed weights or statistics of ToyCNN"),
        unchanged("training", model),
    ):
        next(model.parameters()).data += 1


def test_an_explained_network_stays_in_evaluation_mode() -> None:
    job, saliency, gated = parts(toy_cnn())
    explained = Explained(job.model, saliency.taps, saliency.explainer).train()
    assert explained.explainer.training
    assert not any(module.training for module in explained.tapped.modules())
    assert not any(module.training for module in gated.train().modules())


# Budget, resuming, bad input


@pytest.mark.parametrize("budget", ["macs<=60%", "params<=50%", "macs<=70%, params<=60%", "latency<=60%"])
def test_it_lands_within_one_percent(budget: str) -> None:
    job = toy_job(toy_cnn(), budget)
    outcome = InterpretationSteeredPruning(**SHORT).prune(job)
    assert -0.01 <= bind(job.budget, job.graph, job.costs).excess(outcome.plan.sizes()) <= 0


def test_it_resumes_to_the_same_plan(tmp_path: Path) -> None:
    method = InterpretationSteeredPruning(predictor_epochs=1, explainer_epochs=1, gate_epochs=4, gate_lr=0.5)

    def run(folder: Path, stop: int | None = None) -> Plan:
        job = toy_job(toy_cnn())
        whole = fitter(job.task, FitSettings(folder=folder, device="cpu", progress=False))
        calls = 0

        def fit(*args: Any, **options: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == stop:
                raise KeyboardInterrupt
            whole(*args, **options)

        return method.prune(dc.replace(job, fit=fit)).plan

    wanted = run(tmp_path / "a")
    for stop in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "b", stop)
    assert run(tmp_path / "b") == wanted


def test_an_explainer_is_taken_from_an_earlier_run(tmp_path: Path) -> None:
    job = dc.replace(toy_job(toy_cnn()), artifacts=tmp_path)
    first = InterpretationSteeredPruning(**SHORT)
    wanted = first.prune(job).plan
    fits = []
    counted = dc.replace(job, artifacts=None, fit=lambda *args, **options: fits.append(1) or job.fit(*args, **options))
    assert dc.replace(first, explainer=str(tmp_path)).prune(counted).plan == wanted
    assert len(fits) == 1
    other = toy_job(toy_cnn(seed=1))
    with pytest.raises(RunFolderError, match="explains a network with other weights"):
        dc.replace(first, explainer=str(tmp_path)).prune(other)
    with pytest.raises(RunFolderError, match=r"saliency\.json does not exist; give the folder `kept`"):
        dc.replace(first, explainer=str(tmp_path / "none")).prune(job)
    with pytest.raises(EdakariError, match="has selector 'rbf', not 'realx'"):
        dc.replace(first, explainer=str(tmp_path), selector="realx").prune(job)
    saved = load_saliency(tmp_path, job.model, job.graph)
    save_saliency(saved, tmp_path / "again", job.model)
    assert (tmp_path / "again/explainer.safetensors").read_bytes() == (tmp_path / "explainer.safetensors").read_bytes()


@dc.dataclass(frozen=True)
class Odd(ToyTask):
    """Batches of other forms."""

    form: str = ""

    def batches(self, split: Any) -> Any:
        return [
            {"unlabelled": x, "one": (x, y * 0), "vectors": (x.flatten(1), y), "many": (x, y + 9)}[self.form]
            for x, y in super().batches(split)
        ]

    def outputs(self, model: nn.Module, batch: Any) -> torch.Tensor:
        logits: torch.Tensor = model(batch if isinstance(batch, torch.Tensor) else batch[0])
        return logits[:, :1] if self.form == "one" else logits


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        ("unlabelled", "ISP needs a class for every image; without labels, set method.labels: predicted"),
        ("one", "the network has a single class"),
        ("vectors", r"batches of images \[N, C, H, W\]"),
        ("many", "the data has class 12, but the network has only 4 classes"),
    ],
)
def test_other_data_is_told(form: str, wanted: str) -> None:
    with pytest.raises(DataError, match=wanted):
        InterpretationSteeredPruning(**SHORT).prune(dc.replace(toy_job(toy_cnn()), task=Odd(form=form)))


def test_a_network_without_feature_maps_cannot_be_explained() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 12), nn.ReLU(), nn.Linear(12, 4))
    with pytest.raises(ModelError, match="no module that returns feature maps"):
        InterpretationSteeredPruning(**SHORT).prune(toy_job(model))


def test_unlabelled_images_are_explained_as_the_network_names_them() -> None:
    task = Odd(form="unlabelled")
    job, saliency, gated = parts(toy_cnn())
    gated.float()
    assert checked(task, job.model, "predicted") == (Frame(16, 16), 4)
    images, labels, aims, *_ = next(iter(Pairs.of(dc.replace(job, task=task), saliency, "predicted")))
    with torch.no_grad():
        assert torch.equal(labels, job.model(images).argmax(1))
    assert aims.shape == (16, 3)


@dc.dataclass(frozen=True)
class Blind(ToyTask):
    """A task whose validation split nobody may see."""

    def batches(self, split: Any) -> Any:
        assert split != "val"
        return super().batches(split)


def test_validation_data_are_never_looked_at() -> None:
    InterpretationSteeredPruning(**SHORT).prune(dc.replace(toy_job(toy_cnn()), task=Blind()))


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"gate_epochs": 0}, "gate_epochs must be at least 1, found 0"),
        ({"gate_lr": 0.0}, r"gate_lr must be above 0 and below 1e\+38, found 0\.0"),
        ({"interpretation": -1.0}, "interpretation must be at least 0"),
        ({"mask_widths": (0.4, 0.2)}, "mask_widths must rise"),
        ({"explain_share": 0.0}, "explain_share must be above 0 and at most 1, found 0.0"),
    ],
)
def test_settings_out_of_range_are_told(options: dict[str, Any], wanted: str) -> None:
    with pytest.raises(EdakariError, match=wanted):
        InterpretationSteeredPruning(**options).prune(toy_job(toy_cnn()))


def test_a_budget_out_of_reach_is_told_before_anything_is_trained() -> None:
    def fit(*args: Any, **options: Any) -> None:
        raise AssertionError("trained")

    with pytest.raises(InfeasibleBudget, match=r"method\.streams: true to gate them too"):
        InterpretationSteeredPruning().prune(dc.replace(toy_job(toy_cnn(), "macs<=1%"), fit=fit))


def test_gates_that_cannot_close_are_told() -> None:
    told: list[str] = []
    job = dc.replace(toy_job(toy_cnn()), log=lambda stage, figures: told.append(stage))
    InterpretationSteeredPruning(**{**SHORT, "gate_lr": 1e-3, "gate_epochs": 2}).prune(job)
    assert "gates cannot close: raise gate_lr or gate_epochs" in told
    assert "no gate is closed half way: raise gate_lr, gate_epochs or cost_weight" in told


# The objectives of the three stages, taken from the trainings that the method asks for


class Objective(Exception):
    """Ends a method at a training that is not to run; carries what was asked for."""

    def __init__(self, model: nn.Module, objective: Any, batches: Any) -> None:
        super().__init__("asked for")
        self.model, self.objective, self.batches = model, objective, batches


def asked(job: Job, stage: int, **settings: Any) -> Objective:
    """What the method asks for in a stage, from 1 to 3; the stages before it are trained."""
    stages = iter(range(1, 4))

    def fit(model: nn.Module, objective: Any, schedule: Schedule, **options: Any) -> None:
        if next(stages) == stage:
            raise Objective(model, objective, options.get("batches"))
        job.fit(model, objective, schedule, **options)

    with pytest.raises(Objective) as found:
        InterpretationSteeredPruning(**{**SHORT, **settings}).prune(dc.replace(job, fit=fit))
    return found.value


class Recorder(nn.Module):
    """Notes what a network gets and gives."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.network(x)
        self.calls.append((x.detach(), out.detach()))
        return out


def grown(network: nn.Module) -> nn.Module:
    """With classes that differ in probability, so that both directions of a divergence differ."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    return network


def test_the_predictor_learns_the_dense_networks_distribution_from_samples_of_masks() -> None:
    job = toy_job(grown(toy_cnn()))
    found = asked(job, 1)
    batch = (torch.ones(4, 3, 16, 16), torch.arange(4))
    predictor = Recorder(found.model.eval())
    term = found.objective(predictor, batch)["divergence"]
    (seen, said) = predictor.calls[0]
    with torch.no_grad():
        aim, said = job.model(batch[0]).double().softmax(1), said.double().softmax(1)
    by_hand = (aim * (aim / said).log()).sum(1).mean()
    assert term.item() == pytest.approx(by_hand.item(), rel=1e-4)
    assert float(by_hand) != pytest.approx(float((said * (said / aim).log()).sum(1).mean()), rel=1e-2)
    # a radial mask alone falls off without noise: neighbours would hardly differ
    assert float(seen[:, 0].diff(dim=2).abs().mean()) > 0.1
    found.objective(predictor, batch)
    assert not torch.equal(seen, predictor.calls[1][0])


def test_the_explainer_is_judged_on_samples_of_its_masks() -> None:
    found = asked(toy_job(toy_cnn()), 2)
    batch = (torch.ones(4, 3, 16, 16), torch.arange(4))
    first, second = (found.objective(found.model, batch) for _ in range(2))
    assert not torch.equal(first["area"], second["area"])


def test_every_term_of_the_gates_objective_moves_the_gates() -> None:
    found = asked(toy_job(toy_cnn()), 3, gate_offset=0.0)
    gated = found.model
    gated.take(gumbel(gated.masks.size, 0, 0))
    names = ("task", "interpretation", "cost")
    gradients = {}
    for name in names:
        gated.logits.zero_grad()
        with gated.masks.installed():
            terms = dict(found.objective(gated, next(iter(found.batches))))
            own = [terms.pop("interpretation"), terms.pop("cost")]
            loss = torch.stack(list(terms.values())).sum() if name == "task" else own[names.index(name) - 1]
            loss.backward()
        gradients[name] = gated.logits.theta.grad.clone()
    for name, gradient in gradients.items():
        assert bool((gradient != 0).any()), name
    # fewer open channels cost less
    assert bool((gradients["cost"] >= 0).all())
