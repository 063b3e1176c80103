"""Whether the tests notice: each mutant changes one line of a copy of the package, and its tests must fail.

    python benchmarks/mutants.py --output benchmarks/results/mutants.json
    python benchmarks/mutants.py rounds greedy

A mutant is a line whose meaning is promised in a docstring or a specification, and a wrong version of it. A run tells
which mutants survive, and goes on where an earlier one stopped; a mutant whose line is no longer there is an error.
"""

from __future__ import annotations

import argparse
import dataclasses as dc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from core import environment
from records import write_record

ROOT = Path(__file__).resolve().parents[1]


@dc.dataclass(frozen=True)
class Mutant:
    """One line of the package, a wrong version of it, and the tests that must fail.

    Args:
        file: below `edakari/`.
        line: as it is; once in the file.
        wrong: in its place.
        tests: below `tests/`; a file, or a file and what to select in it.
    """

    file: str
    line: str
    wrong: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant("core/space.py", "else max(group.least, 1)", "else group.least", ("core/test_space.py",)),
    Mutant(
        "core/plan.py",
        "method=later.method or self.method",
        "method=self.method or later.method",
        ("core/test_plan.py",),
    ),
    Mutant("solve/threshold.py", 'side="left"', 'side="right"', ("solve/test_allocators.py",)),
    Mutant("solve/greedy.py", "math.ceil(size * rate - ROUNDING)", "math.ceil(size * rate)", ("solve/test_greedy.py",)),
    Mutant(
        "run/rounds.py",
        "return math.sqrt(slow * quick) if bracketed and (known or not slow < right < quick) else right",
        "return right",
        ("run/test_rounds.py",),
    ),
    Mutant("tasks/splits.py", "(np.arange(size) + 0.5) / size", "np.arange(size) / size", ("tasks/test_splits.py",)),
    Mutant(
        "tasks/splits.py",
        "max(1, round(len(train.labels) * settings.val_share))",
        "round(len(train.labels) * settings.val_share)",
        ("tasks/test_splits.py",),
    ),
    Mutant("cost/counts.py", "(then**power - now**power)", "(then - now)", ("cost/test_counts.py", "walk")),
    Mutant(
        "cost/counts.py",
        "here, along = (here + slope) * now, (along + slope) * every",
        "here, along = here + slope * now, along + slope * every",
        ("cost/test_counts.py", "walk"),
    ),
    Mutant(
        "cost/measure.py",
        "float(np.median(ratios)),",
        "float(np.median(times) / np.median(np.concatenate(first))),",
        ("cost/test_measure.py", "ratio"),
    ),
    Mutant("report/rows.py", "reads and writes and len(dims) == 1", "reads and writes", ("report/test_structure.py",)),
    Mutant(
        "report/rows.py",
        "if reads != writes and len(found) < len(inside) else ()",
        "if reads != writes else ()",
        ("report/test_structure.py",),
    ),
    Mutant(
        "report/rows.py",
        "if reads != writes and len(found) < len(inside) else ()",
        "if len(found) < len(inside) else ()",
        ("report/test_structure.py",),
    ),
    Mutant(
        "methods/isp.py",
        '"interpretation": self.interpretation * steady,',
        '"interpretation": self.interpretation * steady.detach(),',
        ("methods/test_isp.py", "every_term"),
    ),
    Mutant(
        "methods/isp.py",
        "self.cost_weight * cost_penalty(limits, groups, sizes),",
        "self.cost_weight * cost_penalty(limits, groups, sizes.detach()),",
        ("methods/test_isp.py", "every_term"),
    ),
    Mutant(
        "methods/isp.py",
        "self.interpretation * distance",
        "self.interpretation * distance.detach()",
        ("methods/test_isp.py", "every_term"),
    ),
    Mutant(
        "methods/saliency/explaining.py",
        "images * relaxed_sample(masks, settings.temperature, settings.hard)",
        "images * masks",
        ("methods/test_isp.py", "predictor_learns"),
    ),
    Mutant(
        "methods/saliency/explaining.py",
        "terms_of(network, batch, lambda mask: relaxed_sample(mask, settings.temperature, settings.hard))",
        "terms_of(network, batch, lambda mask: mask)",
        ("methods/test_isp.py", "judged_on_samples"),
    ),
    Mutant(
        "methods/saliency/explaining.py",
        '{"divergence": divergence(aim, model(masked(images)))}',
        '{"divergence": divergence(model(masked(images)), aim)}',
        ("methods/test_isp.py", "predictor_learns"),
    ),
    Mutant(
        "methods/redundancy/trials.py",
        "kappa = self.settings.residual_weight if all(name in self.blocks for name in sizes) else 1.0",
        "kappa = 1.0",
        ("methods/test_rfc.py", "stream_may_lose"),
    ),
    Mutant(
        "methods/redundancy/trials.py",
        "self._scores, self._reference, self._changes = None, None, {}",
        "self._scores, self._changes = None, {}",
        ("methods/test_rfc.py", "after_a_cut"),
    ),
    Mutant(
        "methods/redundancy/steps.py",
        "if blocks and removed >= 1 else",
        "if blocks else",
        ("methods/test_rfc.py", "legal_and_end"),
    ),
    Mutant(
        "methods/redundancy/paired.py",
        "(labels >= 0) & (labels < classes) if",
        "(labels >= 0) if",
        ("methods/test_rfc_loop.py", "without_a_label"),
    ),
    Mutant(
        "methods/ekg.py",
        "warmup_lr: LearningRate = 0.002",
        "warmup_lr: LearningRate = 0.001",
        ("methods/test_ekg_search.py", "authors_steps"),
    ),
    Mutant(
        "methods/redundancy/trials.py",
        "self._cut(passing, figures)",
        "self._cut(passing, figures)\n                step = phase.step",
        ("methods/test_rfc.py", "halved_step"),
    ),
)


