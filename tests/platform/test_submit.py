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

import pytest

from starloom.artifact import find
from starloom.ports import free_port

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
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
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
    deadline = time.monotonic() + 90
    while made.call("ray", "job", "list", "--address", made.address).returncode != 0:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
    yield made
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)


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


def test_job_without_the_token_is_refused(head: Head, recipe: Path) -> None:
    wrong = {"RAY_AUTH_TOKEN": "0" * 32}
    refused = head.call("starloom", "submit", str(recipe), "--address", head.address, **wrong)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("error: --address")
