import json
import re

import pytest
import torch
from typer.testing import CliRunner

import edakari
from edakari.cli.main import app
from edakari.testing import random_plan

OWN = """
import torch
from torch import nn


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.extra, self.out = nn.Conv2d(1, 6, 3), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, image, extra):
        return self.out(self.image(image).mean((2, 3)) + self.extra(extra))


class Looks(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.first(x) * 2) if x.sum().item() >= 0 else self.last(self.first(x))


def small():
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3))


def two():
    return Two()


def looks():
    return Looks()
"""


def call(*arguments: str):
    return CliRunner().invoke(app, ["inspect", *arguments])


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return str(file)


def test_the_tree_has_modules_widths_shares_and_reasons():
    found = call("edakari:resnet20")
    assert found.exit_code == 0, found.output
    lines = found.stdout.splitlines()
    assert any("3 × " in line and " … " in line for line in lines)
    assert any("3 → 16" in line and "– → stem.0" in line for line in lines)
    assert any("left alone, the network's output" in line for line in lines)
    assert "groups hold" in found.stdout
    assert max(map(len, lines[1:])) <= 110
    assert len(lines) < 60


def test_all_opens_what_depth_closes():
    short, whole, top = (
        call("edakari:resnet20", *more).stdout.splitlines() for more in ([], ["--all"], ["--depth", "1"])
    )
    assert len(top) < len(short) < len(whole)
    assert not any(" … " in line for line in whole)
    assert sum("ReLU" in line for line in whole) > 0 == sum("ReLU" in line for line in short)


def test_a_closed_module_says_that_something_stays_inside():
    top = call("edakari:fashion_vit", "--depth", "1").stdout
    assert "left alone, the network's output" in top
    assert "inside: " not in top
    assert "inside: 2 dimensions left alone" in call("torchvision:vit_b_16", "--depth", "1", "--all").stdout


@pytest.mark.parametrize("width", [80, 100, 140])
def test_lines_fit_the_terminal(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in call("edakari:resnet20").stdout.splitlines()]
    start = next(index for index, line in enumerate(lines) if line.startswith("module"))
    tree = lines[start : lines.index("", start)]
    assert max(map(len, tree)) <= width
    assert any("Conv2d" in line for line in tree) == (width > 80)


def test_the_flat_list_is_still_there():
    found = call("edakari:fashion_cnn", "--groups")
    assert "in MACs" in found.stdout
    assert "left alone" in found.stdout


def test_json_has_the_groups_and_the_tree():
    found = json.loads(call("edakari:fashion_cnn", "--json").stdout)
    assert {"model", "input", "costs", "groups", "unprunable", "uncounted"} <= set(found)
    assert found["modules"]["macs"] == found["costs"]["macs"]
    assert found["device"] == "meta"


def test_it_says_which_groups_have_gates_and_which_weights_can_be_masked():
    found = json.loads(call("edakari:fashion_cnn", "--json").stdout)
    network = edakari.build("edakari:fashion_cnn")
    kernels = [f"{path}.weight" for path, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)]
    assert found["maskable"] == kernels
    assert found["maskable_weights"] == sum(network.get_parameter(name).numel() for name in kernels)
    gated = [group["name"] for group in found["groups"] if not group["ungated"]]
    tree = call("edakari:fashion_cnn").stdout
    assert f"{len(gated)} of {len(found['groups'])} groups have gates" in tree
    vit = json.loads(call("edakari:fashion_vit", "--json").stdout)
    assert all("batch norm" in group["ungated"] for group in vit["groups"])


