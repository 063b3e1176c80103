"""The table of operators: every property of an operator that is known by its name is written here, once.

A row names operators that act alike. It holds the family by which their rule, their masked reading and their shortcut
are found, the dimensions that they mix, and their traits. A new operator is one row here and one rule in
`graph/rules_*.py`. A name without a row has no trait, and mixes nothing unless the masked twin of a plan has a reading
for it.

Names omit the namespace `aten.`. `relu+` stands for `relu` and its in-place variant `relu_`. `:linear` is no operator
but the torch function `linear`, which is traced as a whole.
"""

from __future__ import annotations

import dataclasses as dc
import enum
from collections.abc import Iterator, Mapping
from typing import Literal

__all__ = ["BATCH_NORMS", "REDUCTIONS", "ROWS", "Mixes", "Row", "Trait", "having", "mixed_by", "named"]


class Trait(enum.Flag):
    """Properties of an operator beyond those of its family."""

    NONE = 0
    LAYER = enum.auto()
    """Multiplies by a weight, or may do so."""
    FREE = enum.auto()
    """Only moves, makes or compares values: there is no arithmetic to count."""
    VIEW = enum.auto()
    """Returns the memory of its input."""
    MOVES = enum.auto()
    """Returns the entries of its input in another arrangement: indices stay indices."""
    NUMBERS = enum.auto()
    """Its rule handles the indices that it reads, or it reads no entries."""
    ZEROS = enum.auto()
    """Returns zeros for zeros, and reads one tensor."""
    LOCAL = enum.auto()
    """Moves nothing along the dimensions whose length it preserves, though torch does not tag it as pointwise."""


Mixes = Literal["nothing", "channels", "last", "inner", "attention", "along", "reduced", "all but channels", "all"]
"""Dimensions along which an operator mixes positions.

"channels" is dimension 1 of its first tensor, and "last" the last one. "inner" is the one in which the two factors of a
product meet. "attention" is the last one of the queries, and the tokens of the keys. "along" is the dimension in its
arguments, and "reduced" are those that it reduces. "all but channels" is every dimension except 1, and "all" any
dimension of any tensor. Spatial positions, which cannot be pruned, are left out.
"""


@dc.dataclass(frozen=True, slots=True)
class Row:
    """Operators of one family that have the same traits.

    Args:
        family: name by which rules, readings and shortcuts are found.
        names: full names of the operators, and of functions that are traced as a whole.
        traits: further properties.
        mixes: dimensions whose positions they mix.
        space: number of trailing spatial dimensions, for those that act in space.
    """

    family: str
    names: tuple[str, ...]
    traits: Trait = Trait.NONE
    mixes: Mixes = "nothing"
    space: int = 0


def _row(family: str, names: str, traits: Trait = Trait.NONE, mixes: Mixes = "nothing", space: int = 0) -> Row:
    return Row(family, tuple(full for name in names.split() for full in _full(name)), traits, mixes, space)


def _full(name: str) -> Iterator[str]:
    if name.startswith(":"):
        yield name[1:]
        return
    base = name.removesuffix("+")
    full = base if "." in base else f"aten.{base}"
    yield full
    if base != name:
        yield f"{full}_"


LAYER, FREE, VIEW, MOVES, NUMBERS, ZEROS, LOCAL = (
    *(Trait.LAYER, Trait.FREE, Trait.VIEW, Trait.MOVES, Trait.NUMBERS, Trait.ZEROS, Trait.LOCAL),
)

