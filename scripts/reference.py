"""Writes what the documentation can take from the code, so that it cannot differ from it.

    python scripts/reference.py            # docs/reference/methods, the tables of recipe.md, tasks.md and sweeps.md
    python scripts/reference.py --check    # fails if a page is not what this script would write

A method has a page of its own, with a row for each field of its dataclass. The meaning of a field is what stands in the
docstring of its class under `Args`.
"""

from __future__ import annotations

import argparse
import dataclasses as dc
import importlib
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from annotated_types import Ge, Gt, Interval, Le, Lt

from edakari.core.method import Method, registered
from edakari.core.plan import DropBranch, KeepTokens, MaskWeights
from edakari.core.registry import Registry
from edakari.core.settings import dataclass_of, holds_part, registry_of
from edakari.criteria import CRITERIA
from edakari.sweeps.settings import SweepSettings

ROOT = Path(__file__).resolve().parents[1]
OWN = ("edakari.criteria.", "edakari.methods.")
"""Where criteria of edakari are, in contrast to those that a program registers."""
METHODS = Path("docs/reference/methods")
RECIPE = Path("docs/reference/recipe.md")
TASK_PAGE = Path("docs/reference/tasks.md")
SWEEPS = Path("docs/how-to/sweeps.md")
NOTE = "<!-- scripts/reference.py writes this page. -->"
BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
ENDLESS = 1e37
"""Bounds above it are those of number formats, of no interest to a reader."""
WORDS: Mapping[Any, str] = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}

PLURALS: Mapping[Any, str] = {int: "integers", float: "numbers", str: "texts"}

EXPLAINED: Mapping[str, tuple[str, ...]] = {
    "soft-masks": ("smcp", "halp"),
    "ekg": ("ekg",),
    "isp": ("isp",),
    "gate-search": ("gate_search",),
    "supertickets": ("supertickets",),
    "rfc": ("rfc", "dlrfc"),
    "gradual-masks": ("gradual_magnitude",),
    "tokens": ("spvit", "dynamicvit", "evit", "tome", "random_tokens"),
}
"""Pages in docs/explanation, and the methods that each of them explains."""


def pages() -> dict[Path, str]:
    """Every page that this script writes, by its path below the root."""
    importlib.import_module("edakari.methods")
    methods = {name: cls for name, cls in registered().items() if cls.__module__.startswith("edakari.methods")}
    criteria: dict[str, Any] = {n: cls for n, cls in CRITERIA.items() if cls.__module__.startswith(OWN)}
    return {
        **{METHODS / f"{name}.md": method_page(name, cls) for name, cls in methods.items()},
        **{METHODS / f"{name}.md": criterion_page(name, cls) for name, cls in criteria.items()},
        METHODS / "index.md": method_index(methods, criteria),
        RECIPE: with_tables(RECIPE, recipe_tables()),
        TASK_PAGE: with_tables(TASK_PAGE, task_tables()),
        SWEEPS: with_tables(SWEEPS, {"sweep": settings_table([SweepSettings])}),
    }


def method_page(name: str, cls: type[Method]) -> str:
    """The page of one method: what it does, its paper, a recipe, its settings."""
    summary, *more = paragraphs(cls)
    transformer = KeepTokens in cls.emits
    model = "fashion_vit" if transformer else "fashion_cnn"
    removes = "tokens" if transformer else "channels, heads and widths"
    removes = "single weights" if cls.emits == {MaskWeights} else removes
    budget = "sparsity>=90%" if cls.emits == {MaskWeights} else "macs<=50%"
    removes += "; whole residual branches, if asked" if DropBranch in cls.emits else ""
    if MaskWeights in cls.emits and len(cls.emits) > 1:
        removes, budget = f"{removes}; single weights", "macs<=40%, sparsity>=90%"
    explained = next((page for page, names in EXPLAINED.items() if name in names), None)
    facts = [f"- Paper: {cls.paper[0].upper()}{cls.paper[1:]}.", f"- Removes: {removes}."]
    facts += [f"- Explained in [{title_of(explained)}](../../explanation/{explained}.md)."] if explained else []
    return "\n".join(
        [
            *(f"# {name}", "", NOTE, "", summary, "", *(line for text in more for line in (text, ""))),
            *(*facts, "", "```yaml"),
            f'model: {{name: "edakari:{model}", weights: pretrained}}',
            *(f"method: {name}", f"budget: {budget}", "```", "", "## Settings", ""),
            f"Keys of `method` in a recipe, and fields of `{cls.__module__}.{cls.__name__}`.",
            *("", settings_table([cls]), ""),
        ]
    )


