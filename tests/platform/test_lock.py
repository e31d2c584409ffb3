"""A lock holds what a recipe comes to: another setting, input or source is refused in a line, before anything runs."""

from pathlib import Path

import pytest

from starloom import lock
from starloom.cli import main

RECIPE = """
name = "locked"
root = "{root}"
[[steps]]
name = "collected"
run = "data_jobs.collect"
config = {{ sources = [{{ kind = "folder", path = "{code}" }}] }}
[[steps]]
name = "quality"
run = "data_jobs.filter"
needs = ["collected"]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("x = 1\n")
    path = tmp_path / "locked.toml"
    path.write_text(RECIPE.format(root=tmp_path / "root", code=tmp_path / "code"))
    assert main(["lock", str(path)]) == 0
    return path


@pytest.mark.parametrize(
    ("words", "changed", "told"),
    [
        (["--set", "quality.rules=['generated']"], None, "step quality is another than in .*: its settings or inputs"),
        ([], "x = 2\n", "step collected is another than in .*: its sources have changed; run starloom lock again"),
    ],
)
def test_what_has_changed_is_refused(recipe: Path, words: list[str], changed: str | None, told: str, capsys) -> None:
    import re

    if changed:
        (recipe.parent / "code" / "a.py").write_text(changed)
    assert main(["run", str(recipe), "--frozen", *words]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(f"error: --frozen: {told}.*\n", error), error
    assert not (recipe.parent / "root").exists()


def test_other_steps_are_refused(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.write_text(recipe.read_text().split('[[steps]]\nname = "quality"')[0])
    assert main(["run", str(recipe), "--frozen"]) == 2
    assert "the recipe has other steps than" in capsys.readouterr().err


def test_a_lock_is_written_the_same_again_and_holds_a_copy_of_the_files(recipe: Path) -> None:
    text = Path(lock.place_of(str(recipe))).read_text()
    (recipe.parent / "code" / "a.py").write_text("x = 1\n")  # another date
    assert main(["lock", str(recipe)]) == 0
    assert Path(lock.place_of(str(recipe))).read_text() == text


def test_what_has_no_lock_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lock", "quickstart"]) == 2
    assert "only a recipe in a file of yours has a lock" in capsys.readouterr().err
