"""The latency tables as text; see latency.py, budgets.py, convergence.py and int8.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def calibration(results: Mapping[str, Any]) -> str:
    """How far predictions from the tables of layers are off, by network and runtime."""
    lines = [
        "| network | runtime | error of predictions, median | largest | rank correlation | points timed |",
        "|---|---|---|---|---|---|",
    ]
    for network, by_runtime in results["networks"].items():
        for runtime, found in by_runtime.items():
            fit = found["fit"]
            lines.append(
                f"| {network} | {runtime} | {fit['median_error']:.1%} | {fit['worst_error']:.1%} | "
                f"{fit['rank_correlation']:.3f} | {found['filled']:,} in {found['fill_s']:.0f} s |"
            )
    environment = results["environment"]
    how = f"{environment['date']}, {environment['cores']} cores, one thread, batch 1, Python {environment['python']}."
    return "\n".join([*lines, "", f"{how} `{environment['command']}`."])


def budgets(results: Mapping[str, Any]) -> str:
    """What was asked for and what code of its own measured, by network and budget."""
    lines = [
        "| network | budget | measured | deviation | drift of the dense network | deviation without drift | cuts timed "
        "| whole run |",
        "|---" * 8 + "|",
    ]
    for name, row in results["runs"].items():
        lines.append(
            f"| {name.rpartition(' to ')[0]} | {row['limit_ms']:.4f} ms ({row['share']:.0%}) "
            f"| {row['pruned_ms']:.4f} ms | {row['off_ms']:+.1%} | {row['drift']:+.1%} | {row['off']:+.1%} "
            f"| {row['networks_measured']} | {row['seconds']:.0f} s |"
        )
    environment = results["environment"]
    versions = ", ".join(f"{package} {version}" for package, version in environment["versions"].items())
    how = f"{environment['date']}, {environment['processor']}, one thread, Python {environment['python']}, {versions}."
    return "\n".join([*lines, "", f"{how} `{environment['command']}`."])


def convergence(results: Mapping[str, Any]) -> str:
    """How many networks were timed for each budget, how long that took, and how near the result is."""
    lines = ["| network | budget | rounds | measuring | files timed afterwards |", "|---" * 5 + "|"]
    for name, row in results["runs"].items():
        network, rounds = name.rpartition(" to ")[0], ", ".join(f"{each:+.1%}" for each in row["rounds"])
        measuring = row["seconds"]["latency"] + row["seconds"]["prune"]
        lines.append(f"| {network} | {row['share']}% | {rounds} | {measuring:.0f} s | {row['after_off']:+.1%} |")
    environment = results["environment"]
    medians = f"Medians: {results['median_rounds']:g} rounds, {results['median_measuring_s']:.0f} s of measuring."
    how = f"{environment['date']}, {environment['processor']}, one thread, Python {environment['python']}."
    return "\n".join([*lines, "", f"{medians} {how} `{environment['command']}`."])


def int8(results: Mapping[str, Any]) -> str:
    """Accuracy and latency of the dense and the pruned network in fp32 and int8, over the seeds."""
    arms = results["arms"]
    seeds = ", ".join(str(arm["seed"]) for arm in arms)
    lines = [f"| network | top-1, seeds {seeds} | latency, ms | times as fast |", "|---" * 4 + "|"]
    for name in arms[0]["corners"]:
        corners = [arm["corners"][name] for arm in arms]
        top1, ms, times = (
            ", ".join(f"{scale * each[key]:.2f}" for each in corners)
            for key, scale in (("top1", 100), ("ms", 1), ("times_as_fast", 1))
        )
        lines.append(f"| {name.replace(' ', ', ')} | {top1} % | {ms} | {times} |")
    return "\n".join([*lines, "", f"{results['environment']['date']}, `{results['environment']['command']}`."])
