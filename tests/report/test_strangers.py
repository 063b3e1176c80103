"""A report shows nothing that lies outside of its run folder, and ends in words where a file was made to do harm."""

import json
import os

import pytest
from PIL import Image

from edakari.errors import RunFolderError
from edakari.report import collect
from edakari.report.explanation import Explanation, Picture, explanations, inlined, write_explanation


@pytest.fixture
def run(tmp_path):
    """A folder with an explanation, and a secret beside it."""
    Image.new("RGB", (2, 2)).save(tmp_path / "secret.png")
    folder = tmp_path / "run"
    (folder / "explain").mkdir(parents=True)
    (folder / "stages").mkdir()
    Image.new("RGB", (2, 2)).save(folder / "explain" / "mine.png")
    write_explanation(
        Explanation(name="x", title="x", text="x", pictures=(Picture(file="mine.png", title="x"),)), folder
    )
    return folder


def test_a_picture_in_the_folder_is_shown(run):
    assert list(inlined(run, explanations(run))) == ["mine.png"]


@pytest.mark.parametrize("way", ["up", "absolute", "link", "linked folder", "pipe", "text", "explanation"])
def test_no_file_outside_of_the_folder_is_shown(run, way):
    secret = run.parent / "secret.png"
    name = {"up": "../../secret.png", "absolute": str(secret)}.get(way, "other.png")
    other = run / "explain" / "other.png"
    if way == "link":
        other.symlink_to(secret)
    elif way == "linked folder":
        (run / "explain" / "out").symlink_to(run.parent)
        name = "out/secret.png"
    elif way == "pipe":
        os.mkfifo(other)
    elif way == "text":
        other.write_text("root:x:0")
    path = run / "explain" / "x.json"
    content = json.loads(path.read_text())
    content["pictures"][0]["file"] = name
    if way == "explanation":
        (run.parent / "x.json").write_text(json.dumps(content))
        path.unlink()
        path.symlink_to(run.parent / "x.json")
    else:
        path.write_text(json.dumps(content))
    with pytest.raises(RunFolderError, match=r"run `edakari explain` again"):
        inlined(run, explanations(run))


@pytest.mark.parametrize("file", ["recipe.yaml", "stages/trace.json", "environment.json"])
@pytest.mark.parametrize("way", ["link", "pipe", "bomb"])
def test_no_other_file_is_either(run, file, way):
    (run / "recipe.yaml").write_text("{model: {name: a}, method: {name: b}}")
    trace = {"groups": [], "unprunable": [], "uncounted": [], "budget": "", "costs": {}, "bytes": 0}
    (run / "stages" / "trace.json").write_text(json.dumps(trace))
    (run / file).unlink(missing_ok=True)
    if way == "link":
        (run.parent / "secret").write_text("{}")
        (run / file).symlink_to(run.parent / "secret")
    elif way == "pipe":
        os.mkfifo(run / file)
    else:
        (run / file).write_text("[" * 2000 + "]" * 2000)
    with pytest.raises(RunFolderError):
        collect(run)
