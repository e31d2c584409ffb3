"""Curation on three nodes of which one dies in a stage: every file has the bytes of a run on one node."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import thorough
from tests.data_jobs.source_trees import program, write_files
from tests.patience import PATIENCE

# a process of its own: the test session's Ray must not be taken down
PROGRAM = """
import logging, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from data_jobs import collect, curate, deduplicate, filter, redact
from starloom.config import validate
from starloom.step import run_step

code, root, nodes, awaited, least = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
workers = [cluster.add_node(num_cpus=1, object_store_memory=100 << 20) for _ in range(nodes - 1)]
ray.init(address=cluster.address, logging_level=logging.WARNING)

def kill_one():
    # as soon as some of the stage's files are there and before all are
    while len(list(Path(root).glob(awaited))) < least:
        time.sleep(0.01)
    cluster.remove_node(workers[0], allow_graceful=False)
    print("killed a node at", len(list(Path(root).glob(awaited))), "files", flush=True)

thread = None
if nodes > 1:
    thread = threading.Thread(target=kill_one)
    thread.start()
done = []
sources = [{"kind": "folder", "path": code, "licenses": ["MIT"]}]
for name, step, settings in [
    ("collected", collect.STEP, {"sources": sources, "shard_megabytes": 0.2}),
    ("quality", filter.STEP, {}),
    ("duplicates", deduplicate.STEP, {}),
    ("personal", redact.STEP, {}),
    ("corpus", curate.STEP, {}),
]:
    done.append(run_step(step, validate(step.config, settings, where=name), root=root, name=name, needs=list(done)))
if thread:
    thread.join()
    while sum(node["Alive"] for node in ray.nodes()) != nodes - 1:  # Ray takes a while to notice
        time.sleep(0.1)
for artifact in done:
    for name, entry in sorted(artifact.manifest.files.items()):
        print("FILE", artifact.name, name, entry.sha256)
ray.shutdown()
cluster.shutdown()
"""


STAGES = {  # files, and how many of them are awaited
    "list": ("collected/*/.work/inventory/units/*", 1),
    "collect": ("collected/*/data/part-*.parquet", 4),
    "filter": ("quality/*/decisions/part-*.parquet", 4),
    "sign": ("duplicates/*/signatures/*.npy", 4),
    "connect": ("duplicates/*/.verified/scores-*.npy", 1),  # the task that finds the components comes next
    "decide": ("duplicates/*/.connected/edges.npy", 1),
    "redact": ("personal/*/decisions/part-*.parquet", 4),
    "curate": ("corpus/*/data/part-*.parquet", 4),
}


def curate_on(nodes: int, code: Path, root: Path, awaited: tuple[str, int] = ("", 0)) -> list[str]:
    """The checksums of all files; the project's packages are found through the path, as on a cluster."""
    root.mkdir()
    here = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{here}:{here / 'platform'}", "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", PROGRAM, str(code), str(root), str(nodes), awaited[0], str(awaited[1])]
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=root
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert ("killed a node at" in run.stdout) == bool(awaited[0])
    return [line for line in run.stdout.splitlines() if line.startswith("FILE")]


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen hundred programs in seven repositories, some of them twice, some with an address."""
    files = {f"{n % 7}/{n}.py": program(f"n{n - n % 2 if n % 10 == 1 else n}", 60) for n in range(1600)}
    files["0/mail.py"] = program("mail") + "AUTHOR = 'maria@northwind7.com'\n"
    return write_files(tmp_path_factory.mktemp("code"), files)


@pytest.fixture(scope="module")
def undisturbed(code: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a single node makes of it."""
    return curate_on(1, code, tmp_path_factory.mktemp("one") / "root")


@pytest.mark.slow
# an early stage and the last; `STAGES` has the others, for a change of theirs
@pytest.mark.parametrize("stage", [pytest.param("sign", marks=thorough), "curate"])
def test_every_file_is_byte_identical_when_a_node_of_three_is_killed(
    stage: str, code: Path, undisturbed: list[str], tmp_path: Path
) -> None:
    assert sum("part-" in line and " duplicates decisions/" in line for line in undisturbed) > 20
    assert curate_on(3, code, tmp_path / "three", STAGES[stage]) == undisturbed
