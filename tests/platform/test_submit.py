"""Jobs on a running cluster that asks for a token: the recipe by `starloom submit`, one step by `ray job submit`."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from starloom.artifact import find
from starloom.ports import free_port
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
RECIPE = """
name = "sent"
root = "{root}"
[[steps]]
name = "collected"
run = "data_jobs.collect"
config = {{ sources = [{{ kind = "folder", path = "{source}" }}] }}
[[steps]]
name = "quality"
run = "data_jobs.filter"
needs = ["collected"]
"""


@dataclass(frozen=True)
class Head:
    """A head node's dashboard and what its clients need in their environment."""

    address: str
    environment: dict[str, str]

    def call(self, *command: str, **changed: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, **changed}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    port, dashboard, agent = free_port(), free_port(), free_port()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": "platform",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
    }
    command = [
        *("ray", "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2", f"--port={port}"),
        *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        f"--dashboard-agent-listen-port={agent}",  # the default one belongs to whatever Ray runs here already
        *("--object-store-memory=200000000", f"--temp-dir={tmp_path_factory.mktemp('ray')}"),
    ]
    log = tmp_path_factory.mktemp("head") / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    made = Head(f"http://127.0.0.1:{dashboard}", environment)
    deadline = time.monotonic() + PATIENCE
    while made.call("ray", "job", "list", "--address", made.address).returncode != 0:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
    yield made
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=PATIENCE)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    source = folder / "source" / "team" / "one"
    source.mkdir(parents=True)
    for number in range(4):
        (source / f"m{number}.py").write_text(f"def add_{number}(first, second):\n    return first + second\n")
    path = folder / "sent.toml"
    path.write_text(RECIPE.format(root=folder / "root", source=folder / "source"))
    return path


def test_submitted_recipe_runs_each_step_as_a_named_job(head: Head, recipe: Path) -> None:
    done = head.call("starloom", "submit", str(recipe), "--address", head.address, "--follow")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("✓") == 2
    assert find(str(recipe.parent / "root"), "quality").manifest.counts.rows_in == 4
    jobs = head.call("ray", "job", "list", "--address", head.address).stdout
    assert "sent.collected" in jobs
    assert "sent.quality" in jobs


def test_one_step_is_a_plain_ray_job(head: Head, recipe: Path) -> None:
    root = recipe.parent / "root"
    job = recipe.parent / "corpus.toml"
    job.write_text(f'name = "corpus"\nroot = "{root}"\nneeds = ["collected", "quality"]\n')
    command = ("ray", "job", "submit", "--address", head.address, "--working-dir", ".", "--")
    done = head.call(*command, "python", "-m", "data_jobs.curate", "--config", str(job))
    assert done.returncode == 0, done.stdout + done.stderr
    assert find(str(root), "corpus").manifest.counts.rows_out == 4


OWN_STEP = """
import os, sys, time
from pathlib import Path
from starloom.config import Config
from starloom.errors import RunError
from starloom.program import main
from starloom.step import Outcome, Step

class OwnConfig(Config):
    seconds: float = 0
    failures: int = 0

def run(config, context):
    "Fail some times, then wait."
    tries = Path(context.output.folder) / ".tries"
    tries.write_text((tries.read_text() if tries.exists() else "") + "x")
    if len(tries.read_text()) <= config.failures:
        raise RunError("not yet")
    context.say(f"waits, with {os.environ.get('OWN_WORD')}")
    time.sleep(config.seconds)
    context.output.write_text("pid", str(os.getpid()))
    return Outcome(rows_out=1)

STEP = Step(config=OwnConfig, run=run, produces="own")
if __name__ == "__main__":
    main(STEP)
"""


def own_recipe(folder: Path, name: str, settings: str, retries: int = 0) -> Path:
    (folder / "own_step.py").write_text(OWN_STEP)
    path = folder / f"{name}.toml"
    step = f'name = "one"\nrun = "own_step"\nretries = {retries}\nconfig = {{ {settings} }}\n'
    path.write_text(f'name = "{name}"\nroot = "{folder / "root"}"\n[[steps]]\n{step}')
    return path


