"""A run's root on an object store: what one process wrote another sees, writers do not mix, faults are one line."""

import os
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from starloom import fetched, lease, patience, storage
from starloom.artifact import Artifact, ArtifactWriter
from starloom.config import Config
from starloom.errors import StorageError, UserError
from starloom.jobs import write_job_file
from starloom.recipe import State, load_recipe, resolve
from starloom.step import Outcome, Step, StepContext, run_step
from tests.object_store import ObjectStore
from tests.patience import PATIENCE

SLOW_STEP = """
    import sys, time
    from starloom.config import Config, runtime
    from starloom.program import main
    from starloom.step import Outcome, Step

    class SlowConfig(Config):
        files: int = 3
        pause: float = 0.0
        lanes: int = runtime(1)

    def run(config, context):
        "Write files slowly."
        for number in range(config.files):
            if not context.output.exists(f"data/{number}"):
                context.output.write_text(f"data/{number}", f"{number} of {config.files}")
                context.say(f"wrote {number} in {config.lanes} lanes")
                time.sleep(config.pause)
        return Outcome(rows_out=config.files)

    STEP = Step(config=SlowConfig, run=run, produces="slow")
    if __name__ == "__main__":
        main(STEP)
"""
RECIPE = 'name = "slow"\nroot = "unset"\n[[steps]]\nname = "one"\nrun = "slow_step"\n'


@pytest.fixture
def root(s3: str) -> str:
    """A place of its own in the bucket."""
    return f"{s3}/{uuid.uuid4().hex}"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "slow_step.py").write_text(textwrap.dedent(SLOW_STEP))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipe.toml"


def job(folder: Path, location: str) -> subprocess.Popen[str]:
    """The step as the process that a runner would start."""
    paths = os.pathsep.join([str(folder), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-m", "slow_step", "--config", location],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_another_process_finished_is_seen_at_once(recipe: Path, root: str) -> None:
    for files in (1, 2):
        read = load_recipe(str(recipe), root=root, assignments=(f"one.files={files}",))
        (status,) = resolve(read)  # lists the step's folder
        assert status.state is (State.MISSING if files == 1 else State.STALE)
        assert job(recipe.parent, write_job_file(status, root)).wait() == 0
        assert Artifact.open(status.folder).files("data/") == [f"data/{n}" for n in range(files)]
        (status,) = resolve(read)
        assert status.state is State.DONE


def test_runtime_settings_of_the_second_run_reach_its_job(recipe: Path, root: str) -> None:
    for lanes in (1, 8):
        (status,) = resolve(load_recipe(str(recipe), root=root, assignments=(f"one.lanes={lanes}",)))
        location = write_job_file(status, root)
        shown = subprocess.run(
            [sys.executable, "-m", "slow_step", "--config", location, "--show"], capture_output=True, text=True,
            check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(recipe.parent), *sys.path])},
        )  # fmt: skip
        assert f'"lanes": {lanes}' in shown.stdout


def test_a_recipe_at_a_url_is_read_anew(recipe: Path, root: str) -> None:
    from starloom import plugins

    plugins.look_beside(recipe.parent)
    for name in ("first", "second"):
        with storage.atomic_write(f"{root}/recipe.toml") as file:
            file.write(RECIPE.replace('"slow"\n', f'"{name}"\n', 1).encode())
        assert load_recipe(f"{root}/recipe.toml", root=root).name == name


