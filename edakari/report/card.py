"""The model card and the configuration of a pruned network, in the forms of the Hugging Face Hub and of timm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edakari.core.optional import needs
from edakari.report import formatting
from edakari.report.content import Content

with needs("report", "a model card"):
    import yaml

__all__ = ["config", "model_card"]

PIPELINES = {
    "class": "image-classification",
    "classes": "image-classification",
    "map": "image-segmentation",
    "objects": "object-detection",
    "heatmaps": "keypoint-detection",
    "vector": "image-feature-extraction",
    "depth": "depth-estimation",
    "image": "image-to-image",
}
"""The Hub's names of tasks, by what networks answer."""
CROPS = {"shorter_side": "center", "cover": "center", "stretch": "squash", "letterbox": "border"}
"""timm's names of rules for resizing."""
COSTS = ("macs", "params")


def model_card(report: Content, about: Mapping[str, Any], repo: str) -> str:
    """Write the model card of a pruned network.

    Args:
        report: as `edakari.report.collect` gives it.
        about: what the exported file of the network says about it, with its `files`; see `model.json`.
        repo: name of the repository, USER/NAME.
    """
    parts = [_head(report, about, repo), *_text(report, about, repo)]
    return "\n\n".join(part for part in parts if part) + "\n"


def config(report: Content, about: Mapping[str, Any]) -> dict[str, Any]:
    """Make `config.json` as timm writes it. timm does not build the pruned network, whose layers are narrower.

    Args:
        report: as `edakari.report.collect` gives it.
        about: see `model_card`.
    """
    how, classes = about["preprocessing"], list(about["classes"])
    prepared: dict[str, Any] = {"num_classes": len(classes), "label_names": classes}
    if _takes_images(how):
        prepared |= {"input_size": [how["channels"], *how["size"]], "mean": how["mean"], "std": how["std"]}
    if _is_resized(how):
        crop = {"crop_pct": min(how["crop"]) / min(how["to"]), "crop_mode": CROPS[how["resize"]]}
        prepared |= {"interpolation": how["interpolation"], **crop}
    own = {name: about[name] for name in ("edakari", "method", "budget", "plan", "task", "answers", "metrics", "costs")}
    architecture = str(report["model"]).partition("/")[2] or str(report["model"])
    return {
        "architecture": architecture,
        "num_classes": len(classes),
        "label_names": classes,
        "pretrained_cfg": prepared,
        "edakari": own,
    }


def _head(report: Content, about: Mapping[str, Any], repo: str) -> str:
    """The metadata of the card, as YAML."""
    task = PIPELINES.get(about["answers"])
    content: dict[str, Any] = {"library_name": "edakari", "tags": ["edakari", "pruning"]}
    if task is not None:
        content["pipeline_tag"] = task
    metric = report["metric"]
    if metric and task is not None and metric in about["metrics"]:
        measured = {"type": metric, "value": about["metrics"][metric], "name": formatting.title_of(metric)}
        data = {"name": "validation data of the run", "type": "own"}
        result = {"task": {"type": task}, "dataset": data, "metrics": [measured]}
        content["model-index"] = [{"name": repo.partition("/")[2], "results": [result]}]
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}---"


def _text(report: Content, about: Mapping[str, Any], repo: str) -> Iterator[str]:
    yield f"# {repo.partition('/')[2]}"
    random = (
        " Its dense network had random weights, so that its metrics mean nothing." if report["random_weights"] else ""
    )
    name, budget, method = (_plain(report[key]) for key in ("model", "budget", "method"))
    yield f"`{name}`, pruned to `{budget}` by the method `{method}` of edakari {about['edakari']}.{random}"
    yield _table(report)
    yield from _preparation(about)
    yield from _use(report, about, repo)


def _table(report: Content) -> str:
    """The dense and the finished network side by side."""
    networks = [report["networks"][0], report["networks"][-1]]
    rows: list[tuple[str, ...]] = [("", "dense", "pruned")]
    for name in networks[0]["metrics"]:
        rows.append((formatting.title_of(name), *(_metric(name, each["metrics"]) for each in networks)))
    rows += [(formatting.COSTS[name], *(formatting.cost(each["costs"][name]) for each in networks)) for name in COSTS]
    rows.append(("size of the weights", *(formatting.size(each["bytes"]) for each in networks)))
    for runtime in networks[0]["latency"]:
        times = (each["latency"].get(runtime) for each in networks)
        rows.append((f"latency in {runtime}", *(formatting.latency(each) if each else "–" for each in times)))
    lines = [f"| {' | '.join(map(_plain, row))} |" for row in rows]
    return "\n".join([lines[0], "|---|---|---|", *lines[1:]])


def _metric(name: str, metrics: Mapping[str, float]) -> str:
    return formatting.metric(name, metrics[name]) if name in metrics else "–"


def _preparation(about: Mapping[str, Any]) -> Iterator[str]:
    how = about["preprocessing"]
    if not _takes_images(how):
        return
    high, wide = how["size"]
    resized = f", resize rule `{how['resize']}` to {how['to']}, {how['interpolation']}" if _is_resized(how) else ""
    classes = f" {len(about['classes'])} classes; their names are in `config.json`." if about["classes"] else ""
    yield (
        f"Input: [batch, {how['channels']}, {high}, {wide}]{resized}; mean {_rounded(how['mean'])}, standard deviation "
        f"{_rounded(how['std'])} for pixels in 0 to 1.{classes}"
    )


def _takes_images(how: Mapping[str, Any]) -> bool:
    """Whether the preprocessing has size and normalisation; that of a user's own task may hold anything."""
    numbers = (how.get("mean"), how.get("std"))
    size = [how.get("channels"), *_pair(how.get("size"))]
    return all(isinstance(each, list) and each and all(map(_is_number, each)) for each in numbers) and _are_counts(size)


def _is_resized(how: Mapping[str, Any]) -> bool:
    """Whether the preprocessing has a rule of resizing with its sizes."""
    sizes = [*_pair(how.get("to")), *_pair(how.get("crop"))]
    texts = how.get("resize"), how.get("interpolation")
    return all(isinstance(each, str) for each in texts) and texts[0] in CROPS and _are_counts(sizes)


def _pair(value: Any) -> list[Any]:
    return value if isinstance(value, list) and len(value) == 2 else [None]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_counts(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in values)


def _rounded(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _use(report: Content, about: Mapping[str, Any], repo: str) -> Iterator[str]:
    yield "## Use"
    files = [each["path"] for each in about.get("files", ())]
    if "pruned.onnx" in files:
        yield f"```\nhf download {repo} --local-dir pruned\ncd pruned/export\npython infer.py photo.jpg\n```"
    own = ".py:" in str(report["model"]) or report["recipe"]["model"].get("weights") == "given"
    argument = ", model" if own else ""
    yield (
        "```python\nimport edakari\nfrom huggingface_hub import snapshot_download\n\n"
        f'network = edakari.load(snapshot_download("{repo}"){argument})\n```'
    )
    if own:
        yield "`model` is the dense network, whose code is not in this repository; its weights do not matter."
    if files:
        yield f"Exported files, in `export/`: {', '.join(f'`{_plain(each)}`' for each in files)}."


def _plain(text: Any) -> str:
    """A text of a run folder in one line, that ends no cell and no code."""
    return " ".join(str(text).replace("|", "/").replace("`", "'").split())
