"""Which groups may be sized, and to what."""

from __future__ import annotations

import pytest
import torch

from edakari.core.choosing import Groups, choose
from edakari.core.space import legal_sizes
from edakari.errors import SettingsError
from edakari.graph import trace
from edakari.testing import toy_cnn

GRAPH = trace(toy_cnn(), torch.zeros(1, 3, 16, 16))
SIZES = {group.name: group.size for group in GRAPH.groups}


def test_patterns_are_met_by_groups_and_by_modules_whose_width_they_are() -> None:
    stream = next(m.tensor for m in GRAPH.members("stem.0") if m.tensor.startswith("second."))
    assert stream, "the stem and the second convolution share a width"
    for pattern in ("stem.0", "second.0", "second*"):
        assert [group.name for group in choose(GRAPH, Groups(include=(pattern,))).every] == ["stem.0"]
        assert "stem.0" not in [group.name for group in choose(GRAPH, Groups(exclude=(pattern,))).every]


@pytest.mark.parametrize("width", ["75%", 0.75, "1%", 1, 5, "50 %", "100%", 12, "33.3%"])
@pytest.mark.parametrize("round_to", [1, 8])
def test_a_width_becomes_the_nearest_legal_size(width: str | float, round_to: int) -> None:
    chosen = choose(GRAPH, Groups(round_to=round_to, widths={"*": width}))
    assert chosen.free == ()
    assert chosen.fixed.keys() == SIZES.keys()
    for group in chosen.every:
        share = float(width.strip("% ")) / 100 if isinstance(width, str) else width
        wanted = share if type(width) is int else share * group.size
        off = {abs(size - wanted): size for size in legal_sizes(group)}
        assert chosen.fixed[group.name] == off[min(off)]


def test_the_last_pattern_counts_whatever_include_and_exclude_say() -> None:
    groups = Groups(exclude=("first.0",), include=("expand.0",), widths={"[flrs]*t*.0": "50%", "first.0": 7})
    chosen = choose(GRAPH, groups)
    assert chosen.fixed == {"first.0": 7, "stem.0": 8, "left.0": 6, "right.0": 10}
    assert [group.name for group in chosen.free] == ["expand.0"]


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"widths": {"stem.0": 17}}, "which has only 16"),
        ({"widths": {"sten.0": 8}}, "did you mean 'stem.0'"),
        ({"include": ("layer4.*",)}, "groups.include: 'layer4.*'"),
        ({"widths": {"stem.0": "eight"}}, "'75%', found 'eight'"),
        ({"widths": {"stem.0": 0}}, "found 0"),
        ({"widths": {"stem.0": "120%"}}, "found '120%'"),
        ({"widths": {"stem.0": True}}, "found True"),
        ({"widths": {"stem.0": None}}, "found None"),
        ({"widths": [("stem.0", 8)]}, "map patterns to sizes"),
    ],
)
def test_what_cannot_be_is_told(settings: dict, found: str) -> None:
    with pytest.raises(SettingsError, match=found.replace("*", r"\*")):
        choose(GRAPH, Groups(**settings))
