"""The schema of recipes, and the check that stops before anything is pruned."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from edakari.cli.main import app
from edakari.pipeline import recipe_from
from edakari.pipeline.schema import SCHEMA, recipe_schema

ROOT = Path(__file__).parents[2]
KINDS: Mapping[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def fits(value: Any, schema: Mapping[str, Any], whole: Mapping[str, Any] | None = None) -> bool:
    """Whether a value fits a schema of the words that `recipe_schema` uses, in the whole that holds it."""
    whole = schema if whole is None else whole
    if "$ref" in schema:
        schema = {**schema, **whole["$defs"][schema["$ref"].removeprefix("#/$defs/")]}
    if "anyOf" in schema and not any(fits(value, each, whole) for each in schema["anyOf"]):
        return False
    if ("enum" in schema and value not in schema["enum"]) or ("const" in schema and value != schema["const"]):
        return False
    kind = schema.get("type")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind in ("integer", "number"):
        if not number or (kind == "integer" and not isinstance(value, int)):
            return False
    elif kind is not None and not isinstance(value, KINDS[kind]):
        return False
    if number and not (
        value >= schema.get("minimum", value)
        and value <= schema.get("maximum", value)
        and ("exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"])
        and ("exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"])
    ):
        return False
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        return False
    if isinstance(value, list):
        return all(fits(each, schema.get("items", {}), whole) for each in value)
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        more = schema.get("additionalProperties", True)
        known, others = more or set(value) <= set(properties), more if isinstance(more, dict) else {}
        return (
            known
            and set(schema.get("required", ())) <= set(value)
            and all(fits(each, properties.get(key, others), whole) for key, each in value.items())
        )
    return True


@pytest.fixture(scope="module")
def schema() -> Any:
    return json.loads(json.dumps(recipe_schema()))


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda path: path.name)
def test_recipes_that_ship_fit_the_schema(path: Path, schema: Any) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert fits(content, schema)
    assert fits(json.loads(json.dumps(recipe_from(content).content)), schema)


MINIMAL = {"model": "edakari:fashion_cnn", "method": "magnitude", "budget": "macs<=50%"}


@pytest.mark.parametrize(
    ("change", "right"),
    [
        ({}, True),
        ({"method": {"name": "taylor", "criterion": {"max_batches": 3}}}, True),
        ({"method": {"name": "score", "criterion": {"name": "mine.py:Own", "power": 3}}}, True),
        ({"method": {"name": "score", "criterion": {"name": "taylor", "max_batches": 0}}}, False),
        ({"method": {"name": "score", "criterion": "taylr"}}, False),
        ({"method": {"name": "sensitivity", "criterion": {"ranking": {"name": "taylor"}}}}, True),
        ({"method": {"name": "score", "criterion": {"name": "sensitivity", "ranking": "taylor"}}}, True),
        ({"method": {"name": "score", "criterion": {"name": "sensitivity", "ranking": "taylr"}}}, False),
        ({"method": "magnitud"}, False),
        ({"data": {"batch_size": 0}}, False),
        ({"data": {"batchsize": 3}}, False),
        ({"finetune": {"lr": 0}}, False),
        ({"export": ["onnx", "mine.py:shapes"]}, True),
        ({"export": ["onxn"]}, False),
        ({"unknown": 3}, False),
    ],
)
def test_the_schema_says_what_the_reader_says(change: dict[str, Any], right: bool, schema: Any) -> None:
    assert fits({**MINIMAL, **change}, schema) is right


def test_a_recipe_is_written_checked_and_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["init", "mine.yaml"]).exit_code == 0
    text = (tmp_path / "mine.yaml").read_text(encoding="utf-8")
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA}\n")
    assert fits(yaml.safe_load(text), json.loads((tmp_path / SCHEMA).read_text(encoding="utf-8")))
    assert CliRunner().invoke(app, ["init", "mine.yaml"]).exit_code == 1
    few = ["--set", "data.max_images=64", "--set", "data.batch_size=16", "--set", "data.workers=0"]
    found = CliRunner().invoke(app, ["prune", "mine.yaml", "--check", *few])
    assert found.exit_code == 0, found.output
    assert "11.4 M MACs to 5.7 M" in found.output
    assert "fine-tuning: about" in found.output
    assert not (tmp_path / "runs").exists()
    low = CliRunner().invoke(app, ["prune", "mine.yaml", "--check", *few, "--set", "budget=macs<=0.01%"])
    assert low.exit_code == 1
    assert "macs" in low.stderr
