"""Steps and artifacts: an artifact exists only when complete, runs go on where they stopped, edits are noticed."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from starloom import artifact as artifacts
from starloom import filetable
from starloom.artifact import Artifact, find
from starloom.config import Config, runtime
from starloom.errors import RunError, UserError, readable
from starloom.step import Outcome, Step, StepContext, run_step
from starloom.verify import damages
from tests.patience import PATIENCE


class CountConfig(Config):
    upto: int = 3
    workers: int = runtime(1)


def count(config: CountConfig, context: StepContext) -> Outcome:
    """Write one file per number."""
    made = 0
    for number in range(config.upto):
        name = f"data/{number}.txt"
        if not context.output.exists(name):
            context.output.write_text(name, str(number))
            made += 1
    context.output.write_json("logs/made.json", made)
    return Outcome(rows_in=config.upto, rows_out=config.upto, dropped={"none": 0})


COUNT = Step(config=CountConfig, run=count, produces="numbers")


def test_step_runs_once_and_is_found_by_name_and_fingerprint(tmp_path) -> None:
    first = run_step(COUNT, CountConfig(), root=str(tmp_path), name="count")
    manifest_time = os.stat(first.path("manifest.json")).st_mtime_ns
    again = run_step(COUNT, CountConfig(workers=4), root=str(tmp_path), name="count")
    assert again.folder == first.folder
    assert os.stat(first.path("manifest.json")).st_mtime_ns == manifest_time
    assert find(str(tmp_path), "count").folder == first.folder
    assert find(str(tmp_path), f"count/{first.fingerprint}").folder == first.folder
    assert first.files("data/") == ["data/0.txt", "data/1.txt", "data/2.txt"]
    assert first.manifest.counts.rows_out == 3


def test_changed_config_makes_another_artifact_and_the_newest_is_found(tmp_path) -> None:
    first = run_step(COUNT, CountConfig(), root=str(tmp_path), name="count")
    second = run_step(COUNT, CountConfig(upto=4), root=str(tmp_path), name="count")
    assert first.fingerprint != second.fingerprint
    assert Path(first.folder).exists()
    assert find(str(tmp_path), "count").fingerprint == second.fingerprint


def test_inputs_enter_the_fingerprint(tmp_path) -> None:
    a = run_step(COUNT, CountConfig(upto=1), root=str(tmp_path), name="a")
    b = run_step(COUNT, CountConfig(upto=2), root=str(tmp_path), name="b")
    over_a = run_step(COUNT, CountConfig(), root=str(tmp_path), name="c", needs=[a])
    over_b = run_step(COUNT, CountConfig(), root=str(tmp_path), name="c", needs=[b])
    assert over_a.fingerprint != over_b.fingerprint
    assert over_a.manifest.inputs[0].location == f"a/{a.fingerprint}"


def test_manifest_lists_files_with_checksums_but_not_logs(tmp_path) -> None:
    artifact = run_step(COUNT, CountConfig(), root=str(tmp_path), name="count")
    assert "logs/made.json" not in artifact.manifest.files
    assert damages(artifact.folder, artifact.manifest) == ()
    Path(artifact.path("data/0.txt")).write_text("9")
    assert damages(artifact.folder, artifact.manifest) == ("data/0.txt does not match its checksum",)


def test_files_of_a_large_artifact_are_in_a_table_of_their_own(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(filetable, "MOST_IN_MANIFEST", 2)
    made = run_step(COUNT, CountConfig(), root=str(tmp_path), name="count")
    again = Artifact.open(made.folder)
    assert json.loads(made.read_text("manifest.json"))["files"] == {}
    assert dict(again.manifest.files) == dict(made.manifest.files)
    assert again.files("data/") == ["data/0.txt", "data/1.txt", "data/2.txt"]
    assert damages(again.folder, again.manifest) == ()
    Path(made.path("data/1.txt")).unlink()
    with pytest.raises(UserError, match=r"data/1\.txt is missing"):
        Artifact.open(made.folder)
    table = Path(made.path(filetable.FILES))
    table.write_bytes(table.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"files\.parquet: was changed after it was written"):
        Artifact.open(made.folder)


def test_edited_manifest_is_refused_in_one_line(tmp_path) -> None:
    artifact = run_step(COUNT, CountConfig(), root=str(tmp_path), name="count")
    path = Path(artifact.path("manifest.json"))
    body = json.loads(path.read_text())
    body["counts"]["rows_out"] = 99
    path.write_text(json.dumps(body))
    with pytest.raises(UserError, match="was changed after it was written") as error:
        Artifact.open(artifact.folder)
    assert "\n" not in str(error.value)


def test_missing_or_cut_file_is_refused(tmp_path) -> None:
    artifact = run_step(COUNT, CountConfig(), root=str(tmp_path), name="count")
    Path(artifact.path("data/1.txt")).unlink()
    with pytest.raises(UserError, match=r"data/1\.txt is missing"):
        Artifact.open(artifact.folder)
    Path(artifact.path("data/1.txt")).write_text("")
    with pytest.raises(UserError, match="has 0 bytes, not 1"):
        Artifact.open(artifact.folder)


def test_write_that_fails_leaves_no_file(tmp_path) -> None:
    writer = artifacts.ArtifactWriter(str(tmp_path / "x"))
    with pytest.raises(ZeroDivisionError):
        with writer.create("data.bin") as file:
            file.write(b"half")
            _ = 1 / 0
    assert list((tmp_path / "x").iterdir()) == []


def test_full_disk_is_one_line_and_keeps_what_is_finished(tmp_path) -> None:
    def fill(config: CountConfig, context: StepContext) -> Outcome:
        context.output.write_text("data/0.txt", "kept")
        # every write to /dev/full fails as on a full disk
        with open("/dev/full", "w") as file:
            file.write("x")
        return Outcome()

    with pytest.raises(OSError) as error:
        run_step(Step(config=CountConfig, run=fill, produces="x"), CountConfig(), root=str(tmp_path), name="fill")
    message = readable(error.value)
    assert isinstance(message, RunError)
    assert "the disk is full" in str(message)
    assert [p.name for p in tmp_path.rglob("*.txt")] == ["0.txt"]
    assert not list(tmp_path.rglob("manifest.json"))


def test_needs_without_a_finished_artifact_is_told(tmp_path) -> None:
    with pytest.raises(UserError, match="run that step first"):
        run_step(COUNT, CountConfig(), root=str(tmp_path), name="c", needs=["absent"])


def test_remote_root_holds_the_same_files(tmp_path) -> None:
    local = run_step(COUNT, CountConfig(), root=str(tmp_path), name="count")
    remote = run_step(COUNT, CountConfig(), root="memory://runs/x", name="count")
    assert remote.manifest.files == local.manifest.files
    assert remote.read_text("data/2.txt") == "2"
    assert find("memory://runs/x", "count").fingerprint == local.fingerprint


SLOW_MODULE = """
    import os, time
    from starloom.config import Config
    from starloom.step import Outcome, Step, main

    class SlowConfig(Config):
        files: int = 6
        pause: float = 0.0

    def run(config, context):
        "Write files slowly."
        for number in range(config.files):
            if context.output.exists(f"data/{number}"):
                continue
            context.output.write_text(f"data/{number}", str(number) * 1000)
            with open(os.environ["STARTED"], "a") as log:
                log.write(f"{number}\\n")
            time.sleep(float(os.environ.get("PAUSE", "0")))
        return Outcome(rows_out=config.files)

    STEP = Step(config=SlowConfig, run=run, produces="slow")
    if __name__ == "__main__":
        main(STEP)
