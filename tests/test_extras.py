"""The core installs light: without the extras it works, and what needs one says so."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import edakari
from edakari.core.optional import DISTRIBUTIONS, EXTRAS, missing_packages, needs, require_packages
from edakari.errors import EdakariError, MissingPackage

ROOT = Path(__file__).parents[1]
PACKAGE = Path(edakari.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def name_of(requirement: str) -> str:
    return re.split(r"[<>=\[ ]", requirement)[0]


def test_extras_are_what_the_project_declares() -> None:
    for extra, packages in EXTRAS.items():
        declared = {name_of(line) for line in PROJECT["optional-dependencies"][extra]}
        assert declared == {DISTRIBUTIONS.get(name, name) for name in packages}, extra


def test_everything_that_is_imported_is_declared() -> None:
    declared = {name_of(line).replace("-", "_") for line in PROJECT["dependencies"]}
    known = (
        declared | {name for packages in EXTRAS.values() for name in packages} | {"edakari", *sys.stdlib_module_names}
    )
    known.add("ultralytics")  # its licence is AGPL-3.0, so that nothing here may install it
    unknown = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            unknown |= {(path.name, name) for name in names if name.split(".")[0] not in known}
    assert not unknown


@pytest.fixture(scope="module")
def without_extras() -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("core_only.py"))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    answer: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return answer


def test_the_core_works_without_the_extras(without_extras: dict[str, Any]) -> None:
    core_has = {"jinja2", "markupsafe", "filelock"}  # torch needs them
    assert {name for packages in EXTRAS.values() for name in packages} - set(without_extras["hidden"]) <= core_has | {
        "nncf",
        "openvino",
        "lightning",
        "transformers",
        "tensorboard",
        "wandb",
        "mlflow",
    }


def imported_by(code: str) -> set[str]:
    """The packages that a fresh process has imported after some code."""
    script = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return set(found.stdout.splitlines()[-1].split())


def test_the_package_and_its_command_line_do_without_torch() -> None:
    for code in ("import edakari", "import edakari.cli.main"):
        assert "torch" not in imported_by(code), code


def test_optional_packages_are_imported_when_they_are_needed() -> None:
    found = imported_by(
        "import edakari.methods, edakari.tasks, edakari.train, edakari.surgery, edakari.export, edakari.testing, "
        "edakari.pipeline, edakari.explain"
    )
    assert not found & {name for packages in EXTRAS.values() for name in packages}


def test_what_needs_an_extra_says_so(without_extras: dict[str, Any]) -> None:
    assert len(without_extras["answers"]) > 8
    for name, (extra, said) in without_extras["answers"].items():
        assert re.match(r"(MissingPackage|MeasurementError|RecipeError|SystemExit): ", said), (name, said)
        assert "installed; install with:" in said, (name, said)
        assert f'pip install "edakari[{extra}]"' in said, (name, said)


def test_a_missing_package_is_an_error_of_ours_and_an_import_error() -> None:
    with pytest.raises(
        MissingPackage, match=r'drawing needs nowhere, which is not installed; .*"edakari\[x\]"'
    ) as found:
        _import_with({"x": ("nowhere",)}, "import nowhere.inside")
    assert isinstance(found.value, EdakariError)
    assert isinstance(found.value, ModuleNotFoundError)
    assert found.value.name == "nowhere"


def test_other_errors_of_an_import_go_through() -> None:
    # a package that is broken is not a package that is missing
    with pytest.raises(ModuleNotFoundError, match="elsewhere"):
        _import_with({"x": ("nowhere",)}, "import elsewhere")
    with pytest.raises(ZeroDivisionError):
        _import_with({"x": ("nowhere",)}, "1 / 0")


def _import_with(extras: dict[str, tuple[str, ...]], code: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edakari.core.optional.EXTRAS", extras)
        with needs("x", "drawing"):
            exec(code)


def test_packages_are_looked_for_without_importing_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_packages("json", "nowhere", "elsewhere") == ["nowhere", "elsewhere"]
    monkeypatch.setattr("edakari.core.optional.EXTRAS", {"x": ("json", "nowhere", "PIL.nowhere")})
    with pytest.raises(MissingPackage, match=r"drawing needs nowhere, PIL.nowhere, which are not installed"):
        require_packages("x", "drawing")
    require_packages("x", "drawing", "json")
