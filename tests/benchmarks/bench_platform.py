"""Runs as users live with them: a second look, a hundred thousand shards, a million files, kills, an object store.

`make bench-platform`. ``--kills N`` is how often each of the two roots is struck (the goal is 40, which takes an hour).
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from starloom import storage
from starloom.artifact import Artifact
from starloom.recipe import State, load_recipe, resolve
from tests.benchmarks.code_corpus import code_corpus
from tests.benchmarks.harness import BENCH, ROOT, best_seconds, finish, table
from tests.object_store import BUCKET, ObjectStore

HOME = BENCH / "platform"
SHARDS, FILES, MEGABYTES = 100_000, 1_000_000, 400
STRUCK = ("starloom.cli", "ray::", "raylet", "DashboardAgent")
DATA = """
name = "data"
root = "{root}"
[[steps]]
name = "collected"
run = "data_jobs.collect"
config = {{ sources = [{source}] }}
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
"""


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40, help="strikes at each of a local root and one on a store")
    options = parser.parse_args()
    HOME.mkdir(parents=True, exist_ok=True)
    figures = {"noop_seconds": noop(), "status_seconds_100k": many_shards(), "status_seconds_million": many_files()}
    print(table("seconds", ["a look at", "s"], [[name, f"{value:.2f}"] for name, value in figures.items()]))
    store = ObjectStore()
    os.environ.update(store.environment)
    store.start()
    try:
        local, remote = data_path("local"), data_path(f"s3://{BUCKET}/data")
        figures["s3_over_local"] = remote / local
        rows = [["local", f"{local:.0f}"], ["object store", f"{remote:.0f}"]]
        print(table(f"seconds, {MEGABYTES} MB", ["the data path", "s"], rows))
        for name, root in (("local", str(HOME / "struck")), ("s3", f"s3://{BUCKET}/struck")):
            figures[f"kills_survived_{name}"] = strikes(root, options.kills)
    finally:
        store.stop()
    finish("platform", figures, packages=("s3fs", "moto"))


def starloom(*words: str, **variables: str) -> float:
    """Seconds of a command, which must end well."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "starloom.cli", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment(**variables), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return time.perf_counter() - started


def environment(**variables: str) -> dict[str, str]:
    """This process's, with the checkout's modules; they are compiled once, as on users' machines."""
    own = {"PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}", "PYTHONDONTWRITEBYTECODE": ""}
    return {**os.environ, **own, **variables}


def noop() -> float:
    """The second run of quickstart."""
    root = str(HOME / "quickstart")
    starloom("run", "quickstart", "--root", root)
    return best_seconds(lambda: starloom("run", "quickstart", "--root", root))


def many_shards() -> float:
    """Status of a run whose artifact has `SHARDS` files."""
    recipe = HOME / "shards.toml"
    step = f'[[steps]]\nname = "many"\nrun = "tests.benchmarks.many_shards"\nconfig = {{ shards = {SHARDS} }}\n'
    recipe.write_text(f'name = "shards"\nroot = "{HOME / "shards"}"\n{step}')
    starloom("run", str(recipe))
    return best_seconds(lambda: starloom("status", str(recipe)))


def many_files() -> float:
    """Status of a run whose source has `FILES` files, none of them changed since the last look."""
    folder = HOME / "files"
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        for number in range(FILES // 1000):
            place = folder / f"{number // 100:03d}" / f"{number:05d}"
            place.mkdir(parents=True)
            for name in range(1000):
                (place / f"m{name:03d}.py").write_text(f"VALUE = {number * 1000 + name}\n")
        (folder / "made").touch()
        time.sleep(3)  # what was written just now is read again the next time
    recipe = HOME / "files.toml"
    source = f'{{ kind = "folder", path = "{folder}" }}'
    recipe.write_text(DATA.format(root=HOME / "of-files", source=source).split('[[steps]]\nname = "quality"')[0])
    starloom("status", str(recipe))
    return best_seconds(lambda: starloom("status", str(recipe)))


def data_path(root: str) -> float:
    """Seconds from a source of `MEGABYTES` to a corpus, on a root that is empty before."""
    place = str(HOME / "data") if root == "local" else root
    storage.remove_below(place)
    found = code_corpus(MEGABYTES)
    recipe = HOME / "data.toml"
    recipe.write_text(DATA.format(root=place, source=f'{{ kind = "parquet", path = "{found.folder}/data" }}'))
    return starloom("run", str(recipe))


def digests(recipe: Path) -> dict[str, str]:
    """What each step has come to; it must be done."""
    statuses = resolve(load_recipe(str(recipe)))
    assert all(status.state is State.DONE for status in statuses), [status.state for status in statuses]
    manifests = [Artifact.open(status.folder).manifest for status in statuses]
    return {one.step: hashlib.sha256(repr(sorted(one.files.items())).encode()).hexdigest() for one in manifests}


def strikes(root: str, times: int) -> int:
    """How many kills, each at a random moment of a run of its own, ended with the bytes of a run without one."""
    source = HOME / "small"
    small_source(source)
    recipe = HOME / "struck.toml"
    generator, survived = random.Random(0), 0
    expected: dict[str, str] = {}
    took = 0.0
    for number in range(times + 1):
        place = f"{root}/{number}"
        storage.remove_below(place)
        text = DATA.format(root=place, source=f'{{ kind = "folder", path = "{source}", repositories = "children" }}')
        recipe.write_text(text)
        if number == 0:
            took = starloom("run", str(recipe))
            expected = digests(recipe)
            continue
        who = struck(recipe, generator.uniform(0.1, 0.9) * took, STRUCK[number % len(STRUCK)])
        with suppress(SystemExit):  # what it was struck by may end the next run too, in a line
            starloom("run", str(recipe))
        starloom("run", str(recipe))
        same = digests(recipe) == expected
        survived += same
        print(f"{root}: strike {number} of {times}, {who}: {'the same bytes' if same else 'OTHER BYTES'}", flush=True)
    return survived


def struck(recipe: Path, seconds: float, name: str) -> str:
    """Start a run, kill one of its processes with that name after so long, and wait for its end."""
    command = [sys.executable, "-m", "starloom.cli", "run", str(recipe)]
    with running(command, environment()) as run:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and run.poll() is None:
            time.sleep(0.05)
        mine = (
            [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)] if run.poll() is None else []
        )
        named = [one for one in mine if name in " ".join(_words(one))]
        for one in named[-1:]:
            one.kill()
        run.wait()
    return f"{name if named else 'nobody'} after {seconds:.1f} s"


def _words(process: psutil.Process) -> list[str]:
    with suppress(psutil.NoSuchProcess):
        return list(process.cmdline())
    return []


@contextmanager
def running(command: list[str], variables: Mapping[str, str]):  # type: ignore[no-untyped-def]
    """A process whose session is ended with it."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def small_source(folder: Path) -> None:
    """Some modules of the standard library, each as a repository."""
    library = Path(os.__file__).parent
    for name in ("ast", "bisect", "calendar", "cmd", "csv", "dis", "fnmatch", "glob", "gzip", "heapq"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(library / f"{name}.py", folder / name / "module.py")


if __name__ == "__main__":
    main()
