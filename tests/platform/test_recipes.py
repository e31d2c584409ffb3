"""Recipes and the runner: states, wrong recipes, whole runs as Ray jobs, explanations."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from starloom.errors import UserError
from starloom.recipe import State, load_recipe, resolve
from starloom.runner import LogPrinter

MODULE = """
    from starloom.config import Config
    from starloom.errors import RunError, UserError
    from starloom.step import Outcome, Step, main

    class {name}Config(Config):
        value: int = 1
        fail: str = ""

    def run(config, context):
        "Add the inputs' values to one's own."
        if config.fail == "user":
            raise UserError("value = 1: is wrong; use 2")
        if config.fail == "run":
            raise RunError("the work broke")
        total = config.value + sum(a.read_json("total.json") for a in context.inputs)
        context.say(f"total is {{total}}")
        context.output.write_json("total.json", total)
        return Outcome(rows_in=len(context.inputs), rows_out=total)

    STEP = Step(config={name}Config, run=run, produces="{kind}")
    if __name__ == "__main__":
        main(STEP)
"""
RECIPE = """
    name = "sums"
    root = "{root}"
    [[steps]]
    name = "one"
    run = "first_step"
    [[steps]]
    name = "two"
    run = "second_step"
    needs = ["one"]
    config = {{ value = 10 }}
"""


@pytest.fixture
def recipe_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module, name, kind in (("first_step", "First", "a"), ("second_step", "Second", "b")):
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(MODULE.format(name=name, kind=kind)))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path.cwd() / 'platform'}:{Path.cwd()}")
    path = tmp_path / "sums.toml"
    path.write_text(textwrap.dedent(RECIPE.format(root=tmp_path / "root")))
    return path


def starloom(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "starloom.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('name = "x"\nroot = "r"\nsteps = []', "has no [[steps]]"),
        ('name = "x"\nroot = "r"\n[[steps]]\nname = "a"\nrun = "m"\nneeds = ["b"]', "'b', which is no earlier step"),
        ('name = "x"\nroot = "r"\n[[steps]]\nname = "a/b"\nrun = "m"', "becomes a folder"),
        ('name = "x"\nroot = "r"\n[[steps]]\nname = "a"\nrun = "no_such.module"', "there is no such module"),
        ('name = "x"\nroot = "r"\n[[steps]]\nname = "a"\nrun = "json"', "defines no STEP"),
        ('name = "x"\nroot = "r"\nstepz = 1\n[[steps]]\nname = "a"\nrun = "m"', "did you mean 'steps'?"),
    ],
)
def test_wrong_recipe_is_told_in_one_line_with_exit_code_2(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        resolve(load_recipe(str(path)))
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_recipe_lists_the_built_in_ones() -> None:
    with pytest.raises(UserError, match="quickstart"):
        load_recipe("no-such-recipe")


def test_status_of_an_untouched_recipe_is_missing_everywhere(recipe_file: Path) -> None:
    assert [status.state for status in resolve(load_recipe(str(recipe_file)))] == [State.MISSING] * 2


def test_override_of_an_unknown_step_names_the_steps(recipe_file: Path) -> None:
    with pytest.raises(UserError, match="'three' is no step of the recipe 'sums'; its steps: one, two"):
        load_recipe(str(recipe_file), assignments=("three.value=1",))


@pytest.mark.slow
def test_run_does_what_is_missing_and_nothing_twice(recipe_file: Path) -> None:
    first = starloom("run", str(recipe_file))
    assert first.returncode == 0, first.stderr
    assert "two: total is 11" in first.stdout
    assert first.stdout.count("✓") == 2

    started = time.monotonic()
    second = starloom("run", str(recipe_file))
    assert "nothing to do, all 2 steps are done" in second.stdout
    assert time.monotonic() - started < 5

    status = starloom("status", str(recipe_file), "--set", "two.value=20").stdout
    assert [line.split()[1] for line in status.splitlines()[1:]] == ["done", "stale"]

    failed = starloom("run", str(recipe_file), "--set", "two.fail=run")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1] == "error: step two: the work broke"
    wrong = starloom("run", str(recipe_file), "--set", "one.fail=user")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1] == "error: step one: value = 1: is wrong; use 2"

    pruned = starloom("prune", str(recipe_file))
    assert "2 artifacts stale" in pruned.stdout  # the folders of the two failed attempts


def test_only_refuses_a_step_whose_input_is_not_done(recipe_file: Path) -> None:
    done = starloom("run", str(recipe_file), "--only", "two")
    assert done.returncode == 2
    assert "its input 'one' is not done; add --only one" in done.stderr
    assert not os.path.exists(recipe_file.parent / "root")


def test_job_log_is_shown_without_rays_own_lines_and_with_the_progress_of_ray_data(
    capsys: pytest.CaptureFixture[str],
) -> None:
    printer = LogPrinter()
    printer.add("2026-01-02 03:04:05,678\tINFO streaming_executor.py:216 -- Execution plan of Dataset x\n")
    printer.add("2026-01-02 03:04:05,678\tINFO logging_progress.py:231 -- Map(collect): 0/6\n")
    printer.add(
        "2026-01-02 03:04:06,678\tINFO logging_progress.py:231 -- Map(collect): 4/6\nINFO 2026-01-02 03:04:05,6"
    )
    printer.add("78 controller 1 -- Adding 1 replica\n\x1b[36m(RayTrainWorker pid=7)\x1b[0m step 1\nhalf ")
    printer.finish("?" * printer._seen + "a line\nWARNING kept\n")
    assert capsys.readouterr().out.splitlines() == ["  Map(collect) 4/6", "  step 1", "  half a line", "  WARNING kept"]
    assert printer.last[-2:] == ["WARNING kept", ""]
