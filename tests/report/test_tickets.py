"""The pictures of searches and masks that interleave with a training."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edakari
from edakari.core.protocols import StepState
from edakari.errors import RunFolderError
from edakari.methods.gate_search import GateSearchMethod
from edakari.methods.tickets.recording import Recording
from edakari.methods.tickets.search_events import EDGES, SearchEvent, histogram
from edakari.models.supernet_blocks import SearchBlock
from edakari.report import collect, render, write_report
from edakari.report.ticket_charts import layer_rows, ticket_sections
from edakari.testing import ToyTask
from tests.report.test_report import Resources, make_run

KERNELS = (3, 5, 7)
MAPS = (8, 4)


def make_search(events: int = 4, kernels: tuple[int, ...] = KERNELS, metrics: bool = True) -> dict[str, Any]:
    """A search of one block in each branch, whose units with larger kernels are cut sooner, at every second event."""
    rng = np.random.default_rng(0)
    groups = [
        {"name": f"branches.{branch}.paths.<{index}>", "size": 30, "kernel": [kernel] * 2, "map": [size] * 2}
        for branch, size in enumerate(MAPS)
        for index, kernel in enumerate(kernels)
    ]
    made = []
    for event in range(1, events + 1):
        units = {
            group["name"]: max(30 - event // 2 * 3 * group["kernel"][0] if group["kernel"] else 30 - event, 0)
            for group in groups
        }
        gates = 10 ** rng.normal(-event / 3, 1, sum(units.values()))
        dropped = tuple(name for name, left in units.items() if not left and event == events)
        found = SearchEvent(
            epoch=5 * event,
            executed=event % 2 == 0,
            saving=1e3,
            macs=1e6 * (1 - 0.1 * event),
            rho=0.01,
            units=units,
            gates=histogram(gates),
            dropped=dropped,
        )
        made.append({**found.to_dict(), "metrics": {"top1": 0.5 + 0.05 * event} if metrics else {}})
    return {"edges": EDGES.tolist(), "threshold": 1e-3, "macs": 1e6, "groups": groups, "events": made}


def make_masks(events: int = 3, metrics: bool = True) -> list[dict[str, Any]]:
    return [
        {
            "epoch": 6 * event,
            "asked": 0.3 * event,
            "sparsity": 0.3 * event,
            "weights": 1000,
            "masked": 400,
            "returned": 100 * (event - 1),
            "layers": {"stem.weight": 0.25 * event, "<body>.weight": 0.3 * event},
            "metrics": {"top1": 0.4} if metrics else {},
        }
        for event in range(1, events + 1)
    ]


def keep(folder: Path, **files: Any) -> Path:
    (folder / "kept").mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / "kept" / f"{name}.json").write_text(json.dumps(content))
    return folder


LOSSES = [{"epoch": epoch, "loss": 2.0 / epoch} for epoch in range(1, 21)]


def titles(report: dict[str, Any]) -> list[str]:
    return [chart["title"] for section in ticket_sections(report) for chart in section["charts"]]


def test_search_and_masks_have_all_their_pictures_on_a_page_that_loads_nothing(tmp_path):
    folder = keep(make_run(tmp_path / "run"), search=make_search(), masks=make_masks(), losses=LOSSES)
    report = collect(folder)
    assert titles(report) == [
        "Network",
        "Training loss",
        "Top-1 accuracy at the events",
        "Maps of 8 × 8",
        "Maps of 4 × 4",
        "Units by group",
        "Gates at each event",
        "Weights masked and returned",
    ]
    page = render(report)
    parser = Resources()
    parser.feed(page)
    assert (parser.loaded, parser.open) == ([], [])
    assert "<0>" not in page
    assert "<body>.weight" not in page


def test_texts_for_pictures_say_their_figures(tmp_path):
    folder = keep(make_run(tmp_path / "run"), search=make_search(), masks=make_masks(), losses=LOSSES)
    charts = {
        chart["title"]: re.search('aria-label="([^"]*)"', chart["picture"])[1]
        for section in ticket_sections(collect(folder))
        for chart in section["charts"]
    }
    assert charts["Network"] == (
        "After 20 epochs, the search leaves 60.0 % of the MACs and masks leave 10.0 % of the weights"
    )
    assert charts["Maps of 8 × 8"] == (
        "Maps of 8 × 8: 12 of 30 units with kernels of 3 × 3; 0 of 30 units with kernels of 5 × 5; "
        "0 of 30 units with kernels of 7 × 7 are left"
    )
    assert charts["Units by group"].endswith("24 of 180 are left; 4 groups have none")
    assert charts["Weights masked and returned"].endswith("1,200 weights were masked and 300 returned")
    last = make_search()["events"][-1]["gates"]
    dead = sum(last[: int(np.searchsorted(EDGES, 1.01e-3)) - 1])
    assert (
        f"of {sum(last)} gates at the last one, at least {dead} are within the threshold"
        in charts["Gates at each event"]
    )


def test_report_json_holds_units_of_each_group_over_the_events(tmp_path):
    folder = keep(make_run(tmp_path / "run"), search=make_search(), masks=make_masks(), losses=LOSSES)
    write_report(folder)
    ticket = json.loads((folder / "report.json").read_text())["ticket"]
    assert [group["units"] for group in ticket["search"]["groups"][:3]] == [
        [30, 21, 21, 12],
        [30, 15, 15, 0],
        [30, 9, 9, 0],
    ]
    assert [event["units"] for event in ticket["search"]["events"]] == [180, 90, 90, 24]
    assert ticket["masks"]["layers"] == {"stem.weight": 0.75, "<body>.weight": pytest.approx(0.9)}
    assert ticket["losses"] == LOSSES


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"search": make_search(metrics=False)},
            "Network, Maps of 8 × 8, Maps of 4 × 4, Units by group, Gates at each event",
        ),
        ({"search": make_search(1, (3,), metrics=False)}, "Network, Units by group, Gates at each event"),
        (
            {"masks": make_masks(1, metrics=False), "losses": LOSSES[:1]},
            "Network, Training loss, Weights masked and returned",
        ),
        ({"search": make_search(0), "losses": LOSSES}, ""),
        ({"masks": []}, ""),
        ({}, ""),
    ],
)
def test_what_did_not_happen_is_not_drawn(tmp_path, files, expected):
    report = collect(keep(make_run(tmp_path / "run", finished=False), **files))
    assert ", ".join(titles(report)) == expected
    assert "Events over the epochs" in render(report) or not expected


def test_groups_without_kernels_have_the_picture_of_groups_alone(tmp_path):
    search = make_search()
    groups = [{**group, "kernel": [], "map": []} for group in search["groups"]]
    report = collect(keep(make_run(tmp_path / "run"), search={**search, "groups": groups}))
    assert not [title for title in titles(report) if title.startswith("Maps")]
    assert "Units by group" in titles(report)


def test_an_interrupted_run_is_drawn_as_far_as_it_came(tmp_path):
    folder = keep(make_run(tmp_path / "run"), search=make_search(2), masks=make_masks(1), losses=LOSSES[:11])
    for name in ("prune", "check", "finetune", "measure", "export"):
        (folder / "stages" / f"{name}.json").unlink()
    page = write_report(folder).read_text()
    assert "This run is not finished" in page
    assert "Gates at each event" in page
    assert "After the choice of masks at epoch 6" in page
    assert "75.0 %" in page


def test_layers_have_exact_counts_once_the_network_was_checked(tmp_path):
    folder = keep(make_run(tmp_path / "run"), masks=make_masks())
    path = folder / "stages" / "check.json"
    check = json.loads(path.read_text())
    layer = {"parameter": "stem.weight", "weights": 4000, "kept": 1000, "macs": 12_000, "maskable": True}
    counts = {"kept": 1000, "weights": 4000, "params": 1100, "macs": 3000, "uniform_macs": 3000.0, "layers": [layer]}
    path.write_text(json.dumps({**check, "masked": counts}))
    found = layer_rows(collect(folder))
    assert found["rows"] == [
        {"name": "stem.weight", "share": "25.0", "weights": "1,000 of 4,000", "macs": "3,000 of 12,000"}
    ]
    assert "1,000 of 4,000" in render(collect(folder))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("search", {**make_search(), "macs": 0}, "macs"),
        ("search", {**make_search(), "edges": [0.0, 1.0]}, "edges"),
        ("search", {"events": []}, "edges: is missing"),
        ("masks", [{**make_masks()[0], "masked": "many"}], "masked"),
        ("losses", [{"epoch": 1}], "loss: is missing"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, said):
    with pytest.raises(RunFolderError, match=rf"{name}\.json has wrong content: .*{said}.* remove it"):
        collect(keep(make_run(tmp_path / "run"), **{name: content}))


def test_gates_and_edges_of_a_damaged_histogram_are_compared(tmp_path):
    search = make_search()
    search["events"][0]["gates"] = [1, 2]
    with pytest.raises(RunFolderError, match=r"search\.json .*2 bins"):
        collect(keep(make_run(tmp_path / "run"), search=search))


def test_a_search_is_drawn_while_it_runs_and_after_it_was_continued(tmp_path, monkeypatch):
    ends = Recording.end_epoch

    def stop(self: Recording, state: StepState) -> None:
        ends(self, state)
        if state.epoch == 1:
            raise KeyboardInterrupt

    def search() -> None:
        torch.manual_seed(0)
        body = [SearchBlock(3, 4, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)]
        method = GateSearchMethod(epochs=3, interval=1, warmup_epochs=0.0, min_saving=1.0, lr=0.05)
        folder = tmp_path / "run"
        edakari.prune(nn.Sequential(*body), ToyTask(), "macs<=60%", method, finetune=None, output=folder, device="cpu")

    with monkeypatch.context() as patched:
        patched.setattr(Recording, "end_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            search()
    page = write_report(tmp_path / "run").read_text()
    assert "This run is not finished" in page
    first = json.loads((tmp_path / "run" / "report.json").read_text())["ticket"]
    assert [event["epoch"] for event in first["search"]["events"]] == [1, 2]
    assert "Maps of 8 × 8" in page
    search()
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    whole = report["ticket"]["search"]
    assert [event["epoch"] for event in whole["events"]] == [1, 2, 3]
    assert whole["events"][:2] == first["search"]["events"]
    assert {group["name"]: group["units"][-1] for group in whole["groups"]}.items() <= {
        group["name"]: group["kept"] for group in report["groups"]
    }.items()
    assert whole["events"][-1]["macs"] == pytest.approx(report["networks"][-1]["costs"]["macs"])
    assert whole["macs"] == report["networks"][0]["costs"]["macs"]
