import os

import pytest

import edakari.core.files as files_module
from edakari.core.owned import marker
from edakari.errors import RunFolderError
from edakari.pipeline.folder import claim, release
from edakari.results import CheckResult

RECIPE = {"model": {"name": "a", "options": {}}, "budget": "macs<=50%", "seed": 0}
CHECKED = CheckResult(difference=0.0, costs={"macs": 1.0, "params": 1.0, "activations": 1.0}, bytes=4, metrics={})
OTHER = {**RECIPE, "seed": 1}


class Killed(BaseException):
    """What stands for a kill: nothing may clean up after it."""


@pytest.fixture
def killed_at(monkeypatch):
    """Lets a process end before its n-th file takes its place, and leaves what it had begun."""

    def prepare(patched: pytest.MonkeyPatch, count: int) -> None:
        left = [count]

        def replace(source, target):
            left[0] -= 1
            if left[0] < 0:
                os.link(source, f"{source}.kept")
                raise Killed
            os.rename(source, target)

        patched.setattr(files_module.os, "replace", replace)

    return prepare


def restore_parts(folder):
    """`replacing` tidies up behind an exception, which a kill gives no time for."""
    for path in folder.rglob("*.part.kept"):
        path.rename(path.with_suffix(""))


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_is_taken_up_again(tmp_path):
    folder = claim(tmp_path / "run", RECIPE)
    folder.finish(CHECKED)
    again = claim(tmp_path / "run", RECIPE)
    assert again.done("check")
    assert again.result(CheckResult) == CHECKED
    assert not again.done("measure")


def test_a_folder_of_another_recipe_names_what_differs_and_how_to_go_on(tmp_path):
    claim(tmp_path, RECIPE)
    with pytest.raises(
        RunFolderError, match=r"model\.options\.depth is None there and 3 here; seed is 0 there and 1 here"
    ) as caught:
        claim(tmp_path, {**RECIPE, "model": {"name": "a", "options": {"depth": 3}}, "seed": 1})
    assert f"edakari resume {tmp_path}`" in str(caught.value)
    assert "--set model.options.depth=null --set seed=0" in str(caught.value)
    assert "overwrite" not in str(caught.value)


@pytest.mark.parametrize("name", ["thesis.tex", "recipe.yaml", ".recipe.yaml.abc.part"])
def test_a_folder_of_the_users_is_left_alone(tmp_path, name):
    (tmp_path / name).write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(RunFolderError, match="no run folder"):
            claim(tmp_path, RECIPE, overwrite=overwrite)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


@pytest.mark.parametrize("content", ['{"format": "other/1"}', "[]", "{", "[" * 10**5])
def test_a_marker_that_edakari_did_not_write_marks_nothing(tmp_path, content):
    (tmp_path / "edakari.json").write_text(content)
    with pytest.raises(RunFolderError, match="no run folder"):
        claim(tmp_path, RECIPE, overwrite=True)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "x").write_text("x")
    with pytest.raises(RunFolderError, match="is a file"):
        claim(tmp_path / "x", RECIPE)


def test_overwriting_removes_what_was_written_and_listed_and_nothing_else(tmp_path):
    folder = claim(tmp_path, RECIPE)
    folder.finish(CHECKED)
    files_module.write_text(folder.work("prune") / "cache.json", "ours")
    files_module.write_text(folder.exported / "pruned.onnx", "ours")
    files_module.write_text(tmp_path / "deploy" / "pruned.onnx", "asked for by its name")
    mine = ("a.txt", "work/b.txt", "work/prune/thesis.txt", "export/release.onnx", "explain/a.md", "kept/d.npz")
    for name in mine:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    fresh = claim(tmp_path, OTHER, overwrite=True)
    assert not fresh.done("prune")
    assert fresh.recipe()["seed"] == 1
    assert names(tmp_path) == sorted([*mine, "deploy/pruned.onnx", "recipe.yaml", "edakari.json", ".edakari.files"])
    # what lies in the user's `work` cannot be taken for a method's cache
    assert not fresh.work("prune").exists()
    files_module.write_text(fresh.work("prune") / "cache.json", "ours")
    fresh.tidy()
    assert not fresh.work("prune").parent.exists()
    assert (tmp_path / "work/prune/thesis.txt").is_file()


@pytest.mark.parametrize("entry", ["../x", "/{}/x", "stages/../../x", "notes.txt"])
def test_a_list_that_leads_elsewhere_removes_nothing_there(tmp_path, entry):
    run, victims = tmp_path / "run", [tmp_path / "x", tmp_path / "run" / "notes.txt"]
    claim(run, RECIPE)
    for path in victims:
        path.write_text("mine")
    with (run / ".edakari.files").open("a") as file:
        file.write(entry.format(tmp_path) + "\n")
    claim(run, OTHER, overwrite=True)
    assert [path.read_text() for path in victims] == ["mine", "mine"]


