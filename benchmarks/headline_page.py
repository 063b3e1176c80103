"""The table of results in README.md and README.ja.md: one row a question, every figure computed from the results."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import coverage_page

NEEDED = frozenset({"budgets", "cifar10_grid", "core", "coverage", "demo", "tokens"})
COVERAGE = ("coverage", "coverage_libraries", "coverage_sample", "coverage_timm")

HEAD = "| question | measured | page |"
HEAD_JA = "| 知りたいこと | 測定結果 | 詳細 |"

ROWS: Sequence[tuple[str, str, str]] = (
    (
        "How long does it take to prune?",
        "One CPU thread: ResNet-50 {resnet50:.2f} s, ViT-B/16 {vit:.2f} s, DenseNet-121 {densenet:.2f} s, "
        "MobileNetV2 {mobilenet:.2f} s; Torch-Pruning takes {resnet50_peer:.2f} s, {vit_peer:.2f} s, "
        "{densenet_peer:.2f} s and {mobilenet_peer:.2f} s",
        "pruning-speed",
    ),
    (
        "On which networks does it work?",
        "{networks:,} networks cut at random: {exact} compared by values with the masked network, the others by all "
        "shapes; {wrong} wrong, {failed} failed. Torch-Pruning prunes {peer} of the {asked} that it was also tried on",
        "coverage",
    ),
    (
        "Does it meet a budget in milliseconds?",
        "{near} of {runs} within 2 %, timed by other code; the {far} others, all of DeiT, are up to {worst:.0%} off",
        "latency-budgets",
    ),
    (
        "How accurate is the result?",
        "ResNet-20, CIFAR-10, half the MACs, equal tuning, one short training: `smcp` {smcp:.1%}, "
        "`taylor` {taylor:.1%}, `magnitude` {magnitude:.1%}, Torch-Pruning {peer_top1:.1%}; dense {dense:.1%}",
        "accuracy",
    ),
    (
        "Do fewer tokens save time?",
        "DeiT-S, three selectors that each keep half of the tokens, batch 1: {tokens:.2f} times as fast, where the "
        "MACs promise {promised:.2f}",
        "token-speed",
    ),
    (
        "What does the demo give?",
        "Half the MACs, {demo:.2f} times as fast in ONNX Runtime, {demo_top1:.1%} top-1 instead of {demo_dense:.1%}",
        "demo",
    ),
)

ROWS_JA: Sequence[tuple[str, str, str]] = (
    (
        "枝刈りにかかる時間",
        "CPU 1 スレッドで ResNet-50 が {resnet50:.2f} 秒、ViT-B/16 が {vit:.2f} 秒、DenseNet-121 が {densenet:.2f} 秒、"
        "MobileNetV2 が {mobilenet:.2f} 秒（Torch-Pruning は {resnet50_peer:.2f} 秒、{vit_peer:.2f} 秒、"
        "{densenet_peer:.2f} 秒、{mobilenet_peer:.2f} 秒）",
        "pruning-speed",
    ),
    (
        "対応するネットワーク",
        "{networks:,} 個をランダムに枝刈りし、{exact} 個は出力値を、残りはすべての形状を検証。"
        "誤りは {wrong} 件、失敗は {failed} 件。Torch-Pruning は試した {asked} 個のうち {peer} 個",
        "coverage",
    ),
    (
        "ミリ秒で指定した予算",
        "{runs} 件中 {near} 件が誤差 2 % 以内（別のコードで計測）。残る {far} 件は DeiT で、誤差は最大 {worst:.0%}",
        "latency-budgets",
    ),
    (
        "枝刈り後の精度",
        "ResNet-20、CIFAR-10、積和演算数を半減、同じ回数の調整、短い学習 1 回：`smcp` {smcp:.1%}、"
        "`taylor` {taylor:.1%}、`magnitude` {magnitude:.1%}、Torch-Pruning {peer_top1:.1%}（枝刈り前 {dense:.1%}）",
        "accuracy",
    ),
    (
        "トークン削減の効果",
        "DeiT-S でトークンを 3 か所でそれぞれ半分に減らすと、バッチサイズ 1 で {tokens:.2f} 倍高速"
        "（積和演算数からの期待値は {promised:.2f} 倍）",
        "token-speed",
    ),
    (
        "デモの結果",
        "積和演算数を半減、ONNX Runtime で {demo:.2f} 倍高速、top-1 精度は {demo_dense:.1%} から {demo_top1:.1%} に",
        "demo",
    ),
)


def table(found: Mapping[str, Any]) -> str:
    """The table in English."""
    return _table(HEAD, ROWS, facts(found))


def table_ja(found: Mapping[str, Any]) -> str:
    """The same table in Japanese."""
    return _table(HEAD_JA, ROWS_JA, facts(found))


def _table(head: str, rows: Sequence[tuple[str, str, str]], known: Mapping[str, Any]) -> str:
    lines = [
        f"| {question} | {text.format(**known)} | [{page}](docs/results/{page}.md) |" for question, text, page in rows
    ]
    return "\n".join([head, "|---|---|---|", *lines])


def facts(found: Mapping[str, Any]) -> dict[str, Any]:
    """Every figure in the table by its name."""
    return {
        **dict(_speed(found["core"])),
        **_coverage([found[name] for name in COVERAGE if name in found]),
        **_budgets(found["budgets"]),
        **_accuracy(found["cifar10_grid"]),
        **_tokens(found["tokens"]),
        **_demo(found["demo"]),
    }


def _speed(results: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    names = {
        "resnet50": "resnet50",
        "vit": "vit_base_patch16_224",
        "densenet": "densenet121",
        "mobilenet": "mobilenet_v2",
    }
    for key, name in names.items():
        entry = results["networks"][name]
        yield key, entry["edakari"]["cpu_s"]["total"]
        yield f"{key}_peer", entry["torch-pruning, ratio 0.5"]["cpu_s"]["total"]


def _coverage(runs: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    every = coverage_page.latest(runs)
    verdicts: dict[str, set[str]] = {}
    for name, entry in every.items():
        verdicts.setdefault(name.replace("timm-all:", "timm:"), set()).add(coverage_page.verdict(entry["edakari"]))
    asked = [
        entry["torch-pruning"]
        for name, entry in every.items()
        if "torch-pruning" in entry and not name.startswith("own:")  # made to be awkward for edakari
    ]
    return {
        "networks": len(verdicts),
        "exact": sum(bool(words & {"exact", "nothing to prune"}) for words in verdicts.values()),
        "wrong": sum("WRONG" in words for words in verdicts.values()),
        "failed": sum("failed" in words for words in verdicts.values()),
        "asked": len(asked),
        "peer": sum("failed" not in each for each in asked),
    }


def _budgets(results: Mapping[str, Any]) -> dict[str, Any]:
    off = {name: abs(row["off_ms"]) for name, row in results["runs"].items()}
    far = [name for name, value in off.items() if value > 0.02]
    if not all("deit" in name for name in far):
        raise ValueError("the sentence on budgets says that only DeiT misses; the results say otherwise")
    return {"runs": len(off), "near": len(off) - len(far), "far": len(far), "worst": max(off.values())}


def _accuracy(results: Mapping[str, Any]) -> dict[str, float]:
    rows = [row for row in results["arms"].values() if row["budget"] == "macs<=50%"]
    arms = {"smcp": "smcp", "taylor": "taylor", "magnitude": "magnitude", "peer_top1": "torch-pruning group norm"}
    tops = {key: statistics.mean(row["top1"] for row in rows if row["arm"] == arm) for key, arm in arms.items()}
    return {**tops, "dense": rows[0]["dense_top1"]}


def _tokens(results: Mapping[str, Any]) -> dict[str, float]:
    row = results["batches"]["1"]["arms"]["spvit, ratio 0.5"]
    return {"tokens": row["speedup"], "promised": row["promised"]}


def _demo(report: Mapping[str, Any]) -> dict[str, float]:
    dense, *_, tuned = report["networks"]
    times = [network["latency"]["onnxruntime"]["median_ms"] for network in (dense, tuned)]
    return {"demo": times[0] / times[1], "demo_top1": tuned["metrics"]["top1"], "demo_dense": dense["metrics"]["top1"]}