_TABLE = (
    # layers and products
    _row("convolution", "convolution _convolution", LAYER, "channels"),
    _row("deformable_convolution", "torchvision.deform_conv2d", mixes="all"),
    _row("linear_function", ":linear", LAYER, "last"),
    _row("linear", "linear", LAYER, "last"),
    _row("matrix_product", "mm", LAYER, "inner"),
    _row("added_matrix_product", "addmm", LAYER, "inner"),
    _row("batched_product", "bmm", LAYER, "inner"),
    _row("batched_product", "mv dot vdot", mixes="inner"),
    _row("added_batched_product", "baddbmm addmv", mixes="inner"),
    _row("grouped_product", "_grouped_mm", mixes="all"),
    _row("bilinear", ":bilinear", mixes="all"),
    _row("recurrent", ":rnn", mixes="all"),
    # attention
    _row("attention", ":scaled_dot_product_attention", mixes="attention"),
    _row(
        "fused_attention",
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention",
        mixes="attention",
    ),
    _row("flex_attention", "higher_order.flex_attention", mixes="attention"),
    _row("softmax", "_softmax _safe_softmax _log_softmax softmax log_softmax", mixes="along"),
    # norms
    _row("batch_norm_function", ":batch_norm", LOCAL, "all but channels"),
    _row("batch_norm", "native_batch_norm", LOCAL, "all but channels"),
    _row(
        "batch_norm_variant",
        "batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit "
        "_native_batch_norm_legit_no_training _batch_norm_with_update _batch_norm_no_update",
        LOCAL,
        "all but channels",
    ),
    _row("layer_norm", "native_layer_norm", LOCAL, "all"),
    _row("composite_norm", "layer_norm rms_norm"),
    _row("rms_norm", "_fused_rms_norm", mixes="last"),
    _row("group_norm", "native_group_norm", LOCAL, "all"),
    _row("weight_norm", "_weight_norm_interface", mixes="all"),
    _row("response_norm", ":local_response_norm", mixes="all"),
    # position by position; operators that torch tags as pointwise need no row
    _row("addition", "add+"),
    _row("subtraction", "sub+"),
    _row("multiplication", "mul+"),
    _row("division", "div+"),
    _row("negation", "neg", ZEROS),
    _row("gate", "sigmoid+ hardsigmoid+", LOCAL),
    _row("activation", "relu+ relu6+ hardtanh+ silu+ gelu+ hardswish+ leaky_relu+ elu+ mish+ tanh+ softplus", LOCAL),
    _row("weighted_activation", "prelu _prelu_kernel", LOCAL),
    _row("pointwise", "rrelu_ threshold_ log_sigmoid_forward lerp _assert_async abs_ copysign_ heaviside_"),
    _row("pointwise", "floor_divide+ complex polar _conj _neg_view resolve_conj"),
    _row("pointwise", "clamp", LOCAL),
    _row("choice", "where masked_fill_", FREE),
    _row("choice", "masked_fill", FREE | LOCAL),
    _row("comparison", "eq+ ne+ lt+ le+ gt+ ge+", FREE),
    _row("dropout", "native_dropout dropout+", ZEROS | LOCAL),
    _row("draw", "exponential_ geometric_ cauchy_ log_normal_ random_ bernoulli+ uniform_ normal_"),
    # new values
    _row("constant", "zeros ones full new_zeros new_ones new_full empty new_empty", FREE),
    _row("constant", "empty_strided empty_permuted new_empty_strided", FREE),
    _row("random", "rand randn"),
    _row("like", "zeros_like ones_like empty_like full_like", NUMBERS | FREE),
    _row("random_like", "rand_like randn_like"),
    _row("fill", "fill_ zero_", FREE),
    _row("made", "arange linspace scalar_tensor", FREE),
    # the same values in another place or shape
    _row("copy", "clone contiguous", MOVES | ZEROS | FREE | LOCAL),
    _row("reference", "detach alias", VIEW | MOVES | ZEROS | FREE | LOCAL),
    _row("reference", "lift_fresh", MOVES | FREE),
    _row("conversion", "_to_copy", ZEROS | FREE | LOCAL),
    _row("write", "copy_", FREE | LOCAL),
    _row("view", "view _unsafe_view reshape _reshape_alias", VIEW | MOVES | ZEROS | FREE | LOCAL),
    _row("view", "flatten unflatten", VIEW | MOVES | ZEROS | FREE),
    _row("permutation", "permute", VIEW | MOVES | ZEROS | FREE),
    _row("transposition", "transpose+ t+ swapaxes numpy_T", VIEW | MOVES | ZEROS | FREE),
    _row("unsqueeze", "unsqueeze+", VIEW | MOVES | ZEROS | FREE | LOCAL),
    _row("squeeze", "squeeze+", VIEW | MOVES | ZEROS | FREE | LOCAL),
    _row("expand", "expand", VIEW | MOVES | ZEROS | FREE | LOCAL),
    _row("repeat", "repeat", MOVES | FREE),
    _row("repeat", "tile"),
    _row("strides", "as_strided as_strided_", VIEW | FREE),
    _row("moved", "movedim", VIEW),
    _row("slice", "slice narrow", VIEW | MOVES | ZEROS | FREE),
    _row("selection", "select", VIEW | MOVES | ZEROS | FREE | LOCAL),
    _row("pieces", "unbind", VIEW | MOVES | FREE | LOCAL),
    _row("split", "split split_with_sizes chunk", VIEW | MOVES | FREE | LOCAL),
    _row("split", "unsafe_split unsafe_split_with_sizes unsafe_chunk", FREE),
    _row("concatenation", "cat concatenate", MOVES | FREE | LOCAL),
    _row("stack", "stack", MOVES | FREE | LOCAL),
    _row("order", "roll", ZEROS | FREE),
    _row("order", "flip", FREE),
    _row("triangle", "tril triu", FREE),
    _row("windows", "unfold", VIEW | FREE),
    _row("diagonal", "diagonal", VIEW),
    _row("complex_view", "view_as_complex view_as_real", VIEW),
    _row("constant_pad", "constant_pad_nd", FREE),
    _row("channel_shuffle", "channel_shuffle native_channel_shuffle", FREE | LOCAL),
    _row("pixel_shuffle", "pixel_shuffle pixel_unshuffle im2col", FREE),
    # by index
    _row("index", "index index_select", FREE),
    _row("gather", "gather", NUMBERS | FREE, "all"),
    _row("scatter", "scatter+ scatter_add+ scatter_reduce+", NUMBERS, "all"),
    _row("embedding", "embedding", FREE, "all"),
    # over a dimension
    _row("total", "sum mean amax", LOCAL, "reduced"),
    _row("moment", "var std", mixes="reduced"),
    _row("two_moments", "var_mean std_mean", mixes="reduced"),
    _row("reduction", "nansum prod amin aminmax logsumexp count_nonzero any all", mixes="reduced"),
    _row("vector_norm", "norm linalg_vector_norm", mixes="reduced"),
    _row("extremum", "max min median nanmedian mode", mixes="reduced"),
    _row("extreme_position", "argmax argmin", mixes="reduced"),
    _row("rank", "kthvalue"),
    _row("ranking", "topk sort"),
    _row("histogram", "histc", mixes="all"),
    _row("running_sum", "cumsum+", mixes="all"),
    _row("running_product", "cumprod+", mixes="all"),
    _row("running_logsumexp", "logcumsumexp", mixes="all"),
    _row("running_maximum", "cummax", mixes="all"),
    _row("running_minimum", "cummin", mixes="all"),
    _row("distance", "_cdist_forward _euclidean_dist", mixes="all"),
    _row("loss", "mse_loss smooth_l1_loss huber_loss soft_margin_loss", mixes="all"),
    _row("loss", "binary_cross_entropy binary_cross_entropy_with_logits", mixes="all"),
    _row("observed_quantisation", ":fused_moving_avg_obs_fake_quant", mixes="all"),
    # in space
    _row("pool", "avg_pool1d max_pool1d_with_indices", space=1),
    _row("pool", "avg_pool2d max_pool2d_with_indices max_pool2d", space=2),
    _row("pool", "avg_pool3d max_pool3d_with_indices", space=3),
    _row("adaptive_pool", "adaptive_avg_pool1d", space=1),
    _row("adaptive_pool", "_adaptive_avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d", space=2),
    _row("adaptive_pool", "_adaptive_avg_pool3d adaptive_max_pool3d", space=3),
    _row("fractional_pool", "fractional_max_pool2d", space=2),
    _row("fractional_pool", "fractional_max_pool3d", space=3),
    _row("unpool", "max_unpool2d", space=2),
    _row("unpool", "max_unpool3d", space=3),
    _row("upsample", "upsample_nearest1d upsample_linear1d", ZEROS, space=1),
    _row("upsample", "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d", ZEROS, space=2),
    _row("upsample", "upsample_nearest3d upsample_trilinear3d", ZEROS, space=3),
    _row("exact_upsample", "_upsample_nearest_exact1d", ZEROS, space=1),
    _row("exact_upsample", "_upsample_nearest_exact2d", ZEROS, space=2),
    _row("exact_upsample", "_upsample_nearest_exact3d", ZEROS, space=3),
    _row("smooth_upsample", "_upsample_bilinear2d_aa _upsample_bicubic2d_aa _upsample_lanczos2d_aa", ZEROS, space=2),
    _row("mirror_pad", "reflection_pad1d replication_pad1d", space=1),
    _row("mirror_pad", "reflection_pad2d replication_pad2d", space=2),
    _row("mirror_pad", "reflection_pad3d replication_pad3d", space=3),
    _row("sampling", "grid_sampler_2d cudnn_grid_sampler", space=2),
    _row("sampling", "grid_sampler_3d", space=3),
)

