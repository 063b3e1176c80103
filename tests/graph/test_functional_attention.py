"""Attention by `F.multi_head_attention_forward` and by `nn.MultiheadAttention`, in all their forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

import edakari
from edakari.core.plan import Plan
from edakari.testing import enlivened, exactness, random_plan


class Pool(nn.Module):
    """Pools a map by attention, as CLIP's convolutional networks do."""

    def __init__(self, packed: bool = False, keys: int = 32, call: Any = lambda pool, x: {}) -> None:
        super().__init__()
        self.conv, self.narrow = nn.Conv2d(3, 32, 3), nn.Linear(32, keys)
        self.q, self.k, self.v, self.out = nn.Linear(32, 32), nn.Linear(keys, 32), nn.Linear(keys, 32), nn.Linear(32, 5)
        self.packed = nn.Parameter(torch.randn(96, 32) / 6) if packed else None
        self.bias, self.width, self.heads, self.call = nn.Parameter(torch.randn(2, 1, 1, 32)), 32, 4, call

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images, float [batch, 3, height, width]."""
        x = torch.relu(self.conv(x)).flatten(2).permute(2, 0, 1)
        keys = x if self.packed is not None else self.narrow(x)
        given = {
            "query": x,
            "key": keys,
            "value": keys,
            "num_heads": self.heads,
            "embed_dim_to_check": x.shape[-1],
            "in_proj_weight": self.packed,
            "use_separate_proj_weight": self.packed is None,
            **{f"{name}_proj_weight": getattr(self, name).weight for name in "qkv"},
            "in_proj_bias": torch.cat([self.q.bias, self.k.bias, self.v.bias]),
            "bias_k": None,
            "bias_v": None,
            "add_zero_attn": False,
            "dropout_p": 0.0,
            "training": False,
            "out_proj_weight": self.out.weight,
            "out_proj_bias": self.out.bias,
            "need_weights": False,
            **self.call(self, x),
        }
        return F.multi_head_attention_forward(**given)[0][0]


FORMS: dict[str, Any] = {
    "separate weights": Pool,
    "narrower keys": lambda: Pool(keys=24),
    "packed weights": lambda: Pool(packed=True),
    "no bias": lambda: Pool(call=lambda pool, x: {"in_proj_bias": None}),
    "weights are needed": lambda: Pool(call=lambda pool, x: {"need_weights": True}),
    "a zero key, learnt keys": lambda: Pool(
        call=lambda pool, x: {"add_zero_attn": True, "bias_k": pool.bias[0], "bias_v": pool.bias[1]}
    ),
    "width by attribute": lambda: Pool(call=lambda pool, x: {"embed_dim_to_check": pool.width}),
}


@pytest.mark.parametrize("form", FORMS)
def test_attention_by_a_function_is_cut_with_what_comes_before_it(form):
    torch.manual_seed(0)
    model, x = enlivened(FORMS[form]()), torch.rand(2, 3, 5, 5, dtype=torch.float64)
    graph = edakari.trace(model, x[:1])
    assert {"head", "head_dim"} <= {group.kind for group in graph.groups}
    assert {member.tensor for name in ("conv:head", "conv:head_dim") for member in graph.members(name)} >= {
        "conv.weight",
        "out.weight",
    }
    for seed in range(3):
        assert exactness(model, x, random_plan(graph, keep=(0.3, 0.7), seed=seed)) < 1e-12


def test_what_is_written_into_the_call_stays():
    model = Pool(call=lambda pool, x: {"num_heads": 4})
    assert [(group.name, group.kind) for group in edakari.trace(model, torch.rand(1, 3, 5, 5)).groups] == [
        ("conv", "head_dim"),
        ("narrow", "hidden"),
    ]
    model = Pool(call=lambda pool, x: {"embed_dim_to_check": 32})
    assert [group.name for group in edakari.trace(model, torch.rand(1, 3, 5, 5)).groups] == ["narrow"]


class Multihead(nn.Module):
    """`nn.MultiheadAttention` with keys of its own width."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.call, self.first = options.pop("call", {}), options.get("batch_first", False)
        self.q, self.k, self.v = nn.Linear(12, 32), nn.Linear(12, options.get("kdim", 32)), nn.Linear(12, 20)
        self.attention, self.out = nn.MultiheadAttention(32, 4, vdim=20, **options), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> Any:
        """Tokens, float [batch, 8, 12]."""
        x = x if self.first else x.transpose(0, 1)
        y, weights = self.attention(self.q(x), self.k(x), self.v(x), **self.call)
        return self.out(y), weights


MASKS = {
    "key_padding_mask": torch.arange(16).view(2, 8) % 5 == 0,
    "attn_mask": torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize(
    "options",
    [
        {"kdim": 24, "batch_first": True},
        {"bias": False, "call": {"need_weights": False}},
        {"add_bias_kv": True, "add_zero_attn": True, "call": MASKS},
        {"add_bias_kv": True, "batch_first": True, "call": {"need_weights": False, **MASKS}},
        {"add_zero_attn": True, "call": {"average_attn_weights": False, **MASKS}},
    ],
)
def test_attention_modules_are_cut_in_all_their_forms(options):
    torch.manual_seed(0)
    model, x = enlivened(Multihead(**options)), torch.rand(2, 8, 12, dtype=torch.float64)
    graph = edakari.trace(model, x)
    assert "head_dim" in {group.kind for group in graph.groups} or "average_attn_weights" in options["call"]
    for seed in range(2):
        assert exactness(model, x, random_plan(graph, keep=(0.3, 0.7), seed=seed)) < 1e-12


@torch.no_grad()
def test_an_encoder_whose_attention_is_cut_takes_masks_of_padding():
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), 2)
            self.embed, self.out = nn.Linear(12, 16), nn.Linear(16, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            padding = (torch.arange(x.shape[1], device=x.device) > 5).expand(x.shape[0], -1)
            return self.out(self.body(self.embed(x), src_key_padding_mask=padding))[:, :6]

    model, x = enlivened(Encoder()), torch.rand(2, 8, 12, dtype=torch.float64)
    plan = random_plan(edakari.trace(model, x))
    for edit in plan.edits:
        alone = Plan((edit,), plan.fingerprint, plan.inputs)
        # torch's fused layers are on here, as they are for users
        wanted = edakari.simulate(model, alone)(x)
        assert torch.allclose(edakari.apply(model, alone)(x), wanted, rtol=1e-12)
