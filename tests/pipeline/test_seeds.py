"""One seed gives one result, two give two; an interruption changes nothing."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import edakari
import edakari.train.loop as loop_module
from edakari.methods.spvit import SoftTokenPruning
from edakari.methods.tokens.method import TokenTraining
from edakari.pipeline import recipe_from
from edakari.surgery.tokens import attach, selections, token_sites
from edakari.testing import ToyTask, toy_job, toy_vit


def finished(content: dict[str, Any], folder: Path) -> dict[str, torch.Tensor]:
    edakari.run(recipe_from(content), folder)
    return load_file(folder / "weights.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture
def short(content: dict[str, Any]) -> dict[str, Any]:
    """Order and shifts are drawn, and nothing is timed."""
    content["data"] |= {"augment": "light", "pad": 1}
    content.pop("measure")
    return content


def test_two_seeds_give_two_results_and_one_gives_one(short: dict[str, Any], tmp_path: Path) -> None:
    first = finished({**short, "seed": 1}, tmp_path / "a")
    assert equal(first, finished({**short, "seed": 1}, tmp_path / "b"))
    assert not equal(first, finished({**short, "seed": 2}, tmp_path / "c"))
    # the factory draws its weights by a seed of its own, so that it is training alone that differs
    assert equal(
        load_file(tmp_path / "a/pruned/weights.safetensors"), load_file(tmp_path / "c/pruned/weights.safetensors")
    )
    other = {**short, "seed": 1, "data": {**short["data"], "seed": 5}}
    assert equal(first, finished(other, tmp_path / "d"))


def test_an_interrupted_run_ends_with_the_same_bits(
    short: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finished({**short, "seed": 3}, tmp_path / "whole")
    step = loop_module.seed_step
    steps = []

    def stopping(*arguments: int) -> None:
        steps.append(arguments)
        if len(steps) == 5:
            raise KeyboardInterrupt
        step(*arguments)

    monkeypatch.setattr(loop_module, "seed_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        finished({**short, "seed": 3}, tmp_path / "stopped")
    assert equal(whole, finished({**short, "seed": 3}, tmp_path / "stopped"))
    assert len(steps) > 5


def first_weights(seed: int) -> list[torch.Tensor]:
    model, example = toy_vit(), ToyTask().example()
    sites = token_sites(model, example)
    attach(model, SoftTokenPruning(blocks=(1,)).design(sites).edits((8,)), example, seed)
    return [parameter for each in selections(model).values() for parameter in each.parameters()]


def test_selectors_begin_by_the_seed() -> None:
    zero, again, one = first_weights(0), first_weights(0), first_weights(1)
    assert all(torch.equal(*pair) for pair in zip(zero, again, strict=True))
    assert not all(torch.equal(*pair) for pair in zip(zero, one, strict=True))


def test_the_seed_of_a_job_reaches_its_selectors() -> None:
    method = SoftTokenPruning(
        blocks=(1,), training=TokenTraining(imitation_epochs=0, selector_epochs=0, joint_epochs=0, batches=1)
    )
    found = []
    for seed in (0, 0, 1):
        job = dc.replace(toy_job(toy_vit(), "macs<=85%"), seed=seed)
        found.append(dict(method.prune(job).model.state_dict()))
    assert equal(found[0], found[1])
    assert not equal(found[0], found[2])
