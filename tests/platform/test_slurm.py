"""The Slurm script with a stand-in for srun and scontrol that runs each node's command on this machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from starloom.artifact import find
from starloom.ports import free_port
from tests.conftest import thorough
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "platform" / "clusters" / "starloom.sbatch"
STAND_INS = {
    "scontrol": 'printf "%s\\n" ${3//,/ }',
    # what comes behind the options, once for each task
    "srun": """
        tasks=1
        while [ "${1#--}" != "$1" ]; do [ "$1" = --ntasks ] && tasks=$2; shift 2; done
        [ "$1" = hostname ] && { echo 127.0.0.1; exit; }
        for _ in $(seq $tasks); do "$@" & done
        trap 'kill $(jobs -p)' TERM
        wait
        wait
    """,
}
RECIPE = """
name = "slurm"
root = "{root}"
[[steps]]
name = "collected"
run = "data_jobs.collect"
config = {{ sources = [{{ kind = "folder", path = "{source}" }}] }}
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, body in STAND_INS.items():
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "SLURM_"))}
    return {
        **kept,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "STARLOOM_VENV": sys.prefix,
        "STARLOOM_PORT": str(free_port()),
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "one,two",
        "SLURM_CPUS_ON_NODE": "1",
    }


def sbatch(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """The script, as a batch job's first node runs it."""
    command = ["bash", str(SCRIPT), *words]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@thorough
def test_a_recipe_runs_on_the_nodes_of_a_job_and_leaves_none_behind(tmp_path: Path, environment) -> None:
    (tmp_path / "source" / "one").mkdir(parents=True)
    (tmp_path / "source" / "one" / "a.py").write_text("def add(first, second):\n    return first + second\n")
    recipe = tmp_path / "slurm.toml"
    recipe.write_text(RECIPE.format(root=tmp_path / "root", source=tmp_path / "source"))
    done = sbatch(environment, str(recipe))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Ray runs on 2 of 2 nodes" in done.stdout
    assert "✓ collected" in done.stdout
    assert find(str(tmp_path / "root"), "collected").manifest.counts.rows_out == 1
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert not re.search(rf"gcs_server.*{environment['STARLOOM_PORT']}", listed)


def test_what_is_missing_is_one_line(environment) -> None:
    for changed, words, told in (
        ({}, (), "usage: sbatch starloom.sbatch RECIPE"),
        ({"SLURM_JOB_NODELIST": ""}, ("quickstart",), "no Slurm job; submit it with sbatch"),
        ({"STARLOOM_VENV": "/nowhere"}, ("quickstart",), "STARLOOM_VENV = /nowhere: holds no Ray"),
    ):
        refused = sbatch({**environment, **changed}, *words)
        assert refused.returncode == 2
        assert told in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
