"""Another device behind a command: one whose times are a formula, and edakari's own script in a second process."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import edakari
from edakari.cli.commands.prune import own_recipe
from edakari.cli.main import app
from edakari.core.far_side import script_text
from edakari.core.far_side.bench import main
from edakari.errors import MeasurementError, RecipeError, SettingsError, UntrustedCode
from edakari.latency import Layer, fill, key_of, open_table
from edakari.latency.options import RuntimeOptions
from edakari.latency.remote.answers import answer_in, each_answer, turns_in
from edakari.latency.remote.transport import WaitsForResults
from edakari.latency.runnable import require_runnable
from edakari.latency.runtimes import runtime_named
from edakari.latency.timing import RunSettings, measure
from edakari.pipeline import read_recipe, recipe_from
from edakari.surgery import apply

DEVICE = Path(__file__).with_name("formula_device.py")
SETTINGS = RunSettings()
IMAGE = torch.zeros(1, 1, 8, 8)
WIDE = """
import torch
from torch import nn


def wide() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3),
    )
"""


def command(*wrong: object) -> str:
    return shlex.join([sys.executable, str(DEVICE), "{folder}", *map(str, wrong)])


def runtime(*wrong: object, **options: Any) -> Any:
    given = {"command": command(*wrong), "device_name": "pi4", **options}
    return runtime_named("command", RuntimeOptions(**given))


def convolution(width: int) -> tuple[Layer, tuple[int, int]]:
    settings = {"batch": 1, "space": (8, 8), "kernel": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1),
                "transposed": False, "bias": True, "output_padding": (0, 0)}  # fmt: skip
    return Layer("convolution", tuple(sorted(settings.items()))), (8, width)


@pytest.fixture
def content(content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (tmp_path / "wide.py").write_text(WIDE)
    monkeypatch.setenv("EDAKARI_CACHE", str(tmp_path / "cache"))
    return {
        **content,
        "model": {"name": f"{tmp_path}/wide.py:wide", "weights": "random"},
        "method": "magnitude",
        "budget": "latency<=60%",
        "finetune": None,
        "measure": None,
    }


@pytest.mark.parametrize("layers", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_budget_is_met_on_another_device(layers: bool, content: dict[str, Any], tmp_path: Path) -> None:
    log = tmp_path / "trips"
    asked = {
        "runtime": "command",
        "command": command("", log, 0),
        "device_name": "pi4",
        "layers": layers,
        "networks": 4,
    }
    content |= {"latency": asked, "groups": {"round_to": 16 if layers else 1}}
    result = edakari.run(recipe_from(content), tmp_path / "run")
    timed = result.report["latencies"]["latency"]
    true = 1e-6 * (64 * sum(m.weight.numel() for m in result.model if isinstance(m, nn.Conv2d)))
    true += 1e-6 * result.model[-1].weight.numel()
    assert timed["measured"]["median_ms"] == pytest.approx(true)
    assert timed["runtime"] == "pi4"
    assert -0.15 < timed["relative_error"] <= 0.02
    assert (timed["fit"] is not None) == layers
    trips = [line.split() for line in log.read_text().splitlines()]
    layer_trips = [int(count) for count, first in trips if first.startswith("layer")]
    assert len(layer_trips) == (2 if layers else 0)  # a few to know how long it takes, then all
    assert len(trips) <= 12
    (table,) = (tmp_path / "cache" / "latency").glob("pi4-*.json") if layers else (None,)
    if table is not None:
        key = json.loads(table.read_text())["key"]
        assert key["hardware"] == {"device": "pi4", "processor": "formula"}
        assert key["versions"] == {"formula": "1"}


def test_what_was_timed_is_kept_when_the_device_goes_away(tmp_path: Path) -> None:
    log, points = tmp_path / "log", [convolution(width) for width in (8, 16, 24)]
    lost = runtime("fails", log, 1)
    table = open_table(key_of(lost, SETTINGS), tmp_path)
    with pytest.raises(MeasurementError, match=r"status 1: ssh: .*No route to host.*2 times that came before are kept"):
        fill(table, points, lost, SETTINGS)
    again = runtime()
    table = open_table(key_of(again, SETTINGS), tmp_path)
    assert len(table.samples) == 2
    missing = [point for point in points if point not in table.samples]
    table = fill(table, missing, again, SETTINGS)
    assert [table.samples[point].median_ms for point in points] == pytest.approx(
        [1e-6 * 64 * 9 * 8 * width for width in (8, 16, 24)]
    )


def test_the_latency_of_another_device_is_a_cost(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1)).eval()
    told: list[str] = []
    cost = edakari.measure_latency(network, IMAGE, runtime(), networks=0, cache=tmp_path, tell=told.append)
    convolutions = 64 * 9 * (16 + 16 * 8)
    assert cost.total({}) == pytest.approx(1e-6 * convolutions)
    (group,) = edakari.trace(network, IMAGE).groups
    assert cost.predict({group.name: 8}) == pytest.approx(1e-6 * convolutions / 2)
    assert told[0].startswith("pi4: ")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("fails", "command of pi4: it failed with exit status 1: ssh: connect to host pi4"),
        ("nonsense", r"it printed no times: .*\"layer-0000\": 12.3.*begins with 'Welcome to the device. 0.3 ms'"),
        ("fewer", "pi4 timed 1 of 2 files; missing: layer-0001"),
        ("negative", "a time of 'layer-0000' must be a number of ms from 0 on, found -1.0"),
        ("text", "the times of 'layer-0000' must be a number or a list of numbers, found 'fast'"),
        ("unknown", "a time of 'other', but no such file was to be timed"),
        ("other device", "another device than before answers: processor another, .* not processor formula"),
        ("hangs", r"it printed nothing for 2 s and was stopped; .*latency.timeout"),
    ],
)
def test_what_goes_wrong_on_the_device_is_one_error(wrong: str, told: str, tmp_path: Path) -> None:
    broken = runtime(wrong, tmp_path / "log", 1, timeout=2.0 if wrong == "hangs" else 600.0)
    with pytest.raises(MeasurementError, match=told):
        list(broken.time_layers([convolution(8), convolution(16)], SETTINGS, 5))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"command": None}, "command is missing"),
        ({"command": "python run.py"}, r"command does not say where the folder goes; write \{folder\}"),
        ({"command": "no-such-program {folder}"}, "begins with 'no-such-program', but there is no such program"),
        ({"command": "sh 'a {folder}"}, "command cannot be split into words: No closing quotation"),
        ({"device_name": None}, "device_name must name the device"),
        ({"device_name": "a/b"}, "device_name must name the device .* found 'a/b'"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_sent(options: dict[str, Any], told: str) -> None:
    with pytest.raises(MeasurementError, match=told):
        require_runnable(runtime(**options), SETTINGS)


def test_a_recipe_says_which_key_is_wrong(content: dict[str, Any], tmp_path: Path) -> None:
    latency = {"runtime": "onnxruntime", "command": "x {folder}", "device_name": "pi4"}
    with pytest.raises(RecipeError, match=r"latency.command.*is no setting of the runtime 'onnxruntime'"):
        edakari.run(recipe_from({**content, "latency": latency}), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"latency.runtime.*command is missing.*device_name"):
        edakari.run(recipe_from({**content, "latency": {"runtime": "command"}}), tmp_path / "run")
    with pytest.raises(
        RecipeError, match=r"measure.runtimes\[0\].* names 'command', whose settings stand under `latency`"
    ):
        edakari.run(
            recipe_from({**content, "budget": "macs<=60%", "measure": {"runtimes": ["command"]}}), tmp_path / "run"
        )
    with pytest.raises(SettingsError, match="cuda_graphs is no setting of the runtime 'command'"):
        runtime(cuda_graphs=True)


@pytest.mark.parametrize(
    ("latency", "told"),
    [
        (
            {"runtime": "command", "command": "touch {folder}/x", "device_name": "pi4"},
            "names a command that times networks",
        ),
        (
            {"provider": "qnn", "provider_options": {"backend_path": "evil.so"}},
            "library of an execution provider: 'evil.so'",
        ),
    ],
)
def test_a_recipe_of_another_author_runs_no_program(
    latency: dict[str, Any], told: str, content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDAKARI_CONFIG", str(tmp_path / "config"))
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({**content, "model": "edakari:fashion_cnn", "latency": latency}))
    with pytest.raises(UntrustedCode, match=told):
        read_recipe(path)
    assert own_recipe(path, (), trust=True).latency.device_name == latency.get("device_name")
    assert read_recipe(path) is not None  # agreed to, until the text changes
    path.write_text(path.read_text().replace("/x", "/y").replace("evil.so", "worse.so"))
    with pytest.raises(UntrustedCode):
        read_recipe(path)


def test_tables_of_two_devices_are_two(tmp_path: Path) -> None:
    keys = [key_of(runtime(device_name=name), SETTINGS) for name in ("pi4", "pi5")]
    assert open_table(keys[0], tmp_path).path != open_table(keys[1], tmp_path).path
    table = fill(open_table(keys[0], tmp_path), [convolution(8)], runtime(), SETTINGS)
    table.path.rename(open_table(keys[1], tmp_path).path)
    with pytest.raises(MeasurementError, match=r"made with hardware .*pi4.*here it is .*pi5"):
        open_table(keys[1], tmp_path)


def test_a_folder_with_any_name_is_one_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "a b; $(touch here) 'c'"
    odd.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(odd))
    monkeypatch.chdir(tmp_path)
    assert runtime().versions() == {"formula": "1"}
    assert not (tmp_path / "here").exists()


def test_a_folder_is_carried_by_hand(tmp_path: Path) -> None:
    """Each request waits until its results are there, and is asked for once."""
    points = [convolution(8), convolution(16)]

    def carried() -> Any:
        return runtime_named("carry", RuntimeOptions(folder=str(tmp_path / "to pi"), device_name="pi4"))

    table = open_table(key_of(carried(), SETTINGS), tmp_path)
    for _ in range(2):
        with pytest.raises(
            WaitsForResults, match=r"to pi waits to be timed. Copy it to the device, run `python3 bench"
        ):
            fill(table, points, carried(), SETTINGS)
    (folder,) = (path for path in (tmp_path / "to pi").iterdir() if path.is_dir())
    assert (tmp_path / "to pi" / "bench.py").is_file()
    done = subprocess.run([sys.executable, str(DEVICE), str(folder)], capture_output=True, text=True, check=True)
    (folder / "results.json").write_text(done.stdout)
    found = fill(table, points, carried(), SETTINGS)
    assert [found.samples[point].median_ms for point in points] == pytest.approx([0.036864, 0.073728])
    with pytest.raises(WaitsForResults):
        list(carried().time_layers([convolution(24)], SETTINGS, 5))
    (folder / "results.json").write_text(json.dumps({**json.loads(done.stdout), "format": "edakari bench results",
                                                     "manifest": "another"}))  # fmt: skip
    with pytest.raises(MeasurementError, match="results of another folder, another"):
        list(carried().time_layers(points, SETTINGS, 10))


def test_measuring_by_hand_from_the_command_line(tmp_path: Path) -> None:
    arguments = ["measure", "edakari:fashion_cnn", "--export-bench", str(tmp_path / "carry"), "--device-name", "pi4"]
    arguments += ["--repeats", "5", "--spread", "100"]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert "waits to be timed" in first.stderr
    assert main([str(tmp_path / "carry")]) == 0
    again = CliRunner().invoke(app, arguments)
    assert again.stdout.startswith("pi4: "), again.output


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        ('{"a": 1.5, "b.onnx": 2}', {"a": [[1.5]], "b": [[2]]}),
        ('{"times": {"a": [1, 2], "b": [[1], [2, 3]]}}', {"a": [[1, 2]], "b": [[1], [2, 3]]}),
        ('{"progress": [1, 2]}', {}),
    ],
)
def test_answers_of_programs_of_a_users_own(text: str, turns: dict[str, Any]) -> None:
    answer = answer_in(text, ["a", "b"])
    assert answer is not None
    assert answer.times == turns


def test_json_over_several_lines_is_an_answer() -> None:
    text = json.dumps({"a": 1.5}, indent=2)
    (answer,) = each_answer(iter(["loading", *text.splitlines(keepends=True)][1:]), ["a"])
    assert answer.times == {"a": [[1.5]]}


@pytest.mark.parametrize("value", [True, None, [], [[]], [1, [2]], float("nan"), float("inf"), {"a": 1}])
def test_times_that_make_no_sense_are_refused(value: Any) -> None:
    with pytest.raises(MeasurementError, match="of 'a' must be a number"):
        turns_in({"a": value}, ["a"])


def test_the_script_runs_alone_and_continues(tmp_path: Path) -> None:
    """Without edakari, from its one file; what it has timed before, it does not time again."""
    from edakari.core.far_side.sessions import How
    from edakari.latency.remote.folder import Repeats, layers_request, networks_request

    points = {"conv": convolution(64), "chain": (Layer("chain"), (4,))}
    for request, kind in (
        (layers_request(points, How(), Repeats(1, 5), made(tmp_path / "layers")), "layers"),
        (networks_request({"dense": nn.Linear(2, 2), "x": nn.Linear(2, 1)}, torch.zeros(1, 2), How(), Repeats(1, 5),
                          made(tmp_path / "networks")), "networks"),
    ):  # fmt: skip
        found = [answers(tmp_path / kind, request.names) for _ in range(2)]
        first, second = ({name: turns for answer in each for name, turns in answer.times.items()} for each in found)
        assert first == second
        assert set(first) == set(request.names)
        assert found[0][0].device == found[1][0].device
        assert {answer.request for answer in found[0]} <= {None, request.id}
    assert (tmp_path / "layers" / "conv.onnx").stat().st_size < 2000  # the weights are in one file for all layers


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def answers(folder: Path, names: tuple[str, ...]) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-I", str(folder / "bench.py"), str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env={},
    )
    return list(each_answer(iter(done.stdout.splitlines(keepends=True)), names))


def test_int8_goes_to_the_device_quantised(tmp_path: Path) -> None:
    script = tmp_path / "bench.py"
    script.write_text(script_text())
    there = runtime(command=shlex.join([sys.executable, "-I", str(script), "{folder}"]))
    points, int8 = [convolution(32), (Layer("chain"), (4,))], RunSettings(precision="int8")
    sent: list[str] = []
    lines = there.transport.lines

    def seen(request: Any) -> Any:
        sent.extend(path.read_bytes().decode("latin1") for path in sorted(request.folder.glob("*.onnx")))
        return lines(request)

    there.transport = type("Seen", (), {"lines": staticmethod(seen), "faults": there.transport.faults})()
    (times,) = there.time_layers(points, int8, 5)
    assert times.keys() == set(points)
    assert ["QuantizeLinear" in text for text in sent] == [True, False]  # the chain is timed as a call, in fp32
    assert key_of(runtime(), int8).digest != key_of(runtime(), SETTINGS).digest


def test_the_script_is_one_file_for_old_pythons() -> None:
    import ast

    tree = ast.parse(script_text(), feature_version=(3, 9))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} - set(sys.stdlib_module_names) == {"numpy"}  # onnxruntime later


def test_the_script_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from edakari.core.far_side.sessions import How
    from edakari.latency.remote.folder import Repeats, layers_request

    assert main([str(tmp_path)]) == 1
    assert "it has no manifest.json" in capsys.readouterr().err
    folder = made(tmp_path / "cuda")
    layers_request({"conv": convolution(8)}, How(1, "cuda"), Repeats(0, 1), folder)
    assert main([str(folder)]) == 1
    assert "no execution provider 'cuda' here; it has" in capsys.readouterr().err
    folder = made(tmp_path / "broken")
    layers_request({"conv": convolution(8)}, How(), Repeats(0, 1), folder)
    (folder / "conv.onnx").write_bytes(b"nothing")
    assert main([str(folder)]) == 1
    said = capsys.readouterr()
    assert "conv does not run here" in said.err
    assert '"failed": {"conv"' in said.out


@pytest.mark.slow
def test_a_second_process_as_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded CNN, to 60 % of its time on two threads of another process; met when timed there once more."""
    monkeypatch.setenv("EDAKARI_CACHE", str(tmp_path / "cache"))
    asked = {
        "model": {"name": "edakari:fashion_cnn", "weights": "pretrained"},
        "data": {"max_images": 256},
        "method": "magnitude",
        "budget": "latency<=60%",
        "latency": {
            "runtime": "command",
            "command": f"{sys.executable} -m edakari bench {{folder}}",
            "device_name": "beside",
            "threads": 2,
        },
    }
    result = edakari.run(recipe_from(asked), tmp_path / "run")
    there = runtime_named(
        "command",
        RuntimeOptions(command=asked["latency"]["command"], device_name="beside"),  # type: ignore[index]
    )
    dense = edakari.build("edakari:fashion_cnn")
    networks = {"dense": dense, "pruned": apply(dense, result.plan)}
    timings = measure(networks, torch.zeros(1, 1, 28, 28), there, settings=RunSettings(threads=2), repeats=100)
    assert timings["pruned"].ratio == pytest.approx(0.6, rel=0.03)
