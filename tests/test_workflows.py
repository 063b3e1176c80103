"""The workflows of a public host call scripts of this repository, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if not path.suffix and path.is_file())


def name_of(path: Path) -> str:
    return path.name


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in WORKFLOWS:
        for name, job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].items():
            yield f"{path.name}: {name}", job


def commands() -> list[tuple[str, str]]:
    return [(where, step["run"]) for where, job in jobs() for step in job["steps"] if "run" in step]


def test_there_are_workflows() -> None:
    assert len(commands()) > 10


@pytest.mark.parametrize(("where", "command"), commands())
def test_commands_are_scripts_that_are_there_and_run(where: str, command: str) -> None:
    assert "\n" not in command.strip(), f"{where}: more than one line; put it into a script"
    script = ROOT / command.split()[0]
    assert script.parent == ROOT / "scripts", where
    assert os.access(script, os.X_OK), f"{where}: {script} is not executable"


def test_every_job_ends_by_itself_and_checks_out_first() -> None:
    for where, job in jobs():
        assert job["timeout-minutes"] <= 360, where
        assert job["steps"][0]["uses"].startswith("actions/checkout@"), where


def test_every_python_that_the_project_names_is_tested() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = re.findall(r"Programming Language :: Python :: (3\.\d+)", text)
    (tests,) = [job for where, job in jobs() if where == "tests.yml: tests"]
    assert tests["strategy"]["matrix"] == {"python": named, "versions": ["oldest", "newest"]}


def test_the_oldest_torch_is_the_floor() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for package in ("torch", "torchvision"):
        (floor,) = re.findall(rf'"{package}>=([\d.]+)"', text)
        assert f"\n{package}=={floor}.*\n" in (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_scripts_are_bash_that_parses_and_stops_at_errors(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n# ")
    assert "\nset -euo pipefail\n" in text
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    called = re.findall(r"\bscripts/[\w.-]+", text)
    assert not [name for name in called if not (ROOT / name).is_file()]


def test_issue_forms_and_workflows_are_yaml() -> None:
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert forms
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.name != "config.yml":
            assert {"name", "description", "body"} <= set(form), path.name
            assert all(
                part["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes") for part in form["body"]
            )
