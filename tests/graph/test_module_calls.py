"""Calls of modules are told in order, and nothing is left in the network, whether its forward pass ends or fails."""

import pytest
import torch
from torch import nn

from edakari.graph.module_calls import told_of_calls
from edakari.surgery.tokens import token_layout
from edakari.surgery.tokens.layout import MASK
from edakari.surgery.tokens.watching import hands_on, watched
from edakari.testing.toys import ToyTask, toy_vit


class Twice(nn.Module):
    """Calls one layer twice, the second time by name."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x, fails=False):
        x = self.layer(input=self.layer(x))
        if fails:
            raise ValueError("it fails")
        return x


def hooks(model):
    return [hook for each in model.modules() for hook in (*each._forward_hooks, *each._forward_pre_hooks)]


def test_calls_are_told_in_order_with_arguments_and_outputs():
    model, x, told = Twice(), torch.ones(2, 3), []
    with told_of_calls(
        model,
        lambda path, args, kwargs: told.append((path, len(args), sorted(kwargs))),
        lambda *left: told.append(left),
    ):
        out = model(x)
    assert [each[:3] if isinstance(each[1], int) else each[0] for each in told] == [
        ("", 1, []),
        ("layer", 1, []),
        "layer",
        ("layer", 0, ["input"]),
        "layer",
        "",
    ]
    assert told[-1][1] is out
    assert not hooks(model)


def test_nothing_is_left_where_the_forward_pass_fails():
    model = Twice()
    with (
        pytest.raises(ValueError, match="it fails"),
        told_of_calls(model, lambda path, args, kwargs: None, lambda path, output: None),
    ):
        model(torch.ones(2, 3), fails=True)
    assert not hooks(model)


def test_a_trial_of_a_block_adds_no_call_to_the_record():
    model, example = toy_vit(), ToyTask().example()
    layout = token_layout(model, example)
    watch = watched(model, example, MASK)
    entry = next(entry for entry in watch.calls if entry.path == layout.names[0])
    before = len(watch.calls)
    assert hands_on(watch, entry, MASK, entry.entering[1])
    assert len(watch.calls) == before