"""


def _job(tmp_path: Path, extra: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    (tmp_path / "slow_step.py").write_text(textwrap.dedent(SLOW_MODULE))
    job = tmp_path / "job.toml"
    if not job.exists():
        job.write_text(f'name = "slow"\nroot = "{tmp_path}/root"\n')
    environment = {**os.environ, "STARTED": str(tmp_path / "started"), "PYTHONPATH": str(tmp_path), **extra}
    command = [sys.executable, "-m", "slow_step", "--config", str(job), *arguments]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_kill_9_then_run_again_gives_the_same_files_and_repeats_no_finished_one(tmp_path) -> None:
    process = _job(tmp_path, {"PAUSE": "0.3"})
    started = tmp_path / "started"
    while not started.exists() or len(started.read_text().split()) < 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(tmp_path.rglob("manifest.json"))
    out, err = _job(tmp_path, {}).communicate(timeout=PATIENCE)
    assert out.startswith("✓ slow"), err
    assert sorted(started.read_text().split()) == [str(n) for n in range(6)]
    undisturbed = tmp_path / "other"
    undisturbed.mkdir()
    _job(undisturbed, {}).communicate(timeout=PATIENCE)
    [one] = list((tmp_path / "root").rglob("manifest.json"))
    [other] = list(undisturbed.rglob("manifest.json"))
    assert Artifact.open(str(one.parent)).manifest.files == Artifact.open(str(other.parent)).manifest.files
    assert one.parent.name == other.parent.name


def test_module_command_line_reports_wrong_input_with_exit_code_2(tmp_path) -> None:
    process = _job(tmp_path, {}, "--set", "fils=3")
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert err.count("\n") == 1
    assert "unknown key 'fils'; did you mean 'files'?" in err


def test_help_imports_neither_ray_nor_torch() -> None:
    code = "import starloom.cli, starloom.recipe, sys; print([m for m in ('ray', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
