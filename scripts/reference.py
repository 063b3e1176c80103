"""Writes what the documentation can take from the code, so that it cannot differ from it.

    python scripts/reference.py            # docs/reference/methods, the tables of recipe.md, tasks.md and sweeps.md
    python scripts/reference.py --check    # fails if a page is not what this script would write

A method has a page of its own, with a row for each field of its dataclass. The meaning of a field is what stands in the
docstring of its class under `Args`.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edakari.core.described import paragraphs, settings_of
from edakari.core.method import Method, registered
from edakari.core.plan import DropBranch, KeepTokens, MaskWeights
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
    rows = {name: settings_rows(cls) for name, cls in own.items()}
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
    return "\n".join([*lines, *(row for cls in classes for row in settings_rows(cls))])


def settings_rows(cls: type[Any]) -> list[str]:
    """The rows of a dataclass; those of a nested one follow the key that it stands under."""
    rows = []
    for setting in settings_of(cls):
        if not setting.meaning:
            raise ValueError(f"the docstring of {cls.__name__} does not explain {setting.key}")
        cells = (f"`{setting.key}`", setting.type, setting.default, setting.meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


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
