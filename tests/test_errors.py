"""What edakari raises on purpose is an error of its own; a bad value is a `ValueError` too."""

from __future__ import annotations

import ast
import builtins
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import edakari
from edakari import errors
from edakari.errors import EdakariError, SettingsError, WrongArgument
from edakari.testing import ToyTask
from edakari.train import distillation
from edakari.train.checkpoint import pack

PACKAGE = Path(edakari.__file__).parent
BUILTIN = {
    name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
}
INSIDE = {
    "core/copier.py": {"NotImplementedError"},  # caught there: another way to copy is tried
    "core/edits.py": {"TypeError", "ValueError"},  # caught in plan.py: a PlanError says it
    "export/infer.py": {"SystemExit"},  # a script of its own, beside exported files
    "core/file_errors.py": {"OSError"},  # what Python itself raises
    "core/plan.py": {"TypeError"},  # caught there: a PlanError says it
    "graph/operators.py": {"KeyError"},  # a slip in edakari itself, when it is imported
    "tasks/sources/converting.py": {"TypeError"},  # caught there: a DataError says it
    "tasks/sources/examples.py": {"IndexError"},  # the end of plain iteration
    "tasks/sources/yolo.py": {"ValueError"},  # caught there: a broken annotation, treated by the policy
    "graph/dropped.py": {"TypeError"},  # of a module in the network, in the words of its forward
    "report/stage_files.py": {"ValueError"},  # caught there: a RunFolderError says it
    "surgery/structure.py": {"ValueError"},  # caught there: a RunFolderError says it
    "train/loop.py": {"KeyboardInterrupt"},
    "train/scope.py": {"KeyboardInterrupt"},
}


def raised(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # it has to raise AttributeError
    rest = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and node.name == "__getattr__")]
    for node in (each for part in rest for each in ast.walk(part)):
        if isinstance(node, ast.Raise) and node.exc is not None:
            call = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if isinstance(call, ast.Name) and call.id in BUILTIN:
                yield call.id


def test_errors_for_users_are_errors_of_ours() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith("testing/"):  # suites fail by assertions
            found += [(name, kind) for kind in raised(path) if kind not in INSIDE.get(name, ())]
    assert not found, "raise an error of edakari.errors, or say in INSIDE who catches it"


def test_every_error_has_the_root_and_bad_values_are_value_errors() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)]
    for kind in kinds:
        assert issubclass(kind, EdakariError | Warning), kind
    values = {kind.__name__ for kind in kinds if issubclass(kind, ValueError)}
    assert values == {
        "BudgetError",
        "InfeasibleBudget",
        "PlanError",
        "RecipeError",
        "SettingsError",
        "UnknownName",
    }


@pytest.mark.parametrize(("weight", "temperature"), [(-0.1, 1.0), (1.1, 1.0), (0.5, 0.0)])
def test_distillation_refuses_what_it_cannot_weigh(weight: float, temperature: float) -> None:
    with pytest.raises(SettingsError, match="weight must lie in 0 to 1 and temperature above 0, found"):
        distillation(ToyTask(), nn.Linear(1, 1), weight, temperature)


def test_a_state_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(WrongArgument, match=r"state 'state\.a\.0' is a object"):
        pack({"a": [object()]})
    assert pack({"a": torch.zeros(1)})[1]["state.a"].shape == (1,)


def test_generic_handlers_catch_a_bad_value() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in (
            lambda: edakari.Budget.parse("macs<=potato"),
            lambda: edakari.Plan.from_json("{}"),
            lambda: edakari.build("edakari:nothing"),
        ):
            with pytest.raises(ValueError) as found:  # noqa: PT011
                call()
            assert isinstance(found.value, EdakariError)
