"""Settings refuse what their annotations exclude, whoever makes them."""

from __future__ import annotations

import dataclasses as dc
import math
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from annotated_types import Ge
from hypothesis import given
from hypothesis import strategies as st

from edakari.core.budget import Budget
from edakari.core.method import registered
from edakari.core.protocols import Schedule
from edakari.core.settings import Count, Fraction, OpenFraction, Positive, PositiveFraction, Seed, Whole, settings
from edakari.errors import EdakariError, SettingsError
from edakari.latency.timing import RunSettings
from edakari.methods.score import ScorePruning
from edakari.pipeline import settings as run_settings
from edakari.tasks import DataSettings
from edakari.train import FitSettings


@settings
class Example:
    count: Count = 1
    whole: Whole = 0
    positive: Positive = 1.0
    least: Count | OpenFraction = 1
    name: Literal["alpha", "beta"] = "alpha"
    maybe: Annotated[int, Ge(2)] | None = None
    drops: tuple[PositiveFraction, ...] = ()
    pair: tuple[float, float] = (0.0, 1.0)
    flag: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.whole > 10 * self.count:
            raise SettingsError("whole must be at most ten times count")


@settings
class One:
    fraction: Fraction = 0.0


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("count", 0, "count must be at least 1, found 0"),
        ("count", 1.0, "count must be a whole number, found 1.0"),
        ("count", True, "count must be a whole number, found True"),
        ("count", "64", "count must be a whole number, found '64'"),
        ("count", None, "count must be a whole number, found None"),
        ("positive", math.inf, "positive must be a finite number, found inf"),
        ("positive", math.nan, "positive must be a finite number, found nan"),
        ("positive", 0, "positive must be above 0, found 0"),
        ("least", 0, "least must be at least 1 or above 0 and below 1, found 0"),
        ("least", 1.5, "least must be a whole number or above 0 and below 1, found 1.5"),
        ("name", "bta", r"name must be one of 'alpha', 'beta' \(did you mean 'beta'\?\), found 'bta'"),
        ("maybe", 1, "maybe must be at least 2 or None, found 1"),
        ("drops", (0.5, 0.0), "drops must be a tuple in which each is above 0 and at most 1"),
        ("drops", 0.5, "drops must be a tuple, found 0.5"),
        ("pair", (1.0,), "pair must be a tuple of 2"),
        ("flag", 1, "flag must be true or false, found 1"),
        ("seed", -1, "seed must be at least 0 and below 4294967296"),
        ("seed", 2**70, "seed must be at least 0 and below 4294967296"),
        ("whole", 11, "whole must be at most ten times count"),
    ],
)
def test_a_value_out_of_range_names_field_range_and_value(field: str, value: Any, wanted: str) -> None:
    with pytest.raises(SettingsError, match=wanted):
        Example(**{field: value})
    with pytest.raises(SettingsError, match=wanted):
        dc.replace(Example(), **{field: value})


def test_values_in_range_are_kept_as_they_are() -> None:
    made = Example(count=np.int64(3), positive=2, least=0.5, maybe=2, drops=(0.5, 1.0), flag=True)
    assert (made.count, made.positive, made.least, made.maybe) == (3, 2, 0.5, 2)
    assert Example(drops=[0.5, 1.0]) == Example(drops=(0.5, 1.0)), "a list stands for a tuple"
    with pytest.raises(dc.FrozenInstanceError):
        made.count = 2  # type: ignore[misc]


@given(st.floats(allow_nan=True, allow_infinity=True) | st.integers())
def test_a_fraction_lies_between_its_bounds(value: float) -> None:
    if 0 <= value <= 1:
        assert One(fraction=value).fraction == value
    else:
        with pytest.raises(SettingsError, match="fraction"):
            One(fraction=value)


SETTINGS = [
    Schedule,
    DataSettings,
    FitSettings,
    RunSettings,
    *(getattr(run_settings, name) for name in run_settings.__all__ if name.endswith("Settings")),
    *registered().values(),
]


NEEDED = {"method": ScorePruning(), "budget": Budget.parse("macs<=50%")}


@pytest.mark.parametrize("cls", SETTINGS, ids=lambda cls: cls.__name__)
def test_no_number_of_any_settings_may_be_infinite_or_of_another_type(cls: Any) -> None:
    made = cls(**NEEDED) if cls is run_settings.PruneSettings else cls()
    for name in [field.name for field in dc.fields(cls) if type(getattr(made, field.name)) in (int, float)]:
        for wrong in (math.nan, math.inf, "3"):
            with pytest.raises(EdakariError, match=name):
                dc.replace(made, **{name: wrong})


@pytest.mark.parametrize(
    "values", [{"epochs": -1}, {"lr": -3.0}, {"momentum": 7.0}, {"warmup": 5.0}, {"ema": 1.0}, {"drops": (math.nan,)}]
)
def test_schedules_are_checked_in_python_too(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))):
        Schedule(**values)
