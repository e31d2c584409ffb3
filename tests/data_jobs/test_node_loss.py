"""Curation on three nodes of which one dies half-way: the corpus has the bytes of a run on one node."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data_jobs.source_trees import program, write_files

# a process of its own: the test session's Ray must not be taken down
PROGRAM = """
import logging, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from data_jobs import collect, curate, filter
from starloom.config import validate
from starloom.step import run_step

code, root, nodes = sys.argv[1], sys.argv[2], int(sys.argv[3])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
workers = [cluster.add_node(num_cpus=1, object_store_memory=100 << 20) for _ in range(nodes - 1)]
ray.init(address=cluster.address, logging_level=logging.WARNING)

def kill_one():
    # as soon as some shards are there and before all are
    while len(list(Path(root).rglob("data/part-*.parquet"))) < 4:
        time.sleep(0.02)
    cluster.remove_node(workers[0], allow_graceful=False)
    print("killed a node at", len(list(Path(root).rglob("data/part-*.parquet"))), "shards", flush=True)

thread = None
if nodes > 1:
    thread = threading.Thread(target=kill_one)
    thread.start()
done = []
sources = [{"kind": "folder", "path": code, "licenses": ["MIT"]}]
for name, step, settings in [
    ("collected", collect.STEP, {"sources": sources, "shard_megabytes": 0.2}),
    ("quality", filter.STEP, {}),
    ("corpus", curate.STEP, {}),
]:
    done.append(run_step(step, validate(step.config, settings, where=name), root=root, name=name, needs=list(done)))
if thread:
    thread.join()
    assert sum(node["Alive"] for node in ray.nodes()) == nodes - 1
for artifact in done:
    for name, entry in sorted(artifact.manifest.files.items()):
        print("FILE", artifact.name, name, entry.sha256)
ray.shutdown()
cluster.shutdown()
"""


def curate_on(nodes: int, code: Path, root: Path) -> subprocess.CompletedProcess[str]:
    """Run the program above; the project's packages are found through the path, as on a cluster."""
    here = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{here}:{here / 'platform'}", "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", PROGRAM, str(code), str(root), str(nodes)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False, cwd=root)


@pytest.mark.slow
def test_corpus_is_byte_identical_when_a_node_of_three_is_killed_half_way(tmp_path: Path) -> None:
    code = write_files(tmp_path / "code", {f"{n % 7}/{n}.py": program(f"n{n}", 60) for n in range(1600)})
    roots = [tmp_path / "one", tmp_path / "three"]
    for root in roots:
        root.mkdir()
    one, three = curate_on(1, code, roots[0]), curate_on(3, code, roots[1])
    assert one.returncode == 0, one.stderr[-3000:]
    assert three.returncode == 0, three.stderr[-3000:]
    assert "killed a node at" in three.stdout
    files = [[line for line in run.stdout.splitlines() if line.startswith("FILE")] for run in (one, three)]
    assert len(files[0]) > 60
    assert files[0] == files[1]