def test_sizes_of_inputs_can_be_given(own):
    assert json.loads(call(f"{own}:small", "--input", "1,9,9", "--json").stdout)["input"] == [1, 1, 9, 9]
    found = call(f"{own}:two", "--input", "1,9,9", "--input", "4")
    assert found.exit_code == 0, found.output
    assert "1×1×9×9, 1×4" in found.stdout


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("torch.zeros(2, 1, 9, 9)", [2, 1, 9, 9]),
        ("(torch.zeros(1, 1, 9, 9),)", [[1, 1, 9, 9]]),
        ("{'input': torch.zeros(1, 1, 9, 9)}", {"input": [1, 1, 9, 9]}),
    ],
)
def test_the_example_of_an_own_file_is_used(own, body, shape):
    with open(own, "a") as file:
        file.write(f"\n\ndef example():\n    return {body}\n")
    assert json.loads(call(f"{own}:small", "--json").stdout)["input"] == shape
    assert json.loads(call(f"{own}:small", "--input", "1,7,7", "--json").stdout)["input"] == [1, 1, 7, 7]


@pytest.mark.parametrize(("body", "text"), [("1 / 0", "ZeroDivisionError"), ("'x'", "returned a str")])
def test_an_example_that_fails_is_one_clear_error(own, body, text):
    with open(own, "a") as file:
        file.write(f"\n\ndef example():\n    return {body}\n")
    found = call(f"{own}:small")
    assert found.exit_code == 1
    assert "example()" in found.stderr
    assert text in found.stderr


def test_a_failing_forward_pass_shows_the_users_own_error_and_line(own):
    found = call(f"{own}:two", "--input", "1,9,9", "--input", "5")
    assert found.exit_code == 1
    first, error, index, *rest = found.stderr.splitlines()
    assert "forward pass of Two fails" in first
    assert "1×1×9×9, 1×5" in first
    assert "RuntimeError" in error
    assert "own.py:12, forward: return self.out(" in index
    assert "--input" in rest[-1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--input", "a,b"], "without the batch"),
        (["--input", "0,9,9"], "without the batch"),
        (["--input", ""], "without the batch"),
        (["--input", "1,9,9", "--image-size", "9"], "one of them"),
    ],
)
def test_wrong_sizes_are_one_clear_line(own, arguments, text):
    found = call(f"{own}:small", *arguments)
    assert found.exit_code == 1
    assert text in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_a_network_that_looks_at_values_says_so(own):
    found = call(f"{own}:looks", "--input", "4")
    assert found.exit_code == 0, found.output
    assert "Traced on the CPU" in found.stdout
    assert "item()" in found.stdout


def test_the_picture_is_written_whole_and_not_over_another_file(tmp_path):
    page = tmp_path / "net.html"
    assert call("edakari:fashion_cnn", "--html", str(page)).exit_code == 0
    assert page.read_text().startswith("<!doctype html>")
    page.write_text("mine")
    found = call("edakari:fashion_cnn", "--html", str(page))
    assert found.exit_code == 1
    assert "--force" in found.stderr
    assert page.read_text() == "mine"
    assert call("edakari:fashion_cnn", "--html", str(page), "--force").exit_code == 0
    assert page.read_text() != "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["net.html"]


def test_the_picture_can_go_with_json(tmp_path):
    found = call("edakari:fashion_cnn", "--json", "--html", str(tmp_path / "net.html"))
    assert json.loads(found.stdout)["groups"]
    assert (tmp_path / "net.html").is_file()


def test_a_run_is_inspected(tmp_path):
    model = edakari.build("edakari:fashion_cnn")
    plan = random_plan(edakari.trace(model, torch.zeros(1, 1, 28, 28)), 0.5)
    edakari.save(edakari.apply(model, plan), plan, tmp_path / "run")
    found = CliRunner().invoke(app, ["inspect", str(tmp_path / "run"), "--json"])
    assert found.exit_code == 0, found.output
    content = json.loads(found.stdout)
    assert content["input"] == [1, 1, 28, 28]
    assert {group["name"]: group["size"] for group in content["groups"]} == plan.sizes()
    assert "RUN_FOLDER" in CliRunner().invoke(app, ["inspect", str(tmp_path / "none")]).stderr
