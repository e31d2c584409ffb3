"""What prune leaves alone, roots that cannot hold a run, inputs of a wrong kind: told before anything starts."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from starloom.artifact import Artifact
from starloom.cluster import USAGE_STATISTICS, prepare_environment
from starloom.content import folder_state
from starloom.errors import UserError
from starloom.reachable import keep_plan, stale
from starloom.recipe import Recipe, check, load_recipe, resolve
from starloom.runner import travels
from starloom.step import run_step
from tests.platform.test_recipes import starloom

STEP = """\
from starloom.config import Config
from starloom.step import Count, Outcome, Step

class {name}Config(Config):
    value: int = 0

STEP = Step(config={name}Config, run=lambda config, context: Outcome(), produces="{kind}", consumes={consumes})
"""
RECIPE = """
name = "{name}"
root = "{root}"
[[steps]]
name = "one"
run = "first_step"
config = {{ value = {value} }}
[[steps]]
name = "two"
run = "second_step"
needs = ["{need}"]
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two steps: the second takes one of the first's."""
    (tmp_path / "first_step.py").write_text(STEP.format(name="First", kind="firsts", consumes="{}"))
    (tmp_path / "second_step.py").write_text(
        STEP.format(name="Second", kind="seconds", consumes='{"firsts": Count.ONE, "thirds": Count.OPTIONAL}')
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("first_step", "second_step"):
        sys.modules.pop(name, None)
    return tmp_path


def _recipe(folder: Path, name: str, *, value: int = 0, need: str = "one") -> Recipe:
    path = folder / f"{name}.toml"
    path.write_text(RECIPE.format(name=name, root=folder / "root", value=value, need=need))
    return load_recipe(str(path))


def _run(recipe: Recipe) -> list[Artifact]:
    """What `starloom run` does, in this process."""
    keep_plan(recipe, resolve(recipe))
    return [
        run_step(one.step, one.config, root=recipe.root, name=one.entry.name, needs=one.needs)
        for one in resolve(recipe)
    ]


def _stale(recipe: Recipe) -> set[str]:
    return {one.folder for one in stale(recipe, resolve(recipe))}


def test_prune_leaves_what_the_recipe_pins_and_what_that_was_made_from(made: Path) -> None:
    first, second = _run(_recipe(made, "old"))
    (made / "root" / ".plans" / "of-old").unlink()  # a run of before there were plans
    pinned = _recipe(made, "pinned", value=1, need=f"one/{first.fingerprint}")
    _run(pinned)
    assert _stale(pinned) == set()  # its second step has the pinned one's output too
    plain = _recipe(made, "pinned", value=2)
    assert _stale(plain) == {first.folder, second.folder, str(made / "root" / "one" / _one(made, 1))}


def _one(folder: Path, value: int) -> str:
    return resolve(_recipe(folder, "other", value=value))[0].fingerprint


def test_prune_leaves_what_another_recipe_of_the_root_leads_to(made: Path) -> None:
    _run(_recipe(made, "old"))
    ours = _recipe(made, "ours", value=1)
    _run(ours)
    assert _stale(ours) == set()
    _run(_recipe(made, "old", value=3))  # it leads elsewhere now
    assert len(_stale(ours)) == 2


def test_prune_leaves_what_is_being_written(made: Path) -> None:
    recipe = _recipe(made, "ours")
    _run(recipe)
    busy = made / "root" / "one" / "0123456789abcdef"
    busy.mkdir()
    descriptor = os.open(busy / ".lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert _stale(recipe) == set()
    os.close(descriptor)
    assert _stale(recipe) == {str(busy)}


@pytest.mark.parametrize(
    ("needs", "told"),
    [
        ('"one", "two"', "takes no artifact of kind 'seconds'; it takes firsts (one), thirds (optional)"),
        ("", "needs an artifact of kind 'firsts'; add the step that makes it"),
        ('"one", "again"', "takes one artifact of kind 'firsts', and needs names 2"),
    ],
)
def test_inputs_of_a_wrong_kind_are_told_before_anything_starts(made: Path, needs: str, told: str) -> None:
    path = made / "wrong.toml"
    again = '[[steps]]\nname = "again"\nrun = "first_step"\n'
    again += f'[[steps]]\nname = "last"\nrun = "second_step"\nneeds = [{needs}]'
    path.write_text(RECIPE.format(name="wrong", root=made / "root", value=0, need="one") + again)
    with pytest.raises(UserError) as caught:
        check(load_recipe(str(path)))
    assert str(caught.value) == f"recipe wrong, step last: second_step {told}"


def test_steps_that_tell_nothing_are_asked_nothing(made: Path) -> None:
    (made / "second_step.py").write_text(STEP.format(name="Second", kind="seconds", consumes="None"))
    assert len(check(_recipe(made, "any"))) == 2


@pytest.mark.parametrize("root", ["http://example.org/run", "https://example.org/run", "ftp://x/run", "zip://x"])
def test_root_where_nothing_can_be_written_is_told(made: Path, root: str) -> None:
    _recipe(made, "one")
    with pytest.raises(UserError, match="cannot hold a run; give a folder, or one of s3://"):
        load_recipe(str(made / "one.toml"), root=root)


def test_root_below_a_file_is_told(made: Path) -> None:
    _recipe(made, "one")
    (made / "afile").write_text("x")
    with pytest.raises(UserError, match=r"afile/x': .*afile is no folder; give another root"):
        load_recipe(str(made / "one.toml"), root=str(made / "afile" / "x"))


def test_relative_root_does_not_travel(made: Path) -> None:
    recipe = _recipe(made, "one")
    for asked in ("runs/x", "./x", "file://x"):
        with pytest.raises(UserError, match="is relative, and would lie in a folder of Ray's own"):
            travels(recipe, asked=asked)
    travels(recipe, asked="/mnt/shared/x")
    travels(recipe.model_copy(update={"root": "s3://bucket/x"}), asked="s3://bucket/x")


def test_submit_refuses_a_relative_root_in_one_line() -> None:
    done: subprocess.CompletedProcess[str] = starloom("submit", "quickstart", "--address", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert done.stderr.startswith("error: root = 'runs/quickstart': is relative")
    assert len(done.stderr.splitlines()) == 1


def test_what_a_folder_holds_is_its_state_whatever_its_dates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARLOOM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    first = folder_state(str(folder), setting="initial_model")
    os.utime(folder / "config.json", (1, 1))
    assert folder_state(str(folder), setting="initial_model") == first  # touched
    stat = (folder / "config.json").stat()
    (folder / "config.json").write_text("[]")
    os.utime(folder / "config.json", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert folder_state(str(folder), setting="initial_model") != first  # edited, with its old size and date
    for kept in (tmp_path / "cache" / "digests").iterdir():
        kept.write_text("{half")
    assert len(folder_state(str(folder), setting="initial_model")) == 1
    with pytest.raises(UserError, match=r"initial_model: .*no such folder"):
        folder_state(str(folder / "none"), setting="initial_model")


def test_module_beside_the_recipe_is_found_and_its_content_counts(made: Path) -> None:
    (made / "source").mkdir()
    (made / "source" / "a.py").write_text("x = 1\n")
    (made / "my_rules_beside.py").write_text("def rule(file):\n    return None\n")
    recipe = made / "r.toml"
    recipe.write_text(
        f"""
name = "r"
root = "{made}/root"
[[steps]]
name = "collected"
run = "data_jobs.collect"
config = {{ sources = [{{ kind = "folder", path = "{made}/source" }}] }}
[[steps]]
name = "quality"
run = "data_jobs.filter"
config = {{ rules = ["my_rules_beside:rule"] }}
needs = ["collected"]
"""
    )
    elsewhere = ("status", str(recipe))  # run where the module is not
    first = starloom(*elsewhere).stdout
    assert first.count("missing") == 2
    (made / "my_rules_beside.py").write_text("def rule(file):\n    return 'no'\n")
    second = starloom(*elsewhere).stdout
    assert [a == b for a, b in zip(first.splitlines(), second.splitlines(), strict=True)] == [True, True, False]
    (made / "my_rules_beside.py").unlink()
    gone = starloom(*elsewhere)
    assert gone.returncode == 2
    assert "error: rules: there is no module 'my_rules_beside'; put it beside the recipe" in gone.stderr


def test_rays_usage_statistics_are_off_unless_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(USAGE_STATISTICS, raising=False)
    prepare_environment()
    assert os.environ[USAGE_STATISTICS] == "0"
    monkeypatch.setenv(USAGE_STATISTICS, "1")
    prepare_environment()
    assert os.environ[USAGE_STATISTICS] == "1"
