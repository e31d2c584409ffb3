"""A cluster of three nodes that loses one of them again and again: in a recipe's stages, and while its model is served.

``python -m tests.platform.lossy_cluster RECIPE``, as a process of its own; it tells JSON lines, one a loss.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import ray
from ray.cluster_utils import Cluster

from starloom.cluster import prepare_environment
from starloom.ports import free_port
from starloom.recipe import load_recipe
from tests.patience import PATIENCE

# a file below the root that says that a stage is under way, and what the node that goes then has running
LOSSES = (
    ("collected/*/.work/*", "collect"),
    ("duplicates/*/signatures/*.npy", "sign"),
    ("model/*/checkpoints/step-20/manifest.json", "RayTrainWorker"),
    ("evaluation/*/*", ""),
)
# so that a loss is noticed within seconds
QUICKLY = {"health_check_period_ms": 1000, "health_check_timeout_ms": 5000, "health_check_failure_threshold": 4}
ANSWERS_AFTER = 3  # requests that must be answered before and after the loss of a serving node


def main(recipe: str) -> None:
    """Run the recipe, serve what it made, lose nodes."""
    prepare_environment()
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # a job's python is its node's
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "include_dashboard": True,
            "dashboard_port": free_port(),
            "dashboard_agent_listen_port": 0,
            "object_store_memory": 150 << 20,
            "_system_config": QUICKLY,
        },
    )
    workers = [_worker(cluster) for _ in range(2)]
    ray.init(address=cluster.address, logging_level=logging.WARNING)
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        _lose_while_it_runs(recipe, cluster, workers)
        _lose_while_it_is_served(load_recipe(recipe).root, cluster, workers)
    finally:
        ray.shutdown()
        cluster.shutdown()


def _worker(cluster: Cluster) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=100 << 20, dashboard_agent_listen_port=0)


def _lose(cluster: Cluster, workers: list[Any], at: str, running: str) -> None:
    """Take the node away that runs such a process, all of it at once, and bring another one later."""
    gone = next((one for one in workers if running and running in _runs(one)), workers[0])
    cluster.remove_node(gone, allow_graceful=False)
    workers.remove(gone)
    print(json.dumps({"lost": at, "ran": running}), flush=True)
    workers.append(_worker(cluster))


def _runs(node: Any) -> str:
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return " ".join(word for one in raylet.children(recursive=True) for word in one.cmdline()[:1])


def _lose_while_it_runs(recipe: str, cluster: Cluster, workers: list[Any]) -> None:
    root = Path(load_recipe(recipe).root)
    run = subprocess.Popen([sys.executable, "-m", "starloom.cli", "run", recipe], stdout=sys.stderr)
    for pattern, running in LOSSES:
        until = time.monotonic() + PATIENCE
        while not any(root.glob(pattern)):
            assert run.poll() is None, f"it ended before {pattern}"
            assert time.monotonic() < until, pattern
            time.sleep(0.02)
        _lose(cluster, workers, pattern, running)
    assert run.wait(timeout=PATIENCE) == 0


def _lose_while_it_is_served(root: str, cluster: Cluster, workers: list[Any]) -> None:
    with _served(root) as url:
        answers: list[str] = []
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                body = {"prompt": "def f", "max_tokens": 8, "temperature": 0}
                try:
                    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=PATIENCE)
                except httpx.TransportError:  # the node had the proxy too, which held the connection
                    time.sleep(0.5)
                    continue
                if answer.status_code == httpx.codes.OK:
                    answers.append(answer.json()["choices"][0]["text"])
                else:
                    assert (answer.status_code, int(answer.headers["Retry-After"])) == (503, 2), answer.text
                    time.sleep(2)

        with ThreadPoolExecutor() as pool:
            asking = pool.submit(ask)
            try:
                _wait_for(asking, answers, ANSWERS_AFTER)
                _lose(cluster, workers, "serving", "ServeReplica")
                _wait_for(asking, answers, len(answers) + ANSWERS_AFTER)
            finally:
                done.set()
            asking.result()
        print(json.dumps({"answers": sorted(set(answers))}), flush=True)


def _wait_for(asking: Future[None], answers: list[str], count: int) -> None:
    until = time.monotonic() + PATIENCE
    while len(answers) < count:
        if asking.done():
            asking.result()  # what has ended it
        assert time.monotonic() < until
        time.sleep(0.1)


@contextmanager
def _served(root: str) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "starloom.cli", "serve", root, "--port", str(port), "--engine", "threads=1"]
    process = subprocess.Popen(command, stdout=sys.stderr)
    try:
        until = time.monotonic() + PATIENCE
        while not _up(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)


def _up(url: str) -> bool:
    try:
        return httpx.get(url, timeout=PATIENCE).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main(sys.argv[1])
