"""Outputs that do not count need not keep their widths."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import nn

import edakari
from edakari.core.plan import Plan
from edakari.errors import ModelError
from edakari.testing import enlivened, exactness, random_plan


class Encoder(nn.Module):
    """Returns its residual stream beside what is made of it, as transformers' networks do."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        self.embed, self.up, self.down = nn.Linear(12, 16), nn.Linear(16, 24), nn.Linear(24, 16)
        self.norm, self.head, self.boxes, self.form = nn.LayerNorm(16), nn.Linear(16, 5), nn.Linear(16, 4), form

    def forward(self, x: torch.Tensor) -> Any:
        """Tokens, float [batch, tokens, 12]."""
        states = [self.embed(x)]
        states.append(states[0] + self.down(torch.relu(self.up(states[0]))))
        last = self.norm(states[-1])
        return self.form(self.head(last.mean(1)), self.boxes(last), last, states)


FORMS: dict[str, tuple[Any, Any]] = {
    "dict": (lambda *x: dict(zip(("logits", "boxes", "last", "states"), x, strict=True)), ("logits", "boxes")),
    "object": (lambda *x: {"out": types.SimpleNamespace(logits=x[0], boxes=x[1]), "last": x[2:]}, "out.logits"),
    "tuple": (lambda *x: x, 0),
    "nested": (lambda *x: [{"a.b": x[:2]}, x[2:]], ["0.a.b"]),
    "last of a tuple": (lambda *x: (*x[1:], x[0]), -1),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_residual_stream_may_be_pruned_where_it_does_not_count(form):
    make, outputs = FORMS[form]
    torch.manual_seed(0)
    model, x = enlivened(Encoder(make)), torch.rand(2, 6, 12, dtype=torch.float64)
    assert [group.name for group in edakari.trace(model, x).groups] == ["up"]
    graph = edakari.trace(model, x, outputs=outputs)
    boxes = ["boxes"] if isinstance(outputs, str | int) else []  # of which then nothing counts
    assert [group.name for group in graph.groups] == ["embed", "up", *boxes]
    plan = Plan.from_json(random_plan(graph).to_json())
    assert exactness(model, x, plan) < 1e-12
    assert edakari.apply(model, plan).embed.out_features == 8
    # the same network, never traced before
    again = enlivened(Encoder(make))
    again.load_state_dict(model.state_dict())
    assert edakari.apply(again, plan).embed.out_features == 8


def test_an_output_that_counts_stays():
    model = Encoder(lambda *x: x).eval()
    graph = edakari.trace(model, torch.zeros(1, 6, 12), outputs=(0, 1, 2))
    assert [group.name for group in graph.groups] == ["up"]
    assert "the network's output" in {unprunable.reason for unprunable in graph.unprunable}


@pytest.mark.parametrize(
    ("outputs", "said"),
    [("scores", "0, 1, 2, 3"), (7, "no output '7'"), ((), "at least one"), ([None], "at least one")],
)
def test_an_output_that_is_not_there_is_an_error(outputs, said):
    with pytest.raises(ModelError, match=said):
        edakari.trace(Encoder(lambda *x: x).eval(), torch.zeros(1, 6, 12), outputs=outputs)
