"""Files made to do harm end soon, in words."""

import json
import os
import time

import hypothesis
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edakari.core.reading import DEPTH, Unreadable, inside, parse_json, read_json, read_text
from edakari.core.reading_yaml import parse_yaml

ALIASES = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 20)]
)
MERGES = "\n".join(
    ["a0: &a0 {x: 1}"] + [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 8)}]}}" for n in range(1, 20)]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text(),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(), below, max_size=4),
    max_leaves=12,
)


@pytest.fixture(autouse=True)
def _soon():
    start = time.process_time()
    yield
    assert time.process_time() - start < 5


@hypothesis.settings(max_examples=30)
@given(values)
def test_what_json_writes_is_read_as_it_was(value):
    assert parse_json(json.dumps(value)) == value


@given(
    st.recursive(
        st.integers() | st.text("abc "), lambda below: st.lists(below) | st.dictionaries(st.text("xyz"), below)
    )
)
def test_what_yaml_writes_is_read_as_it_was(value):
    assert parse_yaml(yaml.safe_dump(value))[0] == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000 + "]" * 100_000, "deep"),
        ("[" * (DEPTH + 2) + "]" * (DEPTH + 2), "deep"),
        ('{"a":' * 500 + "1" + "}" * 500, "deep"),
        ('{"seed": ' + "9" * 5000 + "}", "5000 digits"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' stands twice"),
        ("[" + "{}," * 2_000_000 + "1]", "lists and mappings"),
        ("{'a': 1}", "no JSON"),
        ("", "no JSON"),
    ],
)
def test_json_that_is_none_or_a_bomb(text, said):
    with pytest.raises(Unreadable, match=said):
        parse_json(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ALIASES, "aliases"),
        (MERGES, "aliases"),
        ("a: &a [*a]", "itself"),
        ("&a {b: {c: *a}}", "itself"),
        ("a: " + "[" * 5000 + "]" * 5000, "deep"),
        ("- " * 2000 + "x", "deep"),
        ("seed: " + "9" * 5000, "5000 digits"),
        ("a: !!bool maybe", "does not fit"),
        ("a: !!int ''", "does not fit"),
        ("a: 2001-99-99", "does not fit"),
        ("x" * 100_000, "kB"),
    ],
)
def test_yaml_bombs_and_values_that_do_not_fit(text, said):
    with pytest.raises(Unreadable, match=said):
        parse_yaml(text)


def test_aliases_and_merges_of_a_recipe_are_fine():
    value, _ = parse_yaml("base: &base {epochs: 3, lr: 0.1}\nfinetune: {<<: *base, epochs: 5}\ntrain: *base")
    assert value["finetune"] == {"epochs": 5, "lr": 0.1}
    assert value["train"] == value["base"]


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, said in ((tmp_path / "pipe", "pipe"), (tmp_path, "folder"), ("/dev/zero", "device")):
        with pytest.raises(Unreadable, match=said):
            read_json(path)
    (tmp_path / "long").write_bytes(b"x" * 2000)
    with pytest.raises(Unreadable, match="more than 1 kB"):
        read_text(tmp_path / "long", 1024)
    (tmp_path / "latin").write_bytes(b"\xff")
    with pytest.raises(Unreadable, match="UTF-8"):
        read_text(tmp_path / "latin")


def test_a_path_inside_of_a_folder_stays_there(tmp_path):
    run = tmp_path / "run"
    (run / "explain").mkdir(parents=True)
    (tmp_path / "secret").write_text("x")
    (run / "link").symlink_to(tmp_path / "secret")
    (run / "out").symlink_to(tmp_path)
    (run / "explain" / "fine.png").write_text("x")
    (run / "near").symlink_to(run / "explain")
    (tmp_path / "runs").symlink_to(run)
    for name in ("../secret", "/etc/hostname", "link", "out/secret", "explain/../../secret", "a\0b"):
        with pytest.raises(Unreadable):
            inside(run, name)
    for folder, name in ((run, "explain/fine.png"), (run, "near/fine.png"), (tmp_path / "runs", "explain/fine.png")):
        assert inside(folder, name).is_file()
