"""The full schedules of benchmarks/headline.py: each is a recipe with the published numbers, and can be estimated."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edakari.pipeline.recipe import read_recipe
from edakari.pipeline.settings import Recipe

ROOT = Path(__file__).parents[1]
OWN = ("headline", "headline_arms", "headline_estimate", "cifar10_arms", "cifar10_results", "core", "records")


@pytest.fixture
def headline(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The benchmark as a module, with the folder of the repository as the current one."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.chdir(ROOT)
    import headline

    yield headline
    for name in OWN:
        sys.modules.pop(name, None)


def arguments(headline: Any, folder: Path, *words: str) -> Any:
    """The arguments of a call, with a few random images of each class as the data."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 110), ("test", 20)):
        images = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        np.savez(folder / f"{part}.npz", images=images, labels=np.arange(count) % 10)
    own = ["--work", str(folder / "work"), "--output", str(folder / "found.json"), "--compile", "none"]
    return headline.parsed([str(folder), *own, *words])


def recipes(headline: Any, asked: Any) -> dict[str, Recipe]:
    return {name: read_recipe(*headline.commands(asked, name)) for name in headline.ARMS}


def test_the_arms_have_the_published_schedules(headline: Any, tmp_path: Path) -> None:
    found: dict[str, Any] = recipes(headline, arguments(headline, tmp_path))
    for name, recipe in found.items():
        assert (recipe.model.name, recipe.data.device, recipe.measure) == ("edakari:resnet56", "auto", None)
        if name != "dense":
            trained = recipe.finetune.epochs if recipe.finetune else 0
            assert sum(each.epochs for each in headline.ARMS[name].passes if each.compiled) == trained
            assert all(each.batch == recipe.data.batch_size for each in headline.ARMS[name].passes)
    train, smcp, ekg = found["dense"].train, found["smcp"].method, found["ekg"]
    assert (train.epochs, train.lr, train.drops, train.drop) == (200, 0.1, (0.3, 0.6, 0.8), 0.2)
    assert (smcp.epochs, smcp.warmup_epochs, smcp.ramp_epochs, smcp.freeze_epochs) == (90, 10, 55, 25)
    assert (smcp.lr, smcp.interval, found["smcp"].data.batch_size) == (0.256, 80, 256)
    assert (ekg.finetune.epochs, ekg.finetune.lr, ekg.finetune.views, str(ekg.budget)) == (100, 0.01, 2, "macs<=45%")
    rfc, isp = found["rfc"].finetune, found["isp"].finetune
    assert (rfc.epochs, rfc.lr, rfc.weight_decay, rfc.drops) == (160, 0.06, 1e-4, ())
    assert (isp.epochs, isp.lr, isp.weight_decay, isp.drops, isp.drop) == (200, 0.1, 1e-4, (0.5, 0.75), 0.1)


def test_a_thousandth_has_about_a_thousandth_of_the_steps(headline: Any, tmp_path: Path) -> None:
    asked = arguments(headline, tmp_path, "--scale", "0.001", "--batch", "8")
    short, full = recipes(headline, asked), recipes(headline, arguments(headline, tmp_path))
    for name, recipe in short.items():
        with np.load(recipe.data.train[0]) as data:
            counts = np.bincount(data["labels"])
        assert counts.min() == counts.max() >= 9  # EKG takes as many of each class
        ratio = steps(recipe, name, counts.sum()) / steps(full[name], name, 50_000)
        assert 0.0003 < ratio < 0.003, name


def steps(recipe: Any, name: str, images: int) -> int:
    """Optimizer steps of the main training of an arm."""
    training = recipe.train if name == "dense" else recipe.finetune or recipe.method
    return int(training.epochs * -(-images // recipe.data.batch_size))


def test_steps_are_timed_and_what_does_not_fit_is_refused(headline: Any, tmp_path: Path) -> None:
    from headline_arms import Arm, Passes
    from headline_estimate import estimated

    asked = arguments(headline, tmp_path, "--network", "resnet20")
    arm = Arm("ekg", {}, dict, (Passes(100, 128, views=2),), None, {})
    found = estimated(arm, lambda changes: headline.commands(asked, "ekg", changes), "none", 4, 2)
    assert found["seconds"] == found["training 1"]
    assert found["seconds"] > 100 * 391 * 0.001  # no step takes less than a millisecond here
    estimates = {"dense": {"seconds": 481.0}, "ekg": {"seconds": 479.0}}
    assert "estimated at 481 s, more than 8 minutes" in headline.refusal(asked, "dense", estimates)
    assert not headline.refusal(asked, "ekg", estimates)
    asked.sittings = True
    assert not headline.refusal(asked, "dense", estimates)


def test_figures_stand_beside_those_of_the_paper(headline: Any, tmp_path: Path) -> None:
    from edakari.core.files import write_json

    asked = arguments(headline, tmp_path)
    folder = asked.work / "ekg"
    folder.mkdir(parents=True)
    write_json(headline.dense(asked).with_suffix(".json"), {"metrics": {"top1": 0.94}})
    networks = [
        {"metrics": {"top1": top}, "costs": {"macs": macs, "params": 10}} for top, macs in ((0.94, 100), (0.5, 45))
    ]
    write_json(folder / "report.json", {"networks": [*networks, {**networks[1], "metrics": {"top1": 0.943}}]})
    row = headline.found(asked, "ekg")
    assert (row["top1"], row["cut_top1"], row["macs"]) == (0.943, 0.5, 0.45)
    assert row["difference"] == pytest.approx(0.3)
    assert row["paper"]["difference"] == 0.25
    assert "94.30%        +0.30   +0.25  0.450" in headline.table({"ekg": row})
