"""Who may import whom, read from the imports themselves."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import edakari

ROOT = Path(edakari.__file__).parent
LEVELS = (
    {"errors"},
    {"core"},
    {"graph", "solve", "models"},
    {"cost", "criteria", "surgery", "train", "tasks"},
    {"export"},
    {"latency"},
    {"methods"},
    {"results"},
    {"report", "testing"},
    {"explain"},
    {"pipeline", "integrations"},
    {"sweeps"},
    {"cli"},
)
LEVEL = {folder: level for level, folders in enumerate(LEVELS) for folder in folders}
FILES = {
    ".".join(("edakari", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def imported(module: str, tree: ast.AST, *, at_load: bool) -> Iterator[str]:
    """Modules of edakari that a module imports; at load, those inside of functions and type checks do not count."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "edakari")
            case ast.ImportFrom():
                package = module.split(".") if FILES[module].name == "__init__.py" else module.split(".")[:-1]
                base = package[: len(package) - node.level + 1] if node.level else []
                source = ".".join((*base, *(node.module or "").split("."))).strip(".")
                if source.split(".")[0] == "edakari":
                    for alias in node.names:
                        yield f"{source}.{alias.name}" if f"{source}.{alias.name}" in FILES else source
            case ast.If(test=ast.Name(id="TYPE_CHECKING")) if at_load:
                continue
            case ast.FunctionDef() | ast.AsyncFunctionDef() if at_load:
                continue
            case _:
                yield from imported(module, node, at_load=at_load)


def folder(module: str) -> str:
    return [*module.split("."), ""][1]


def trees() -> dict[str, ast.Module]:
    return {module: ast.parse(path.read_text()) for module, path in FILES.items()}


def is_method(tree: ast.Module) -> bool:
    decorators = [line for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for line in node.decorator_list]
    return any(
        isinstance(d, ast.Call) and getattr(d.func, "id", getattr(d.func, "attr", "")) == "register" for d in decorators
    )


def test_imports_point_to_lower_levels_only() -> None:
    wrong = []
    for module, tree in trees().items():
        own = folder(module)
        if own in ("", "__main__"):
            continue
        for name in imported(module, tree, at_load=False):
            other = folder(name)
            if other and own != other and LEVEL.get(other, len(LEVELS)) >= LEVEL[own]:
                wrong.append(f"{module} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_every_folder_has_a_level() -> None:
    assert {folder(module) for module in FILES} - {"", "__main__"} <= set(LEVEL)


def test_methods_never_import_each_other() -> None:
    found = {m: tree for m, tree in trees().items() if folder(m) == "methods" and is_method(tree)}
    assert "edakari.methods.score" in found
    wrong = [
        f"{m} imports {name}" for m, tree in found.items() for name in imported(m, tree, at_load=False) if name in found
    ]
    assert not wrong, "\n".join(wrong)


def test_files_stay_short() -> None:
    assert {
        module: count for module, path in FILES.items() if (count := len(path.read_text().splitlines())) > 350
    } == {}


def test_there_is_no_cycle_of_imports() -> None:
    graph = {m: {n for n in imported(m, tree, at_load=True) if n in FILES and n != m} for m, tree in trees().items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"cycle: {' -> '.join((*path[path.index(module) :], module))}"
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_no_name_of_a_package_hides_one_of_its_modules() -> None:
    packages = {module: path for module, path in FILES.items() if path.name == "__init__.py"}
    hidden = []
    for package, path in packages.items():
        public = vars(importlib.import_module(package))
        names = {each.stem for each in path.parent.glob("*.py")} & set(public)
        hidden += [f"{package}.{name}" for name in names if not isinstance(public[name], ModuleType)]
    assert not hidden, "what the package calls so is found instead of the module"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import edakari.core.plan", ["edakari.core.plan"]),
        ("from edakari.core import plan", ["edakari.core.plan"]),
        ("from edakari.core.plan import Plan", ["edakari.core.plan"]),
        ("from .plan import Plan", ["edakari.core.plan"]),
        ("from ..errors import PlanError", ["edakari.errors"]),
        ("import numpy", []),
        ("def f():\n    import edakari.core.plan", []),
        ("if TYPE_CHECKING:\n    import edakari.core.plan", []),
        ("try:\n    import edakari.core.plan\nexcept ImportError: pass", ["edakari.core.plan"]),
    ],
)
def test_imports_are_read(text: str, names: list[str]) -> None:
    assert list(imported("edakari.core.budget", ast.parse(text), at_load=True)) == names