ROWS: Mapping[str, Row] = {name: row for row in _TABLE for name in row.names}
"""Full name of an operator or function, such as "aten.relu" or "linear", to its row."""


def named(*families: str, space: int | None = None) -> tuple[str, ...]:
    """Names of the operators of some families, in order.

    Args:
        families: families in the table.
        space: number of spatial dimensions of the operators; None selects all.

    Raises:
        KeyError: the table has no such family.
    """
    found: list[str] = []
    for family in families:
        rows = [row for row in _TABLE if row.family == family]
        if not rows:
            raise KeyError(f"the table of operators has no family {family!r}")
        found += [name for row in rows if space in (None, row.space) for name in row.names]
    return tuple(found)


def having(trait: Trait) -> frozenset[str]:
    """Names of the operators that have a trait."""
    return frozenset(name for name, row in ROWS.items() if trait in row.traits)


def mixed_by(name: str) -> Mixes:
    """Dimensions along which an operator mixes positions; "nothing" for an operator without a row."""
    row = ROWS.get(name)
    return "nothing" if row is None else row.mixes


REDUCTIONS = named("total", "moment", "two_moments", "reduction")
"""Reductions over dimensions that are arguments."""

BATCH_NORMS = frozenset(named("batch_norm_function", "batch_norm", "batch_norm_variant"))
"""Every form of batch normalization."""
