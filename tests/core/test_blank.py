import pytest
import torch
from typer.testing import CliRunner

import edakari
from edakari.cli.main import app
from edakari.core.blank import blank, repeated
from edakari.errors import ModelError
from edakari.pipeline import recipe_from

HUGE = 10**12


def test_a_batch_is_the_input_over_and_over():
    example = torch.randn(1, 2, 3)
    assert torch.equal(repeated(example, 3), torch.cat([example] * 3))
    assert torch.equal(blank(1, 2, 3), torch.zeros(1, 2, 3))


@pytest.mark.parametrize("make", [lambda: blank(1, 3, HUGE, HUGE), lambda: repeated(torch.zeros(1, 3), HUGE)])
def test_what_no_memory_holds_is_told_with_its_size(make):
    with pytest.raises(ModelError, match="GB, but this machine has a memory of"):
        make()


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "edakari:resnet20", "--input", f"3,{HUGE},{HUGE}"),
        ("inspect", "edakari:resnet20", "--image-size", str(HUGE)),
        ("measure", "edakari:resnet20", "--runtime", "torch", "--batch", str(HUGE)),
        ("measure", "edakari:resnet20", "--runtime", "torch", "--calibrate", "--batch", str(HUGE)),
    ],
)
def test_commands_tell_it_in_one_line(arguments):
    found = CliRunner().invoke(app, list(arguments))
    assert found.exit_code == 1
    (line,) = found.stderr.splitlines()
    assert line.startswith("Error: an input of ")


@pytest.mark.parametrize("changed", [{"measure": {"batch": HUGE}}, {"latency": {"batch": HUGE}}])
def test_a_recipe_with_huge_batches_ends_in_one_error_before_anything_is_pruned(content, tmp_path, changed):
    budget = "latency<=60%" if "latency" in changed else "macs<=50%"
    with pytest.raises(ModelError, match="memory"):
        edakari.run(recipe_from({**content, **changed, "budget": budget}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
