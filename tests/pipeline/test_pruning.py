"""One call that prunes a network that is there: as the pieces do, and as a recipe does."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import edakari
from edakari.core.method import method_named, needs_data, registered
from edakari.criteria import CRITERIA, Magnitude
from edakari.errors import (
    BudgetError,
    DataError,
    EdakariError,
    InfeasibleBudget,
    ModelError,
    RecipeError,
    SettingsError,
    UnknownName,
    WrongArgument,
)
from edakari.latency import runtimes
from edakari.methods.score import ScorePruning
from edakari.pipeline import LatencySettings, recipe_from
from edakari.testing import ToyTask, toy_cnn, toy_vit
from edakari.testing.formula_runtime import FormulaRuntime

TOY = ToyTask()
X = TOY.example()


def cross_entropy(model, batch):
    return functional.cross_entropy(model(batch[0]), batch[1])


def accuracy(model, batches):
    return {"accuracy": torch.cat([(model(images).argmax(1) == labels).float() for images, labels in batches]).mean()}


def task() -> edakari.Task:
    splits = {name: TOY.batches(name) for name in ("train", "val")}
    return edakari.Task.of(X, **splits, loss=cross_entropy, evaluate=accuracy)


def equal(first, second) -> bool:
    state = second.state_dict()
    return all(torch.equal(value, state[name]) for name, value in first.state_dict().items())


def test_one_line_gives_what_the_pieces_give(tmp_path) -> None:
    model = toy_cnn()
    result = edakari.prune(model, X, "macs<=50%", groups={"exclude": ["stem.0"]})
    graph = edakari.trace(model, X)
    groups = edakari.Groups(exclude=("stem.0",))
    plan = edakari.allocate(graph, Magnitude().score(model, graph), "macs<=50%", groups=groups)
    assert result.plan.edits == plan.edits
    assert equal(result.model, edakari.apply(model, plan))
    assert equal(model, toy_cnn()), "the model stays as it was"
    assert result.graph == graph
    assert result.costs["macs"] <= 0.5 * result.report["networks"][0]["costs"]["macs"]
    assert not result.model.training
    result.save(tmp_path / "net")
    assert equal(edakari.load(tmp_path / "net", model), result.model)
    text = repr(result)
    assert text.splitlines()[0] == "Pruned ToyCNN"
    assert "macs<=50%" in text
    assert "fine-tune" not in text
    assert "<table>" in result._repr_html_()


def test_a_deep_cut_without_data_asks_for_a_fine_tuning() -> None:
    text = repr(edakari.prune(toy_cnn(), X, "macs<=30%"))
    assert "fine-tune it before you use it: it was cut to 30% of its macs without training" in text


def test_the_loss_is_tried_before_a_deep_cut_trains_by_it() -> None:
    def wrong(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> str:
        return "no loss"

    given = edakari.Task.of(X, train=[(X.expand(4, -1, -1, -1), torch.zeros(4))], loss=wrong)
    with pytest.raises(WrongArgument, match="loss"):
        edakari.prune(toy_cnn(), given, "macs<=30%", recalibrate=0)
    edakari.prune(toy_cnn(), given, "macs<=50%", recalibrate=0)


def test_data_and_training_go_the_way_of_a_recipe_in_memory_and_in_a_folder(tmp_path) -> None:
    told, folder = [], tmp_path / "run"
    how = {"method": "taylor", "finetune": edakari.Schedule(epochs=2, lr=0.05), "device": "cpu"}
    memory = edakari.prune(toy_cnn(), task(), "macs<=50%", **how)
    kept = edakari.prune(toy_cnn(), task(), "macs<=50%", output=folder, notify=lambda *found: told.append(found), **how)
    assert equal(memory.model, kept.model)
    assert memory.plan == kept.plan
    assert [name for name, state, _ in told if state == "start"][-1] == "report"
    assert (folder / "report.html").is_file()
    again = edakari.prune(toy_cnn(), task(), "macs<=50%", output=folder, **how)
    assert not again.fresh
    assert equal(again.model, kept.model)
    _, pruned, tuned = memory.report["networks"]
    assert pruned["metrics"].keys() == {"accuracy"}
    assert tuned["metrics"]["accuracy"] == pytest.approx(float(accuracy(memory.model, TOY.batches("val"))["accuracy"]))
    assert "fine-tuned" in repr(memory)


@pytest.mark.parametrize("epochs", [0, 1])
def test_every_network_is_evaluated_once(epochs: int) -> None:
    seen = []

    def counted(model, batches):
        seen.append(sum(value.numel() for value in model.parameters()))
        return accuracy(model, batches)

    splits = {name: TOY.batches(name) for name in ("train", "val")}
    own = edakari.Task.of(X, **splits, loss=cross_entropy, evaluate=counted)
    tuned = edakari.Schedule(epochs=epochs) if epochs else None
    result = edakari.prune(toy_cnn(), own, "macs<=50%", finetune=tuned, recalibrate=0)
    small = sum(value.numel() for value in result.model.parameters())
    full = [each for each in seen if each != small]
    assert len(set(full)) == 1
    # the unpruned network is also tried on one batch at the beginning
    assert (len(full), seen.count(small)) == (2, 1 + epochs)


def test_statistics_are_taken_anew_and_the_result_says_what_that_gained() -> None:
    model = toy_cnn()
    plain = edakari.prune(model, task(), "macs<=50%", recalibrate=0)
    anew = edakari.prune(model, task(), "macs<=50%", recalibrate=3)
    cut = edakari.apply(model, plain.plan)
    assert plain.plan == anew.plan
    assert equal(plain.model, cut)
    assert plain.report["as_cut"] is None
    calibration = list(TOY.batches("train"))[:3]
    assert equal(anew.model, edakari.recalibrate(cut, calibration))
    val = TOY.batches("val")
    assert anew.report["as_cut"]["accuracy"] == pytest.approx(float(accuracy(cut, val)["accuracy"]))
    found = anew.report["networks"][1]["metrics"]["accuracy"]
    assert found == pytest.approx(float(accuracy(anew.model.eval(), val)["accuracy"]))
    assert "accuracy as cut, before recalibration" in repr(anew)
    refit = edakari.prune(model, task(), "macs<=50%", recalibrate=0, reconstruct=True)
    assert equal(refit.model, edakari.reconstruct(model, plain.plan, TOY.batches("train")))


def test_a_recipe_can_ask_for_both(content, tmp_path) -> None:
    recipe = recipe_from({**content, "finetune": None, "measure": None, "recalibrate": 2, "reconstruct": True})
    result = edakari.run(recipe, tmp_path / "run")
    assert result.report["as_cut"].keys() == result.report["networks"][1]["metrics"].keys()
    assert (result.report["recipe"]["recalibrate"], result.report["recipe"]["reconstruct"]) == (2, True)


SHORT = tuple(CRITERIA)
OWN = {name for name, cls in registered().items() if cls.__module__.startswith("edakari.")}
OF_TOKENS = ("tome", "evit", "random_tokens", "spvit", "dynamicvit")


@pytest.mark.parametrize("name", ["score", *SHORT, *sorted(OWN - {"score"})])
def test_a_method_asks_for_data_or_does_without(name: str) -> None:
    tokens = name in OF_TOKENS
    model = toy_vit() if tokens else toy_cnn()
    if needs_data(method_named(name)()):
        with pytest.raises(DataError, match=f"method '{name}' cannot do without data"):
            edakari.prune(model, X, "macs<=80%", method=name)
        return
    result = edakari.prune(model, X, "macs<=80%", method=name)
    assert result.plan.method == ("magnitude" if name == "score" else name)
    assert result.costs["macs"] <= 0.8 * result.report["networks"][0]["costs"]["macs"]
    assert bool(result.plan.tokens()) == tokens


def test_a_latency_is_measured_and_met(monkeypatch, tmp_path) -> None:
    fake = FormulaRuntime(factor=1.3, constant=0.4)
    monkeypatch.setitem(runtimes.RUNTIMES._registered, fake.name, lambda: fake)
    monkeypatch.setattr("edakari.latency.timing.time", fake)
    monkeypatch.setenv("EDAKARI_CACHE", str(tmp_path / "cache"))
    how = LatencySettings(runtime="formula", repeats=5, networks=4)
    result = edakari.prune(toy_cnn(), X, "latency<=90%", latency=how, groups=edakari.Groups(round_to=1), device="cpu")
    timed = result.report["latencies"]["latency"]
    assert timed["measured"]["median_ms"] <= 0.9 * timed["dense"]["median_ms"] * 1.02
    assert result.plan.sizes()
    assert result.report["recipe"]["groups"]["round_to"] == 1
    for groups in (None, {"min_channels": 2}, edakari.Groups(min_channels=2)):
        usual = edakari.prune(toy_cnn(), X, "latency<=100%", latency=how, groups=groups, device="cpu")
        assert usual.report["recipe"]["groups"]["round_to"] == 8, groups


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"method": "tayler"}, UnknownName, "did you mean 'taylor'"),
        ({"method": ScorePruning}, WrongArgument, "make one of it first"),
        ({"method": {"name": "magnitude", "iteration": 2}}, RecipeError, "did you mean 'iterations'"),
        ({"method": 3}, WrongArgument, "method takes a name"),
        ({"budget": "macs<=fifty"}, BudgetError, "fifty"),
        ({"budget": "macs<=0.5"}, BudgetError, "did you mean 'macs<=50%'"),
        ({"budget": "macs<=0.1%"}, InfeasibleBudget, "cannot be reached"),
        (
            {"budget": "macs<=10%", "groups": {"widths": {"*": "100%"}}},
            InfeasibleBudget,
            "Widths of 5 groups are fixed",
        ),
        ({"budget": 0.5}, WrongArgument, "budget takes a Budget or str"),
        ({"example_or_task": torch.zeros(1, 4, 16, 16)}, ModelError, "the forward pass of ToyCNN fails"),
        ({"example_or_task": "image"}, WrongArgument, "an example is a tensor"),
        ({"example_or_task": edakari.Task}, WrongArgument, "the class Task"),
        ({"model": "resnet18"}, EdakariError, "resnet18"),
        ({"finetune": edakari.Schedule(epochs=1)}, DataError, "finetune cannot do without data"),
        ({"finetune": 3}, WrongArgument, "finetune takes a Schedule"),
        ({"reconstruct": True}, DataError, "reconstruct cannot do without data"),
        ({"recalibrate": 4}, DataError, "recalibrate cannot do without data"),
        ({"export": ["program"], "output": None}, WrongArgument, "export writes files, so it needs a folder"),
        ({"groups": {"width": {}}}, RecipeError, "did you mean 'widths'"),
        ({"groups": {"widths": {"stem.9": 3}}}, SettingsError, "did you mean 'stem"),
        ({"recalib": 3}, UnknownName, "did you mean 'recalibrate'"),
        ({"seed": -1}, SettingsError, "seed must be"),
        ({"output": 3}, WrongArgument, "output takes a str or Path"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_scored(tmp_path, monkeypatch, changes, error, said) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Magnitude, "score", lambda *_: pytest.fail("it was too late"))
    arguments = {"model": toy_cnn(), "example_or_task": X, "budget": "macs<=50%", "output": tmp_path / "run", **changes}
    with pytest.raises(error, match=said):
        edakari.prune(**arguments)
    assert not list(tmp_path.iterdir())