def survives(mutant: Mutant) -> bool:
    """Whether the mutant's tests pass.

    Raises:
        SystemExit: the line is not there once, or the tests do not pass without the mutant.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("edakari", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        target = copy / "edakari" / mutant.file
        text = target.read_text(encoding="utf-8")
        if text.count(mutant.line) != 1:
            raise SystemExit(f"{mutant.file} has {text.count(mutant.line)} times {mutant.line!r}; once is needed")
        if not passes(copy, mutant.tests):
            raise SystemExit(f"tests/{mutant.tests[0]} fails without any mutant")
        target.write_text(text.replace(mutant.line, mutant.wrong), encoding="utf-8")
        return passes(copy, mutant.tests)


def passes(folder: Path, tests: tuple[str, ...]) -> bool:
    """Whether tests pass in a folder."""
    select = ["-k", tests[1]] if len(tests) > 1 else []
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{tests[0]}", *select]
    where = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "CI": "true"}
    try:
        found = subprocess.run(command, cwd=folder, env=where, capture_output=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:  # such as a loop that no longer ends
        return False
    if found.returncode not in (0, 1):
        raise SystemExit(found.stdout.decode() + found.stderr.decode())
    return found.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts of file names; all mutants if none is given")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    results = {"mutants": {}}
    if arguments.output and arguments.output.exists():
        results = json.loads(arguments.output.read_text(encoding="utf-8"))
    results["environment"] = environment(["python", *sys.argv])
    for mutant in MUTANTS:
        key = f"{mutant.file}: {mutant.wrong}"
        if key in results["mutants"] or (arguments.names and not any(name in mutant.file for name in arguments.names)):
            continue
        results["mutants"][key] = "survives" if survives(mutant) else "killed"
        print(f"{results['mutants'][key]:9} {key}", flush=True)
        if arguments.output:
            write_record(arguments.output, results, indent=1)
    words = list(results["mutants"].values())
    print(f"{words.count('killed')} of {len(words)} killed")
    raise SystemExit("survives" in words)


if __name__ == "__main__":
    main()