@pytest.mark.parametrize("name", [".edakari.json.abcd_123.part", ".recipe.yaml.abcd_123.part"])
def test_what_a_kill_left_of_a_first_file_is_no_file_of_the_users(tmp_path, name):
    (tmp_path / name).write_text("half of i")
    claim(tmp_path, RECIPE)
    assert names(tmp_path) == [".edakari.files", "edakari.json", "recipe.yaml"]


@pytest.mark.parametrize("count", range(3))
def test_a_kill_while_a_folder_is_made_is_not_held_against_it(tmp_path, monkeypatch, killed_at, count):
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        killed_at(patched, count)
        with pytest.raises(Killed):
            claim(run, RECIPE).finish(CHECKED)
    restore_parts(run)
    assert list(run.rglob("*.part"))
    claim(run, RECIPE).finish(CHECKED)
    assert names(run) == [".edakari.files", "edakari.json", "recipe.yaml", "stages/check.json"]


@pytest.mark.parametrize("count", range(3))
@pytest.mark.parametrize("again", [False, True], ids=["resumed", "overwritten"])
def test_a_kill_while_a_run_is_overwritten_leaves_no_half_of_it(tmp_path, monkeypatch, killed_at, count, again):
    run = tmp_path / "run"
    claim(run, RECIPE).finish(CHECKED)
    with monkeypatch.context() as patched:
        killed_at(patched, count)
        with pytest.raises(Killed):
            claim(run, OTHER, overwrite=True)
    restore_parts(run)
    if count == 0:  # nothing had gone yet
        assert claim(run, RECIPE).done("check")
    fresh = claim(run, OTHER, overwrite=again or count == 0)
    assert not fresh.done("check")
    assert fresh.recipe()["seed"] == 1
    assert not list(run.rglob("*.part"))


def test_a_kill_between_two_removals_ends_in_a_fresh_run(tmp_path, monkeypatch):
    claim(tmp_path, RECIPE).finish(CHECKED)
    with monkeypatch.context() as patched:
        patched.setattr("edakari.core.owned.remove_listed", lambda folder: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            claim(tmp_path, OTHER, overwrite=True)
    assert (tmp_path / "stages" / "check.json").is_file()
    assert not claim(tmp_path, OTHER).done("check")


def test_a_failed_run_leaves_the_users_files_and_the_folder_usable(tmp_path):
    folder = claim(tmp_path / "run", RECIPE)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    release(folder, remove=True)
    assert names(tmp_path) == ["run/edakari.json", "run/notes.txt"]
    release(claim(tmp_path / "other", RECIPE), remove=True)
    assert not (tmp_path / "other").exists()
    (tmp_path / "empty").mkdir()
    release(claim(tmp_path / "empty", RECIPE), remove=False)
    assert not list((tmp_path / "empty").iterdir())
    assert marker(claim(tmp_path / "run", OTHER).path)["format"] == "edakari.pipeline/1"


def test_a_damaged_result_is_named(tmp_path):
    folder = claim(tmp_path, RECIPE)
    folder.finish(CHECKED)
    for content in ('{"a": ', "[" * 10**5, "[]", b"\xff\xfe"):
        (tmp_path / "stages" / "check.json").write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(RunFolderError, match=r"check\.json"):
            folder.result(CheckResult)


@pytest.mark.parametrize("name", ["export", "explain", "work"])
def test_a_linked_folder_in_a_run_is_not_emptied(tmp_path, name):
    """A list of somebody else's, with files below a link that leads out."""
    outside, run = tmp_path / "mine", tmp_path / "run"
    outside.mkdir()
    (outside / "thesis.onnx").write_text("x")
    (outside / ".thesis.onnx.abc.part").write_text("x")
    claim(run, RECIPE)
    (run / name).symlink_to(outside)
    (run / ".edakari.files").write_text(f"{name}/thesis.onnx\n")
    claim(run, RECIPE, overwrite=True)
    assert sorted(path.name for path in outside.iterdir()) == [".thesis.onnx.abc.part", "thesis.onnx"]


@pytest.mark.parametrize("way", ["link", "pipe"])
def test_a_list_that_is_a_link_or_a_pipe_is_not_written_to(tmp_path, way):
    claim(tmp_path / "run", RECIPE)
    ledger = tmp_path / "run" / ".edakari.files"
    ledger.unlink()
    (tmp_path / "profile").write_text("x")
    if way == "link":
        ledger.symlink_to(tmp_path / "profile")
    else:
        os.mkfifo(ledger)
    with pytest.raises(RunFolderError, match="link or no file"):
        files_module.write_text(tmp_path / "run" / "report.html", "x")
    assert (tmp_path / "profile").read_text() == "x"