def criterion_page(name: str, cls: type[Any]) -> str:
    """The page of one criterion, whose name is short for `score` with it."""
    summary, *more = paragraphs(cls)
    explained = next((page for page, names in EXPLAINED.items() if name in names), None)
    facts = [f"- Paper: {cls.paper}.", f"- `method: {name}` is short for `method: {{name: score, criterion: {name}}}`."]
    facts += [f"- Explained in [{title_of(explained)}](../../explanation/{explained}.md)."] if explained else []
    return "\n".join(
        [
            *(f"# {name}", "", NOTE, "", f"A criterion for [`score`](score.md). {summary}", ""),
            *(line for text in more for line in (text, "")),
            *(*facts, "", "```yaml"),
            'model: {name: "edakari:fashion_cnn", weights: pretrained}',
            *(f"method: {name}", "budget: macs<=50%", "```", "", "## Settings", ""),
            f"Keys of `method.criterion` in a recipe, and fields of `{cls.__module__}.{cls.__name__}`. The keys of",
            "`method` itself are those of [`score`](score.md).",
            *("", settings_table([cls]), ""),
        ]
    )


def title_of(page: str) -> str:
    """The title of a page in docs/explanation."""
    first = (ROOT / "docs" / "explanation" / f"{page}.md").read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ")


def method_index(methods: Mapping[str, type[Method]], criteria: Mapping[str, Any]) -> str:
    """The list of all methods, and of the criteria whose names are short for one."""
    lines = [f"| [`{name}`]({name}.md) | {paragraphs(cls)[0]} | {cls.paper} |" for name, cls in methods.items()]
    head = [
        *("# Methods and their settings", "", NOTE, ""),
        "[Choose a method](../../how-to/choose-a-method.md) compares them; `edakari methods` prints this list.",
        *("", "| method | what it does | paper |", "|---|---|---|"),
    ]
    criteria_lines = [f"| [`{n}`]({n}.md) | {paragraphs(cls)[0]} | {cls.paper} |" for n, cls in criteria.items()]
    more = ["", "The name of a criterion is short for [`score`](score.md) with it:", ""]
    more += ["| criterion | scores a channel by | paper |", "|---|---|---|"]
    return "\n".join([*head, *lines, *more, *criteria_lines, ""])


def recipe_tables() -> dict[str, str]:
    """The tables of the recipe's sections by name."""
    from edakari.core import curves
    from edakari.core.choosing import Groups
    from edakari.core.protocols import Schedule
    from edakari.latency.options import RuntimeOptions
    from edakari.models import ModelSpec
    from edakari.pipeline import settings as sections
    from edakari.pipeline.latency_settings import LatencySettings
    from edakari.tasks import DataSettings

    classes: Mapping[str, Sequence[type[Any]]] = {
        "model": [ModelSpec],
        "transfer": [sections.TransferSettings],
        "data": [DataSettings],
        "latency": [LatencySettings, RuntimeOptions],
        "groups": [Groups],
        "train": [Schedule],
        "warmup": [curves.WarmedUp],
        "cosine": [curves.Cosine],
        "exponential": [curves.Exponential],
        "steps": [curves.Steps],
        "one_cycle": [curves.OneCycle],
        "finetune": [sections.FinetuneSettings],
        "bank": [sections.BankSettings],
        "distill": [sections.DistillSettings],
        "measure": [sections.MeasureSettings],
        "quantize": [sections.QuantizeSettings],
    }
    return {name: settings_table(found) for name, found in classes.items()}


def task_tables() -> dict[str, str]:
    """The tables of the settings of tasks; a task without settings has none."""
    from edakari.tasks import TASKS
    from edakari.tasks.objects import ObjectSettings

    classes: dict[str, type[Any]] = {"objects": ObjectSettings, **{name: TASKS[name] for name in TASKS.names()}}
    own = {name: cls for name, cls in classes.items() if cls.__module__.startswith("edakari.tasks")}
    rows = {name: settings_rows(cls, cls) for name, cls in own.items()}
    return {f"task_{name}": settings_table([own[name]]) for name, found in rows.items() if found}


def with_tables(page: Path, tables: Mapping[str, str]) -> str:
    """The text of a page with every table between its marks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, table in tables.items():
        begin, end = f"<!-- settings:{name}:begin -->", f"<!-- settings:{name}:end -->"
        head, found, rest = text.partition(begin)
        if not found or end not in rest:
            raise ValueError(f"{page} needs {begin} and then {end}")
        text = f"{head}{begin}\n{table}\n{end}{rest.partition(end)[2]}"
    return text


def settings_table(classes: Sequence[type[Any]]) -> str:
    """A row for each field: key, type, default, meaning."""
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join([*lines, *(row for cls in classes for row in settings_rows(cls, cls))])


def settings_rows(cls: type[Any], made: Any, prefix: str = "") -> list[str]:
    """The rows of a dataclass; those of a nested one follow the key that it stands under.

    Args:
        cls: the dataclass.
        made: what has the defaults: the class, or an instance.
        prefix: dotted keys above.
    """
    hints, meanings, rows = typing.get_type_hints(cls, include_extras=True), arguments(cls), []
    inherited = {field.name for base in cls.__mro__[1:] if dc.is_dataclass(base) for field in dc.fields(base)}
    for field in dc.fields(cls):
        if field.name in inherited:
            continue
        hint, key = hints[field.name], f"{prefix}{field.name}"
        if field.name not in meanings:
            raise ValueError(f"the docstring of {cls.__name__} does not explain {field.name}")
        default = field if isinstance(made, type) else getattr(made, field.name)
        cells = (f"`{key}`", type_words(hint), default_of(default, hint), meanings[field.name])
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        nested = default.default if isinstance(default, dc.Field) else default
        if dataclass_of(hint) is not None and dc.is_dataclass(nested):
            rows += settings_rows(dataclass_of(hint), nested, f"{key}.")
    return rows


def paragraphs(cls: type[Any]) -> list[str]:
    """The paragraphs of a class's docstring before its arguments, each on one line."""
    text = (inspect.getdoc(cls) or "").partition("\nArgs:")[0]
    return [" ".join(part.split()) for part in text.strip().split("\n\n")]


