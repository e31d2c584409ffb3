"""Recipes and the runner: states, wrong recipes, whole runs as Ray jobs, explanations."""

import os
import socket
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest

from starloom.artifact import Artifact
from starloom.errors import UserError
from starloom.joblog import LogPrinter
from starloom.jobs import write_job_file
from starloom.recipe import State, builtin_recipes, check, latest, load_recipe, resolve
from starloom.step import run_step
from tests.patience import PATIENCE

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


def starloom(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "starloom.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


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


@pytest.mark.parametrize("name", sorted(builtin_recipes()))
def test_every_built_in_recipe_has_steps_and_settings_that_exist(name: str) -> None:
    recipe = load_recipe(name)
    assert [checked.entry.name for checked in check(recipe)] == recipe.names


def test_unknown_recipe_lists_the_built_in_ones() -> None:
    with pytest.raises(UserError, match="quickstart"):
        load_recipe("no-such-recipe")


def test_a_closed_pipe_ends_a_command_without_a_word(recipe_file: Path) -> None:
    words = f"{sys.executable} -m starloom.cli status {recipe_file} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stderr == ""
    assert done.stdout in ("141\n", "0\n")  # it has printed all before the other one went


def test_a_reader_that_is_gone_is_told_from_other_pipes(tmp_path: Path) -> None:
    program = (
        "import sys, time; from starloom.errors import guarded\n"
        "def say():\n    time.sleep(float(sys.argv[1])); print('x' * 100_000); return 0\n"
        "def fail():\n    raise BrokenPipeError(32, 'a socket of ours')\n"
        "sys.exit(guarded(say if len(sys.argv) > 1 else fail))"
    )
    (tmp_path / "said.py").write_text(program)
    run = f"{sys.executable} {tmp_path}/said.py"
    words = f"{run} 1 | true; echo ${{PIPESTATUS[0]}}; {run}; echo $?"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout.splitlines() == ["141", "1"]
    assert done.stderr.splitlines()[-1] == "error: BrokenPipeError: [Errno 32] a socket of ours"


def test_status_of_an_untouched_recipe_is_missing_everywhere(recipe_file: Path) -> None:
    assert [status.state for status in resolve(load_recipe(str(recipe_file)))] == [State.MISSING] * 2


def test_override_of_an_unknown_step_names_the_steps(recipe_file: Path) -> None:
    with pytest.raises(UserError, match="'three' is no step of the recipe 'sums'; its steps: one, two"):
        load_recipe(str(recipe_file), assignments=("three.value=1",))


@pytest.mark.slow
def test_run_takes_another_port_for_its_dashboard_where_the_usual_one_is_taken(recipe_file: Path) -> None:
    with socket.socket() as other:
        with suppress(OSError):  # taken already, by another cluster of this machine
            other.bind(("127.0.0.1", 8265))
            other.listen()
        done = starloom("run", str(recipe_file))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_run_does_what_is_missing_and_nothing_twice(recipe_file: Path) -> None:
    first = starloom("run", str(recipe_file))
    assert first.returncode == 0, first.stderr
    assert "two: total is 11" in first.stdout
    assert first.stdout.count("✓") == 2

    second = starloom("run", str(recipe_file))
    assert "nothing to do, all 2 steps are done" in second.stdout

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


def test_a_lost_node_is_one_line_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    raylet = "\x1b[33m(raylet)\x1b[0m "
    printer = LogPrinter("sums | ")
    ended = "Raylet is terminated. Termination is unexpected. Possible reasons include: (1) SIGKILL by the user."
    missed = (
        "The node with node id: 2f and address: 10.0.0.2 has been marked dead because the detector has missed too many"
    )
    for line in (
        f"{raylet}{ended} Last 20 lines of the Raylet logs:",
        "    [2026-11-28 01:46:03,459 I 21370 21370] (raylet) accessor.cc:475: Received address",
        "    [state-dump] NodeManager.GcsCheckAlive - 1 total (1 active)",
        "",
        f"{raylet}{missed} heartbeats from it. This can happen when a \t(1) raylet crashes unexpectedly",
        "\t(2) raylet has lagging heartbeats due to slow network or busy workload.",
        f"{raylet}Task _map_task failed. There are infinite retries remaining, so the task will be retried.",
        "sign: 1 of 1 shards",
    ):
        printer.add(line + "\n")
    assert capsys.readouterr().out.splitlines() == [
        "  sums | a node of the cluster was lost; what ran there runs again",
        "  sums | Task _map_task failed",
        "  sums | sign: 1 of 1 shards",
    ]


COUNTED_STEP = """\
from pathlib import Path

from starloom.config import Config
from starloom.program import main
from starloom.step import Outcome, Step


class CountedConfig(Config):
    folder: str


def run(config, context):
    context.output.write_text("out.txt", "done")
    return Outcome(rows_out=1)


def source_state(config):
    asked = Path(config.folder) / "asked"
    asked.write_text(str(int(asked.read_text()) + 1) if asked.exists() else "1")
    return [[str(path), 1] for path in sorted(Path(config.folder).glob("*.txt"))]


STEP = Step(config=CountedConfig, run=run, produces="counted", source_state=source_state)

if __name__ == "__main__":
    main(STEP)
"""


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe whose step counts how often its source is asked."""
    (tmp_path / "counted_step.py").write_text(COUNTED_STEP)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.txt").write_text("a")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "counted.toml"
    path.write_text(
        f'name = "counted"\nroot = "{tmp_path}/root"\n[[steps]]\nname = "one"\nrun = "counted_step"\n'
        f'config = {{ folder = "{tmp_path}/source" }}\n'
    )
    return path


def test_source_is_asked_once_and_its_state_travels_in_the_job_file(counted: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(counted))
    (status,) = resolve(recipe)
    job = write_job_file(status, recipe.root)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path.cwd() / 'platform'}:{Path.cwd()}"}
    command = [sys.executable, "-m", "counted_step", "--config", job]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "source" / "asked").read_text() == "1"
    assert Artifact.open(status.folder).fingerprint == status.fingerprint
    # another config than the one that the state was asked for: it is asked again
    (tmp_path / "other").mkdir()
    subprocess.run([*command, "--set", f"folder={tmp_path}/other"], env=environment, timeout=PATIENCE, check=True)
    assert (tmp_path / "other" / "asked").read_text() == "1"
    # a state without the config that it was asked for
    partial = Path(job).read_text().replace("config = ", "setting = ", 1)
    (tmp_path / "partial.toml").write_text(partial)
    command[-1] = str(tmp_path / "partial.toml")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "source.setting" in done.stderr or "source.config" in done.stderr


def test_check_looks_at_settings_and_not_at_sources(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(
        'name = "cluster"\nroot = "s3://team/runs"\n[[steps]]\nname = "collected"\nrun = "data_jobs.collect"\n'
        'config = { sources = [{ kind = "folder", path = "/only/on/the/cluster" }] }\n'
    )
    assert [step.entry.name for step in check(load_recipe(str(path)))] == ["collected"]
    with pytest.raises(UserError, match="no such folder"):
        resolve(load_recipe(str(path), root=str(tmp_path)))
    with pytest.raises(UserError, match="unknown key 'sorces'"):
        check(load_recipe(str(path), assignments=("collected.sorces=1",)))


def test_newest_of_what_a_run_has_left_is_read_with_what_it_was_made_from(recipe_file: Path, tmp_path: Path) -> None:
    def run_with(value: int) -> list[str]:
        recipe = load_recipe(str(recipe_file), assignments=(f"one.value={value}",))
        made = []
        for status in resolve(recipe):
            needs = [Artifact.open(f"{recipe.root}/{need}") for need in status.needs]
            made.append(run_step(status.step, status.config, root=recipe.root, name=status.entry.name, needs=needs))
        return [artifact.fingerprint for artifact in made]

    first, second = run_with(1), run_with(2)
    # a later attempt of the first step alone: the newest second step was not made from it
    recipe = load_recipe(str(recipe_file), assignments=("one.value=3",))
    status = resolve(recipe)[0]
    run_step(status.step, status.config, root=recipe.root, name="one")
    assert first != second
    assert [artifact.fingerprint for artifact in latest(recipe)] == second
    # what is not asked for may be damaged
    (tmp_path / "root" / "one" / first[0] / "manifest.json").write_text("{}")
    assert [artifact.fingerprint for artifact in latest(recipe)] == second
