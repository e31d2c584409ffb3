"""A node is lost and another comes: training goes on with fewer data ranks and returns to all, with the same losses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_jobs.train_tokenizer import train_bpe
from starloom.artifact import ArtifactWriter
from starloom.config import validate
from starloom.errors import UserError
from starloom.tokens import TokenShardWriter
from tests.conftest import thorough
from tests.patience import PATIENCE
from tests.train_jobs import gloo
from train_jobs.config import PretrainConfig
from train_jobs.job import Job
from train_jobs.layout import Layout
from train_jobs.loop.elastic import fitting

STEPS = 140
CONFIG = PretrainConfig(
    model={"layers": 2, "hidden": 128, "heads": 4, "context": 128},
    steps=STEPS,
    global_batch=8,
    micro_batch=4,
    optimizer={"rate": 1e-3, "warmup_steps": 5},
    checkpoint_every=5,
    hang_seconds=20,
)
# a process of its own: the test session's Ray must not be taken down
PROGRAM = """
import json, logging, signal, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from train_jobs.config import PretrainConfig
from train_jobs.job import Job
from train_jobs.layout import Layout
from train_jobs.loop.launch import launch

folder = Path(sys.argv[1])
quickly = {"health_check_period_ms": 1000, "health_check_timeout_ms": 5000, "health_check_failure_threshold": 4}
head = {"num_cpus": 0, "object_store_memory": 100 << 20, "_system_config": quickly}
cluster = Cluster(initialize_head=True, head_node_args=head)
nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 << 20) for _ in range(2)]
ray.init(address=cluster.address, logging_level=logging.WARNING)

config = PretrainConfig.model_validate_json(sys.argv[2])
config = config.model_copy(update={"layout": Layout(data=2), "min_data": 1})
(folder / "elastic").mkdir()
job = Job(config, (f"{folder}/train",), (), "uint16", 512, f"{folder}/tokenizer.json", f"{folder}/elastic")

def reached(name):
    path = folder / name / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0

def disturb():
    while reached("elastic") < 8:
        time.sleep(0.02)
    cluster.remove_node(nodes[1], allow_graceful=False)
    print("a node is gone after step", reached("elastic"), flush=True)
    while sum(node["Alive"] for node in ray.nodes()) > 2:  # Ray takes a while to notice
        time.sleep(0.1)
    before = reached("elastic")
    while reached("elastic") < before + 12:  # it goes on
        time.sleep(0.02)
    signal.signal = lambda *_: None  # a node's own handlers are for the main thread
    cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    print("a node is back after step", reached("elastic"), flush=True)

thread = threading.Thread(target=disturb)
thread.start()
launch(job, "elastic")
thread.join()
ray.shutdown()
cluster.shutdown()
"""


def _alone(rank: int, folder: str) -> None:
    from train_jobs.loop.worker import work

    Path(f"{folder}/alone").mkdir()
    work(Job(CONFIG, (f"{folder}/train",), (), "uint16", 512, f"{folder}/tokenizer.json", f"{folder}/alone"))


@pytest.mark.slow
@thorough
def test_losses_are_those_of_a_run_that_nothing_disturbed(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(train_bpe(iter(["def add(a, b): return a + b\n"] * 9), 280).json_text)
    documents = [np.random.default_rng(0).integers(0, 500, 20_000, dtype="uint16")]
    TokenShardWriter("uint16").write(ArtifactWriter(str(tmp_path)), "train", documents)
    here = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{here}:{here / 'platform'}", "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    environment["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "15"  # for workers on a node that is gone
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), CONFIG.model_dump_json()]
    gloo.run(1, _alone, str(tmp_path))
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert "1 of 2 data ranks" in run.stdout
    assert "all 2 data ranks again" in run.stdout
    rows = {
        name: [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("elastic", "alone")
    }
    assert [row["step"] for row in rows["elastic"]] == list(range(1, STEPS + 1))
    losses = {name: [row["loss"] for row in found] for name, found in rows.items()}
    assert losses["elastic"] == pytest.approx(losses["alone"], rel=1e-4)
    assert (tmp_path / "elastic/model/config.json").exists()


def test_data_ranks_are_those_that_divide_the_batch_and_have_a_place() -> None:
    config = PretrainConfig(
        model={"layers": 4, "hidden": 32, "heads": 4, "context": 32},
        global_batch=24,
        micro_batch=2,
        layout=Layout(data=12, tensor=2),
        min_data=2,
    )
    job = Job(config, (), (), "uint16", 300, "", "")
    found = {places: fitting(job, places) for places in (30, 24, 23, 9, 4, 3)}
    assert {places: layout and layout.data for places, layout in found.items()} == {
        30: 12, 24: 12, 23: 6, 9: 4, 4: 2, 3: None
    }  # fmt: skip
    assert all(layout is None or layout.tensor == 2 for layout in found.values())


def test_more_at_least_than_at_most_is_told() -> None:
    with pytest.raises(UserError, match=r"min_data = 3 is more than layout\.data = 2"):
        validate(PretrainConfig, {"layout": {"data": 2}, "min_data": 3}, where="step")
