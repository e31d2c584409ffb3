"""The path from a folder of code to a report, as a user runs it, and again after kill -9 at several moments."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from starloom import storage
from starloom.artifact import Artifact, finished
from starloom.recipe import State, load_recipe, resolve
from starloom.verify import damages
from tests.conftest import thorough
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
RECIPE = """
name = "path"
root = "{root}"

[[steps]]
name = "collected"
run = "data_jobs.collect"
config = {{ sources = [{{ kind = "folder", path = "{source}", repositories = "children" }}] }}

[[steps]]
name = "quality"
run = "data_jobs.filter"
needs = ["collected"]

[[steps]]
name = "duplicates"
run = "data_jobs.deduplicate"
needs = ["collected", "quality"]

[[steps]]
name = "corpus"
run = "data_jobs.curate"
needs = ["collected", "quality", "duplicates"]

[[steps]]
name = "tokenizer"
run = "data_jobs.train_tokenizer"
needs = ["corpus"]
config = {{ vocabulary = 400 }}

[[steps]]
name = "tokens"
run = "data_jobs.pack"
needs = ["corpus", "tokenizer"]
config = {{ heldout_share = 0.3 }}

[[steps]]
name = "model"
run = "train_jobs.pretrain"
needs = ["tokens", "tokenizer"]
[steps.config]
steps = 40
global_batch = 4
micro_batch = 4
checkpoint_every = 10
heldout_every = 20
heldout_sequences = 4
model = {{ layers = 2, hidden = 32, heads = 4, context = 128 }}
optimizer = {{ rate = 3e-3, final_rate = 3e-4, warmup_steps = 4 }}
"""
JUDGED = """
[[steps]]
name = "evaluation"
run = "serve_apps.evaluate"
needs = ["model", "tokens"]
config = {{ tasks = 2, max_tokens = 8, heldout_bytes = 20000 }}

[[steps]]
name = "report"
run = "starloom.report"
needs = ["collected", "quality", "duplicates", "corpus", "tokenizer", "tokens", "model", "evaluation"]
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real code: some modules of the standard library, each as a repository of its own, and a copy of one."""
    folder = tmp_path_factory.mktemp("source")
    library = Path(os.__file__).parent
    for name in ("ast", "bisect", "calendar", "cmd", "csv", "dis", "fnmatch", "glob", "gzip", "heapq", "json/decoder"):
        text = (library / f"{name}.py").read_text()
        target = folder / Path(name).name / "module.py"
        target.parent.mkdir(parents=True)
        target.write_text(text)
    (folder / "bisect" / "copy.py").write_text((folder / "bisect" / "module.py").read_text())
    return folder


def recipe(folder: Path, text: str, source: Path, root: str = "") -> Path:
    path = folder / "path.toml"
    path.write_text(text.format(root=root or folder / "root", source=source))
    return path


def command(path: Path) -> list[str]:
    return [sys.executable, "-m", "starloom.cli", "run", str(path)]


def finish(path: Path) -> str:
    done = subprocess.run(command(path), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(path: Path) -> dict[str, dict[str, str]]:
    """Each step's fingerprint, files and checksums."""
    statuses = resolve(load_recipe(str(path)))
    assert all(status.state is State.DONE for status in statuses)
    opened = [Artifact.open(status.folder) for status in statuses]
    for artifact in opened:
        assert damages(artifact.folder, artifact.manifest) == ()
    return {a.name: {"": a.fingerprint, **{n: e.sha256 for n, e in a.manifest.files.items()}} for a in opened}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, source: Path) -> tuple[Path, str]:
    path = recipe(tmp_path_factory.mktemp("undisturbed"), RECIPE + JUDGED, source)
    return path, finish(path)


def test_one_command_goes_from_a_folder_to_a_model_and_a_report(undisturbed: tuple[Path, str]) -> None:
    path, output = undisturbed
    assert output.count("✓") == 9
    assert "step     40/40" in output
    assert f"serve it: starloom serve {path.parent / 'root'}" in output
    page = (path.parent / "root" / "report.html").read_text()
    assert "near_duplicate" in page or "exact_duplicate" in page
    assert "<svg" in page
    assert "bits per byte" in page
    assert "HumanEval" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_second_run_does_nothing_and_says_so(undisturbed: tuple[Path, str]) -> None:
    assert "nothing to do, all 9 steps are done" in finish(undisturbed[0])


def wait_for(pattern: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not storage.filesystem_of(pattern)[0].glob(pattern):
        assert process.poll() is None, log.read_text()  # it ended before it was to be killed
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_killed_at_several_moments_a_run_on_an_object_store_ends_with_the_bytes_of_a_local_one(
    tmp_path, source, undisturbed, s3
) -> None:
    root = f"{s3}/{tmp_path.name}"
    path = recipe(tmp_path, RECIPE, source, root)  # to the model: who judges it is not what is killed
    moments = ["duplicates/*/decisions/*", "model/*/checkpoints/step-20/manifest.json"]
    for moment in moments:
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(command(path), cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        wait_for(f"{root}/{moment}", process, tmp_path / "log")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    finish(path)
    expected = files(undisturbed[0])
    got = files(path)
    assert len(got) == 7
    for name in got:
        assert got[name] == expected[name]
    (model,) = finished(root, "model")
    steps = [json.loads(line)["step"] for line in model.read_text("metrics.jsonl").splitlines() if '"loss"' in line]
    assert steps == list(range(1, 41))


@thorough  # four minutes on a quiet machine, twenty beside the other half of the tests
@pytest.mark.timeout(4 * PATIENCE)
def test_nodes_are_lost_in_every_stage_and_the_bytes_are_the_same(tmp_path, source, undisturbed) -> None:
    path = recipe(tmp_path, RECIPE + JUDGED, source)
    command = [sys.executable, "-m", "tests.platform.lossy_cluster", str(path)]
    with (tmp_path / "log").open("w") as log:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True, timeout=3 * PATIENCE)
    assert done.returncode == 0, (tmp_path / "log").read_text()[-5000:]
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [one["ran"] for one in told[:-1]] == ["collect", "sign", "RayTrainWorker", "", "ServeReplica"]
    assert len(told[-1]["answers"]) == 1
    expected, got = files(undisturbed[0]), files(path)
    assert {name: got[name] for name in got if name != "report"} == {
        name: expected[name] for name in expected if name != "report"
    }
