"""The rule of `flex_attention`, an operator whose arguments include functions for scores and for masks."""

from __future__ import annotations

import dis
import types
from typing import Any

import torch

from edakari.graph.axis_tracer import AxisTracer, Call, Shape
from edakari.graph.rules import rule
from edakari.graph.rules_compute import attention

__all__: list[str] = []

HEAD = 1
"""Index of the argument of such a function that is the head's index; the score comes first if there is one."""


@rule("higher_order.flex_attention")
def flex_attention(tracer: AxisTracer, call: Call) -> list[Shape]:
    """Like attention; tokens are pinned, as scores may depend on their indices; heads are pinned if scores do."""
    query, key, value, of_score, mask = call.args[:5]
    q, k = tracer.dims(query), tracer.dims(key)
    tracer.pin(q[-2], k[-2], why="scores may depend on the indices of tokens")
    wide = any(isinstance(tensor, torch.Tensor) and tensor.dim() > 2 and tensor.shape[1] > 1 for tensor in mask)
    if wide or _loads(of_score, HEAD + 1) or _loads(mask[-1], HEAD):
        tracer.pin(q[1], k[1], why="scores depend on the indices of heads")
    out = attention(tracer, Call(call.name, (query, key, value), {}, None))
    return [out, *(list(q[:-1]) if each.dim() == 3 else list(each.shape) for each in call.out[1:])]


def _loads(function: Any, index: int) -> bool:
    """Whether a function's code uses one of its arguments; True if that is unknown."""
    if not isinstance(function, types.FunctionType) or function.__code__.co_argcount <= index:
        return True
    code = function.__code__
    name = code.co_varnames[index]
    return name in code.co_cellvars or any(
        step.argval == name for step in dis.get_instructions(code) if step.opname.startswith("LOAD")
    )