def arguments(cls: type[Any]) -> dict[str, str]:
    """What the docstrings of a class and its bases say under `Args`, as sentences."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        text = inspect.cleandoc(each.__doc__ or "").partition("\nArgs:\n")[2]
        body = textwrap.dedent(re.split(r"^\S", text, maxsplit=1, flags=re.MULTILINE)[0])
        for name, meaning in re.findall(r"^(\w+): (.*(?:\n\s+.*)*)", body, flags=re.MULTILINE):
            sentence = re.sub(r"\bNone\b", "null", " ".join(meaning.split()).rstrip("."))
            found[name] = f"{sentence[0].upper()}{sentence[1:]}."
    return found


def type_words(hint: Any) -> str:
    """A type in words, with its range."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    named = registry_of(hint)
    if named is not None:
        return part_words(named, holds_part(hint))
    if origin is Annotated:
        bounds = ", ".join(words for each in parts[1:] for words in bound_words(each))
        return f"{type_words(parts[0])} ({bounds})" if bounds else type_words(parts[0])
    if origin is Literal:
        return ", ".join("null" if part is None else f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(type_words(part) for part in sorted(parts, key=lambda part: part is type(None)))
    if origin in (tuple, list) or str(origin).endswith("Sequence'>"):
        one = type_words(parts[0])
        return f"list of {one.replace(WORDS[base], PLURALS[base], 1) if (base := bare(parts[0])) in PLURALS else one}"
    if any(isinstance(each, type) and issubclass(each, Mapping) for each in (hint, origin)):
        return "mapping"
    if hint in WORDS:
        return WORDS[hint]
    if isinstance(hint, type) and dc.is_dataclass(hint):
        return "section"
    return getattr(hint, "__name__", str(hint))


def part_words(named: Registry[Any], made: bool) -> str:
    """What may stand where something of a registry is named."""
    names = ", ".join(f"`{name}`" for name in named)
    return f"{names}, or `file.py:NAME`; or a mapping of `name` and settings" if made else f"{names}, or `file.py:NAME`"


def bare(hint: Any) -> Any:
    """A type without its range."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def bound_words(bound: Any) -> list[str]:
    """A range in words."""
    if not isinstance(bound, Ge | Gt | Le | Lt | Interval):
        return []
    limits = {key: getattr(bound, key, None) for key in BOUNDS}
    return [f"{BOUNDS[key]} {limit:.12g}" for key, limit in limits.items() if limit is not None and limit < ENDLESS]


def default_of(value: Any, hint: Any) -> str:
    """A default, or that of a field, as YAML would say it."""
    if isinstance(value, dc.Field):
        value = value.default if value.default_factory is dc.MISSING else value.default_factory()
    named = registry_of(hint)
    if named is not None and holds_part(hint) and value is not None:
        return f"`{value if isinstance(value, str) else named.name_of(value)}`"
    return "needed" if value is dc.MISSING else f"`{yaml_words(value)}`"


def yaml_words(value: Any) -> str:
    """A value as YAML would say it on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(yaml_words(each) for each in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {yaml_words(each)}' for key, each in value.items())}}}"
    if dc.is_dataclass(value):
        return "{}"
    return str(value)


def main() -> None:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page would change")
    check = parser.parse_args().check
    written = pages()
    stale = [path for path, text in written.items() if not (ROOT / path).is_file() or text != (ROOT / path).read_text()]
    gone = [path.relative_to(ROOT) for path in (ROOT / METHODS).glob("*.md") if path.relative_to(ROOT) not in written]
    if check and (stale or gone):
        raise SystemExit(f"run python scripts/reference.py: {', '.join(map(str, [*stale, *gone]))}")
    for path in [] if check else stale:
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(written[path], encoding="utf-8")
    for path in [] if check else gone:
        (ROOT / path).unlink()


if __name__ == "__main__":
    main()