def test_a_run_is_listed_read_and_stopped_with_its_step(head: Head, tmp_path: Path) -> None:
    path = own_recipe(tmp_path, "long", "seconds = 600")
    at = ("--address", head.address)
    sent = head.call("starloom", "submit", str(path), *at, "--env", "OWN_WORD=a word")
    assert sent.returncode == 0, sent.stderr
    run = sent.stdout.split()[0]
    deadline = time.monotonic() + PATIENCE
    while "waits, with a word" not in head.call("starloom", "logs", run, "one", *at).stdout:
        assert time.monotonic() < deadline, head.call("starloom", "logs", run, *at).stdout
    assert f"{run:<44} running" in head.call("starloom", "runs", *at).stdout
    assert "one running" in head.call("starloom", "runs", *at).stdout
    assert " running " in head.call("starloom", "status", str(path)).stdout
    assert "▶ one" in head.call("starloom", "logs", run, *at).stdout
    assert head.call("starloom", "stop", run, *at).stdout.count("stopped ") >= 1
    while not all(word in head.call("starloom", "runs", *at).stdout for word in (f"{run:<44} stopped", "one stopped")):
        assert time.monotonic() < deadline
    while " unfinished " not in head.call("starloom", "status", str(path)).stdout:  # nobody holds its folder any more
        assert time.monotonic() < deadline
    ended = head.call("starloom", "attach", run, *at)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: run long-")
    unknown = head.call("starloom", "stop", "never-was", *at)
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("error: never-was: no such run")
    assert run in unknown.stderr


def test_stopping_the_runs_job_ends_its_step(head: Head, tmp_path: Path) -> None:
    path = own_recipe(tmp_path, "stopped", "seconds = 600")
    run = head.call("starloom", "submit", str(path), "--address", head.address).stdout.split()[0]
    deadline = time.monotonic() + PATIENCE
    while " running " not in head.call("starloom", "status", str(path)).stdout:
        assert time.monotonic() < deadline
    head.call("ray", "job", "stop", run, "--address", head.address)
    while " unfinished " not in head.call("starloom", "status", str(path)).stdout:
        assert time.monotonic() < deadline


def test_a_step_is_tried_again_as_often_as_it_says(head: Head, tmp_path: Path) -> None:
    path = own_recipe(tmp_path, "again", "failures = 1", retries=1)
    done = head.call("starloom", "submit", str(path), "--address", head.address, "--follow")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step one: not yet; again in 2 s" in done.stdout
    path = own_recipe(tmp_path, "never", "failures = 2", retries=1)
    done = head.call("starloom", "submit", str(path), "--address", head.address, "--follow")
    assert done.returncode == 1
    assert "error: step one: not yet" in done.stdout


def test_a_local_run_that_is_told_to_end_ends_its_step(tmp_path: Path) -> None:
    path = own_recipe(tmp_path, "local", "seconds = 600")
    command = [sys.executable, "-m", "starloom.cli"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}

    def state() -> str:
        told = subprocess.run([*command, "status", str(path)], capture_output=True, text=True, cwd=ROOT, check=True)
        return told.stdout.splitlines()[-1].split()[1]

    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen([*command, "run", str(path)], stdout=log, stderr=log, cwd=ROOT, env=environment)
    deadline = time.monotonic() + PATIENCE
    while state() != "running":
        assert run.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=PATIENCE) == 130
    while state() != "unfinished":
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("raylet/raylet", "Ray's last node has died"),
        ("dashboard/dashboard.py", "the dashboard, which has the jobs"),
    ],
)
def test_a_local_run_whose_ray_dies_ends_with_a_line(tmp_path: Path, name: str, told: str) -> None:
    path = own_recipe(tmp_path, "orphan", "seconds = 600")
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "starloom.cli", "run", str(path)]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=environment)
    deadline = time.monotonic() + PATIENCE
    while "waits" not in (tmp_path / "log").read_text():
        assert run.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for child in psutil.Process(run.pid).children(recursive=True):
        if any(name in word for word in child.cmdline()):
            child.kill()
    assert run.wait(timeout=PATIENCE) == 1
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[-1].startswith("error: ")
    assert told in lines[-1]
    assert "Traceback" not in "".join(lines)


def test_job_without_the_token_is_refused(head: Head, recipe: Path) -> None:
    wrong = {"RAY_AUTH_TOKEN": "0" * 32}
    refused = head.call("starloom", "submit", str(recipe), "--address", head.address, **wrong)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("error: --address")
