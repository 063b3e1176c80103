"""The file of measured layers: what is kept, what is refused, and filling it."""

from __future__ import annotations

import dataclasses as dc
import json

import pytest
import torch

from edakari.core.space import limited
from edakari.errors import MeasurementError
from edakari.graph import trace
from edakari.latency import Fit, Layer, Sample, cache_folder, extended, fill, key_of, open_table, wanted
from edakari.latency import plan_measurement as plan
from edakari.latency.timing import RunSettings
from edakari.testing import toy_cnn

SETTINGS = RunSettings()
LAYER = Layer("linear", (("bias", True), ("rows", (1, 4))), ("gelu",))


def uses_of(step=8):
    graph = trace(toy_cnn(), torch.zeros(1, 3, 16, 16))
    return wanted(graph, limited(graph.groups, round_to=step))


def stored(fake, tmp_path):
    table = open_table(key_of(fake, SETTINGS), tmp_path)
    fits = {"x": Fit(0.1, 1.2, 20, 0.02, 0.05, 0.99)}
    return extended(table, {(LAYER, (8, 16)): Sample(1.0, 1.5, 0.1, 10)}, fits)


def test_a_table_comes_back_as_it_was(fake, tmp_path):
    table = stored(fake, tmp_path)
    assert open_table(table.key, tmp_path) == table
    assert [path.name for path in tmp_path.iterdir()] == [f"formula-{table.key.digest}.json"]


def test_what_another_process_wrote_meanwhile_is_kept(fake, tmp_path):
    mine = open_table(key_of(fake, SETTINGS), tmp_path)
    stored(fake, tmp_path)
    found = extended(mine, {(LAYER, (8, 24)): Sample(2.0, 2.0, 0.0, 10)})
    assert [widths for _, widths in found.samples] == [(8, 16), (8, 24)]
    assert found.fits


@pytest.mark.parametrize(
    "change",
    [{"threads": 2}, {"precision": "bf16"}, {"memory_format": "channels_last"}, {"warmup": 9}],
)
def test_settings_and_versions_have_tables_of_their_own(fake, change):
    keys = {key_of(fake, SETTINGS).digest, key_of(fake, dc.replace(SETTINGS, **change)).digest}
    fake.version = "2.0"
    assert len({*keys, key_of(fake, SETTINGS).digest}) == 3


def test_where_tables_lie(monkeypatch, tmp_path):
    monkeypatch.setenv("EDAKARI_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "latency"
    monkeypatch.delenv("EDAKARI_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "edakari" / "latency"


def point(content):
    return content["layers"][0]["points"][0]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda c: c.update(format="other"), "format"),
        (lambda c: c.update(version=2), "version"),
        (lambda c: c.update(extra=1), "extra"),
        (lambda c: c.pop("layers"), "layers"),
        (lambda c: c["key"]["hardware"].update(processor="PDP-11"), "PDP-11"),
        (lambda c: c["key"]["versions"].update(formula="0.9"), "0.9"),
        (lambda c: c["key"]["settings"].update(threads=7), "threads"),
        (lambda c: c["layers"][0]["layer"].__setitem__(0, "magic"), "magic"),
        (lambda c: point(c).__setitem__(0, [8]), "widths"),
        (lambda c: point(c).__setitem__(0, [8, -1]), "greater than or equal to 1"),
        (lambda c: point(c).__setitem__(1, -0.5), "greater than or equal to 0"),
        (lambda c: point(c).__setitem__(1, float("nan")), "finite"),
        (lambda c: point(c).__setitem__(1, "1.0"), "number"),
        (lambda c: point(c).pop(), "points.0"),
        (lambda c: c["fits"]["x"].update(scale=0.0), "scale"),
    ],
)
def test_what_cannot_be_trusted_is_refused_in_one_line(fake, tmp_path, damage, told):
    table = stored(fake, tmp_path)
    content = json.loads(table.path.read_text())
    damage(content)
    table.path.write_text(json.dumps(content))
    with pytest.raises(MeasurementError, match="cannot be trusted") as caught:
        open_table(table.key, tmp_path)
    assert told in str(caught.value)
    assert str(table.path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null"])
def test_what_is_no_table_at_all_is_refused(fake, tmp_path, content):
    table = stored(fake, tmp_path)
    table.path.write_bytes(content)
    with pytest.raises(MeasurementError, match="cannot be trusted"):
        open_table(table.key, tmp_path)


def test_filling_times_every_point_once(fake, tmp_path):
    table, uses = open_table(key_of(fake, SETTINGS), tmp_path), uses_of()
    asked = plan(uses, table, fake, SETTINGS)
    assert asked.layers == len({use.use.layer for use in uses})
    assert asked.points == len(asked.missing) == len(set(asked.missing))
    fake.opened.clear()
    done = []
    table = fill(table, asked.missing, fake, SETTINGS, progress=done.append)
    assert sorted(fake.opened, key=str) == sorted(asked.missing, key=str)
    assert sum(done) == asked.points
    again = plan(uses, open_table(table.key, tmp_path), fake, SETTINGS)
    assert (again.missing, again.seconds) == ((), 0.0)


def test_filling_goes_on_after_a_kill(fake, tmp_path):
    table, uses = open_table(key_of(fake, SETTINGS), tmp_path), uses_of()
    asked = plan(uses, table, fake, SETTINGS)
    batches = []

    def killed(done):
        batches.append(done)
        if len(batches) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(table, asked.missing, fake, SETTINGS, progress=killed)
    table = open_table(table.key, tmp_path)
    assert len(table.samples) == sum(batches)
    rest = plan(uses, table, fake, SETTINGS)
    assert len(rest.missing) == asked.points - sum(batches)
    fake.opened.clear()
    table = fill(table, rest.missing, fake, SETTINGS)
    assert not set(fake.opened) & set(asked.missing[: sum(batches)])
    assert set(table.samples) == set(asked.missing)


def test_a_finer_step_extends_the_table(fake, tmp_path):
    table = open_table(key_of(fake, SETTINGS), tmp_path)
    table = fill(table, plan(uses_of(8), table, fake, SETTINGS).missing, fake, SETTINGS)
    finer = plan(uses_of(4), table, fake, SETTINGS)
    assert 0 < len(finer.missing) < finer.points
    table = fill(table, finer.missing, fake, SETTINGS)
    assert not plan(uses_of(8), table, fake, SETTINGS).missing


def test_outliers_do_not_reach_the_table(noisy, tmp_path):
    table = open_table(key_of(noisy, SETTINGS), tmp_path)
    table = fill(table, plan(uses_of(), table, noisy, SETTINGS).missing, noisy, SETTINGS)
    for (layer, widths), sample in table.samples.items():
        truth = noisy.time(layer, widths)
        assert truth <= sample.minimum_ms < truth * 1.03
        assert sample.median_ms < truth * 1.1
    assert {sample.repeats for sample in table.samples.values()} >= {10, 20}
