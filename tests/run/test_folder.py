import pytest

from edakari.errors import RunFolderError
from edakari.run.folder import claim

RECIPE = {"model": {"name": "a", "options": {}}, "budget": "macs<=50%", "seed": 0}


def test_a_folder_is_taken_up_again(tmp_path):
    folder = claim(tmp_path / "run", RECIPE)
    folder.finish("prune", {"x": 1.5})
    again = claim(tmp_path / "run", RECIPE)
    assert again.done("prune")
    assert again.read("prune") == {"x": 1.5}
    assert not again.done("measure")


def test_a_folder_of_another_recipe_names_the_first_difference(tmp_path):
    claim(tmp_path, RECIPE)
    with pytest.raises(RunFolderError, match=r"model\.options\.depth is None there and 3 here"):
        claim(tmp_path, {**RECIPE, "model": {"name": "a", "options": {"depth": 3}}, "seed": 1})


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(RunFolderError, match="no run folder"):
            claim(tmp_path, RECIPE, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "x").write_text("x")
    with pytest.raises(RunFolderError, match="is a file"):
        claim(tmp_path / "x", RECIPE)


def test_overwriting_removes_results_and_nothing_else(tmp_path):
    folder = claim(tmp_path, RECIPE)
    folder.finish("prune", {})
    (tmp_path / "notes.txt").write_text("mine")
    fresh = claim(tmp_path, {**RECIPE, "seed": 1}, overwrite=True)
    assert not fresh.done("prune")
    assert fresh.recipe()["seed"] == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_damaged_result_is_named(tmp_path):
    folder = claim(tmp_path, RECIPE)
    folder.finish("check", {})
    (tmp_path / "stages" / "check.json").write_text('{"a": ')
    with pytest.raises(RunFolderError, match=r"check\.json cannot be read"):
        folder.read("check")
