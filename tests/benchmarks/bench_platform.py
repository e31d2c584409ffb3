"""Runs as users live with them: a second look, a hundred thousand shards, a million files, kills, an object store.

`make bench-platform`. ``--kills N`` is how often each of the two roots is struck (the goal is 40, which takes an hour),
and ``--only looks store kills`` what is measured.
"""

import argparse
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

from starloom import storage
from tests.benchmarks.code_corpus import code_corpus
from tests.benchmarks.harness import BENCH, best_seconds, finish, starloom, table
from tests.benchmarks.strikes import Relay, strikes
from tests.object_store import BUCKET, ObjectStore

HOME = BENCH / "platform"
SHARDS, FILES, MEGABYTES = 100_000, 1_000_000, 400
PARTS = ("looks", "store", "kills")
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
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="what is measured")
    options = parser.parse_args()
    HOME.mkdir(parents=True, exist_ok=True)
    figures: dict[str, float] = {}
    if "looks" in options.only:
        figures |= {
            "noop_seconds": noop(),
            "status_seconds_100k": many_shards(),
            "status_seconds_million": many_files(),
        }
        print(table("seconds", ["a look at", "s"], [[name, f"{value:.2f}"] for name, value in figures.items()]))
    store = ObjectStore()
    os.environ.update(store.environment)
    store.start()
    try:
        if "store" in options.only:
            figures["s3_over_local"] = over_local()
        if "kills" in options.only:
            figures |= survived(store, options.kills)
    finally:
        store.stop()
    finish("platform", figures, packages=("s3fs", "moto"))


def survived(store: ObjectStore, kills: int) -> dict[str, float]:
    """Strikes at a local root and, beside it, at one on the store."""
    relay = Relay(store.port)
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{relay.port}"
    with ThreadPoolExecutor() as pool:
        local = pool.submit(strikes, HOME / "struck-local", str(HOME / "struck"), DATA, kills)
        remote = pool.submit(strikes, HOME / "struck-s3", f"s3://{BUCKET}/struck", DATA, kills, relay)
        return {"kills_survived_local": local.result(), "kills_survived_s3": remote.result()}


def over_local() -> float:
    """How much longer the data path takes on the object store."""
    local, remote = data_path("local"), data_path(f"s3://{BUCKET}/data")
    rows = [["local", f"{local:.0f}"], ["object store", f"{remote:.0f}"]]
    print(table(f"seconds, {MEGABYTES} MB", ["the data path", "s"], rows))
    return remote / local


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


if __name__ == "__main__":
    main()
