"""A cluster without a single worker, whose autoscaler starts fake nodes on this machine: jobs wait for them and run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from starloom import cluster
from starloom.artifact import find
from starloom.errors import UserError
from starloom.ports import free_port
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
HEAD = "f" * 56  # Ray's own fake nodes count from it
EACH = {"node_config": {}, "min_workers": 0}
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef"}
STORE = {"object_store_memory": 100 << 20}
RECIPE = """
name = "zero"
root = "{root}"
[[steps]]
name = "collected"
run = "data_jobs.collect"
config = {{ sources = [{{ kind = "folder", path = "{source}" }}] }}
[[steps]]
name = "quality"
run = "data_jobs.filter"
needs = ["collected"]
"""


def fake_cluster(address: str) -> dict[str, Any]:
    """The autoscaler's settings; `provider` is Ray's own for its tests."""
    lists = ("cluster_synced_files", "initialization_commands", "setup_commands", "head_setup_commands",
             "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")  # fmt: skip
    return {
        "cluster_name": "zero",
        "max_workers": 2,
        "idle_timeout_minutes": 5,
        "docker": {},
        "auth": {},
        "file_mounts": {},
        **{name: [] for name in lists},
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "head_node_id": HEAD,
            "launch_multiple": True,
            "gcs_address": address,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {**EACH, "resources": {"CPU": 0}, "max_workers": 0},
            "data_worker": {**EACH, "resources": {"CPU": 1, **STORE}, "max_workers": 2},
        },
    }


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    from ray._private.services import get_node_ip_address

    found = f"{get_node_ip_address()}:{free_port()}"
    (tmp_path / "autoscaler.json").write_text(json.dumps(fake_cluster(found)))
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
        "RAY_USAGE_STATS_ENABLED": "0",
        **TOKEN,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}",
        cluster.NODES: '[{"cpus": 1, "most": 2}]',
    }
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=0"]
    command += [f"--port={found.rpartition(':')[2]}", f"--autoscaling-config={tmp_path / 'autoscaler.json'}"]
    command += [f"--dashboard-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}"]
    folder = tempfile.mkdtemp(prefix="zero-")  # short: sockets lie in it
    command += ["--object-store-memory=200000000", f"--temp-dir={folder}"]
    log = tmp_path / "log"
    with log.open("w") as output:
        head = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    deadline = time.monotonic() + PATIENCE
    while "Ray runtime started" not in log.read_text():
        assert head.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield found
    os.killpg(head.pid, signal.SIGKILL)  # the fake nodes are of its session
    head.wait()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_recipe_runs_on_a_cluster_that_starts_from_zero(tmp_path: Path, address: str) -> None:
    (tmp_path / "source" / "one").mkdir(parents=True)
    for number in range(4):
        (tmp_path / "source" / "one" / f"m{number}.py").write_text(f"def add_{number}(a, b):\n    return a + b\n")
    (tmp_path / "zero.toml").write_text(RECIPE.format(root=tmp_path / "root", source=tmp_path / "source"))
    environment = {**os.environ, **TOKEN, "RAY_ADDRESS": address, cluster.NODES: '[{"cpus": 1, "most": 2}]'}
    began = time.monotonic()
    command = [sys.executable, "-m", "starloom.cli", "run", str(tmp_path / "zero.toml")]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert find(str(tmp_path / "root"), "quality").manifest.counts.rows_in == 4
    print(f"two steps after {time.monotonic() - began:.0f} s")


@pytest.mark.slow
def test_work_is_cut_for_what_may_come(ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster.cpus() == 2
    assert cluster.patience(7.0) == 7.0
    monkeypatch.setenv(cluster.NODES, '[{"cpus": 32, "most": 128}, {"cpus": 96, "gpus": 8, "most": 64}]')
    assert (cluster.cpus(), cluster.expected("GPU")) == (32 * 128 + 96 * 64, 512)
    assert cluster.patience(7.0) == cluster.GROWTH_SECONDS


@pytest.mark.parametrize("text", ["nonsense", "3", '[{"cpu": 1, "most": 1}]', '[{"cpus": 1, "most": 0}]'])
def test_what_may_come_is_told_rightly_or_refused_in_a_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cluster.NODES, text)
    with pytest.raises(UserError, match=cluster.NODES):
        cluster.groups_to_come()
