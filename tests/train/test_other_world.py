"""A training that is stopped in the middle of an epoch is resumed by one process more, or one less."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from tests.together import together
from tests.train import other_world
from tests.train.other_world import CASES, SCHEDULE


def seen_in(folder: Path) -> tuple[list[tuple[int, list[int]]], int]:
    """Epoch, and images of all processes, of each step of both trainings; and the steps that were counted."""
    steps, counted = [], 0
    for part in ("first", "second"):
        ranks = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{part}-*.json"))]
        together_in = zip(*(own for own, _ in ranks), strict=True)
        steps += [(each[0][0], sorted(image for _, images in each for image in images)) for each in together_in]
        counted = ranks[0][1] if ranks else 0
    return steps, counted


@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
def test_another_number_of_processes_goes_on_at_the_same_image(tmp_path: Path) -> None:
    for case in CASES:
        other_world.train(tmp_path / f"{case}-1-2", case, stop=True)
        other_world.train(tmp_path / f"{case}-1-1", case)
    together(other_world.main, tmp_path)
    for case in CASES:
        other_world.train(tmp_path / f"{case}-2-1", case)
    whole, _ = seen_in(tmp_path / "even-1-1")
    weights = load_file(tmp_path / "even-1-1" / "second-0.safetensors")
    for name in ("even-2-1", "even-1-2"):
        steps, counted = seen_in(tmp_path / name)
        assert counted == len(whole) == 24
        # the step that was stopped has no images the first time
        assert [step for step in steps if step[1]] == [(epoch, sorted(images)) for epoch, images in whole], name
        found = load_file(tmp_path / name / "second-0.safetensors")
        for key, value in weights.items():
            torch.testing.assert_close(found[key], value, atol=1e-6, rtol=1e-4)
    # 50 images in batches of 16: one process takes the last 2 as a batch, two processes leave them out
    for name, epochs in (("rest-2-1", (48, 50, 50)), ("rest-1-2", (50, 48, 48))):
        images = defaultdict[int, Counter[int]](Counter)
        for epoch, found_images in seen_in(tmp_path / name)[0]:
            images[epoch].update(found_images)
        assert all(max(each.values()) == 1 for each in images.values()), name
        assert tuple(len(images[epoch]) for epoch in range(SCHEDULE.epochs)) == epochs, name
        history = json.loads((tmp_path / name / "history.json").read_text())
        assert [epoch["epoch"] for epoch in history["epochs"]] == [1, 2, 3]
