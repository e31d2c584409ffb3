"""A package that adds to Starloom by entry points alone: built, installed beside it, and used under its short names."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from starloom.artifact import finished
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
RECIPE = """
name = "acme"
root = "{root}"
[[steps]]
name = "collected"
run = "data_jobs.collect"
config = {{ sources = [{{ kind = "acme-files", paths = ["{code}/owner.py", "{code}/scratch.py"] }}] }}
[[steps]]
name = "quality"
run = "data_jobs.filter"
needs = ["collected"]
config = {{ rules = ["acme-scratch", "generated"] }}
[[steps]]
name = "personal"
run = "data_jobs.redact"
needs = ["collected", "quality"]
config = {{ detectors = ["emails", "acme-badges"] }}
[[steps]]
name = "corpus"
run = "data_jobs.curate"
needs = ["collected", "quality", "personal"]
[[steps]]
name = "lines"
run = "acme-lines"
needs = ["corpus"]
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(ROOT / "tests" / "platform" / "plugin", folder / "source")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", str(folder / "site"), str(folder / "source")], check=True)
    kept = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(folder / "site"), str(ROOT), str(ROOT / "platform")])}


def call(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_source_rule_detector_and_step_of_a_package_make_a_run(environment: dict[str, str], tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "owner.py").write_text('OWNER = "EMP-123456"\n\n\ndef add(first, second):\n    return first + second\n')
    (code / "scratch.py").write_text("def sub(first, second):\n    return first - second\n")
    (tmp_path / "acme.toml").write_text(RECIPE.format(root=tmp_path / "root", code=code))
    done = call(environment, "-m", "starloom.cli", "run", str(tmp_path / "acme.toml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "dropped acme_scratch 1" in done.stdout
    (corpus,) = finished(str(tmp_path / "root"), "corpus")
    (row,) = corpus.read_table("data/part-00000.parquet").to_pylist()
    assert row["content"].startswith('OWNER = "<KEY>"')
    (lines,) = finished(str(tmp_path / "root"), "lines")
    assert lines.read_json("lines.json") == 5
    quality = finished(str(tmp_path / "root"), "quality")[0].manifest
    assert len(quality.provenance["source"][1]) == 1  # an edit of the rule makes the step stale


def test_benchmark_and_dialect_of_a_package_are_there(environment: dict[str, str]) -> None:
    listed = call(environment, "-m", "starloom.cli", "evaluate", "--benchmarks")
    assert "acme-doubling" in listed.stdout, listed.stderr
    program = "from serve_apps.api.app import DIALECTS; print(DIALECTS.of('/acme').name)"
    assert call(environment, "-c", program).stdout == "Acme\n"


def test_without_the_package_its_names_are_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "acme.toml").write_text(RECIPE.format(root=tmp_path / "root", code=tmp_path))
    refused = call(dict(os.environ), "-m", "starloom.cli", "status", str(tmp_path / "acme.toml"))
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert json.dumps("acme-files").strip('"') in refused.stderr
