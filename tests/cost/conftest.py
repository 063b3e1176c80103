"""Runtimes whose times are a formula."""

from __future__ import annotations

import pytest

from edakari.testing.formula_runtime import FormulaRuntime


@pytest.fixture
def fake() -> FormulaRuntime:
    return FormulaRuntime()


@pytest.fixture
def noisy() -> FormulaRuntime:
    return FormulaRuntime(noise=0.02, outliers=0.15)