def test_files_that_are_written_at_once_are_commits_of_their_own(root: str) -> None:
    writer = ArtifactWriter(f"{root}/x/0123")
    with writer.create("a") as outer:
        outer.write(b"A" * 100)
        with writer.create("b") as inner:
            inner.write(b"B" * 100)
        assert storage.sizes_below(writer.folder) == {"b": 100}
        outer.write(b"C" * 100)
    entered = threading.Barrier(4)

    def slow(name: str) -> None:
        with writer.create(name) as file:
            file.write(b"x" * 50)
            entered.wait()
            file.write(b"y" * 50)

    threads = [threading.Thread(target=slow, args=(f"t{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.sizes_below(writer.folder) == {"a": 200, "b": 100, "t0": 100, "t1": 100, "t2": 100, "t3": 100}


def test_a_file_whose_writer_fails_is_never_there(root: str) -> None:
    with pytest.raises(ZeroDivisionError), ArtifactWriter(root).create("half") as file:
        file.write(b"x" * (20 << 20))
        raise ZeroDivisionError
    assert storage.sizes_below(root) == {}


def test_a_large_file_arrives_whole(root: str) -> None:
    content = os.urandom(1 << 20) * 20
    with ArtifactWriter(root).create("large") as file:
        file.write(content)
    assert storage.read_bytes(f"{root}/large") == content


@pytest.mark.slow
def test_a_second_run_waits_and_says_for_whom(recipe: Path, root: str) -> None:
    (status,) = resolve(load_recipe(str(recipe), root=root, assignments=("one.pause=1", "one.files=5")))
    location = write_job_file(status, root)
    first = job(recipe.parent, location)
    wait(lambda: storage.exists(f"{status.folder}/data/0"))
    second = job(recipe.parent, location)
    said, own = second.communicate()[0], first.communicate()[0]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert f"is being written by process {first.pid} on " in said
    assert own.count("wrote") == 5
    assert "wrote" not in said
    assert not lease.is_held(status.folder)


@pytest.mark.slow
def test_the_place_of_a_killed_writer_is_taken(recipe: Path, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (status,) = resolve(load_recipe(str(recipe), root=root, assignments=("one.pause=600",)))
    killed = job(recipe.parent, write_job_file(status, root))
    wait(lambda: storage.exists(f"{status.folder}/data/0"))
    killed.kill()
    killed.wait()
    assert lease.is_held(status.folder)
    monkeypatch.setattr(lease, "GONE_SECONDS", 2.0)
    lines: list[str] = []
    with lease.lease(status.folder, say=lines.append):
        assert len(lines) == 1
        assert f"process {killed.pid}" in lines[0]
        assert lease._numbers(status.folder) == [2]
    assert not lease.is_held(status.folder)


@pytest.mark.slow
def test_a_lease_goes_to_one_of_many(root: str) -> None:
    inside: list[int] = []
    most: list[int] = []

    def hold(number: int) -> None:
        with lease.lease(root, say=lambda _: None):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.1)
            inside.remove(number)

    threads = [threading.Thread(target=hold, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6


class CountConfig(Config):
    """No settings."""


def count(config: CountConfig, context: StepContext) -> Outcome:
    """Two files, one of them by a library that writes to a disk."""
    context.output.write_text("data/a", "a")
    (context.output.local_folder("model") / "weights").write_text("w")
    context.output.publish("model")
    return Outcome(rows_out=1)


def test_bytes_are_those_of_a_local_root(tmp_path: Path, root: str) -> None:
    step = Step(config=CountConfig, run=count, produces="count")
    local = run_step(step, CountConfig(), root=str(tmp_path), name="c")
    remote = run_step(step, CountConfig(), root=root, name="c")
    assert remote.manifest.files == local.manifest.files
    assert remote.files() == ["data/a", "model/weights"]
    assert (remote.local("model") / "weights").read_text() == "w"


def test_copies_follow_what_they_are_of_and_are_bounded(tmp_path: Path, root: str, monkeypatch) -> None:
    monkeypatch.setenv("STARLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetched, "IN_USE_SECONDS", 0.0)
    for text in (b"one", b"two"):
        with storage.atomic_write(f"{root}/a/notes.txt") as file:
            file.write(text)
        assert fetched.local_copy(f"{root}/a/notes.txt").read_bytes() == text
        assert (fetched.local_copy(f"{root}/a") / "notes.txt").read_bytes() == text
    copies = tmp_path / "cache" / fetched.COPIES
    assert len(list(copies.rglob("notes.txt"))) == 4
    monkeypatch.setenv(fetched.LIMIT, str(8e-9))
    with storage.atomic_write(f"{root}/b.txt") as file:
        file.write(b"three")
    fetched.local_copy(f"{root}/b.txt")
    assert sum(path.stat().st_size for path in copies.rglob("*.txt")) == 8
    fetched.forget_copy(f"{root}/b.txt")
    assert not list(copies.rglob("b.txt"))
    with pytest.raises(UserError, match="does not exist"):
        fetched.local_copy(f"{root}/never")


@pytest.mark.slow
def test_faults_of_buckets_and_rights_are_one_line(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "RETRY_SECONDS", (0.0,))
    step = Step(config=CountConfig, run=count, produces="x")
    with pytest.raises(UserError, match=r"no-such-bucket.*is there such a bucket"):
        run_step(step, CountConfig(), root="s3://no-such-bucket/r", name="c")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    storage.filesystem_of(root)[0].clear_instance_cache()
    with pytest.raises(StorageError, match="cannot be read, 2 tries"):
        storage.read_bytes(f"{root}/x")
    storage.filesystem_of(root)[0].clear_instance_cache()


def test_refused_requests_are_the_users_to_mend(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    def refused(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(s3fs.S3FileSystem, "exists", refused)
    with pytest.raises(UserError, match="may not be read: Access Denied; check credentials"):
        storage.exists(root)


@pytest.mark.slow
def test_a_store_that_is_away_for_seconds_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectStore()
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    storage.filesystem_of("s3://team/x")[0].clear_instance_cache()
    away = threading.Timer(2.0, store.start)
    away.start()
    try:
        ArtifactWriter("s3://team/x").write_text("a", "a")
        assert storage.read_bytes("s3://team/x/a") == b"a"
    finally:
        away.join()
        store.stop()
        storage.filesystem_of("s3://team/x")[0].clear_instance_cache()
