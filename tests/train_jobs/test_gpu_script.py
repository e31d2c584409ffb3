"""The GPU benchmark runs on a CPU at toy size, from the repository and its wheels alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_dry_run_prints_parity_speed_and_limits() -> None:
    # -S -I would hide the wheels; an import of Ray is what a bare GPU machine could not follow
    program = (
        "import sys, runpy\n"
        "class Barred:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('ray', 'transformers'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Barred())\n"
        "sys.argv = ['bench', '--dry']\n"
        "runpy.run_module('tests.benchmarks.bench_train_gpu', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", program]
    environment = {"PYTHONPATH": ".:platform", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert results["parity"]["sdpa"]["output"] < 1e-5
    assert results["parity"]["sdpa"]["gradient"] < 1e-5
    assert set(results["mfu"]) == {"sdpa-64", "sdpa-128"}
    assert all(0 < row["of_measured"] < 1.2 for row in results["mfu"].values())
    assert results["copy_gb_per_s"] > 0


def test_without_a_gpu_it_says_so() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.bench_train_gpu"]
    environment = {"PYTHONPATH": ".:platform", "PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("no GPU here; --dry runs a toy on the CPU")
