"""cluster.yaml against Ray's own schema, and what a cluster of ours must have."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from starloom.cluster import NODES


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return yaml.safe_load(Path("cluster.yaml").read_text())


def test_ray_accepts_the_cluster_file(cluster: dict[str, Any]) -> None:
    prepared = prepare_config(dict(cluster))
    validate_config(prepared)
    assert prepared["head_node_type"] == "head"


def test_ray_schema_refuses_an_unknown_key(cluster: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="nonsense"):
        validate_config({**prepare_config(dict(cluster)), "nonsense": 1})


def test_there_are_a_head_cpu_workers_and_gpu_workers(cluster: dict[str, Any]) -> None:
    assert set(cluster["available_node_types"]) == {"head", "data_worker", "gpu_worker"}


def test_jobs_are_told_what_may_come(cluster: dict[str, Any]) -> None:
    told = json.loads(re.findall(rf"{NODES}='(.*?)'", cluster["head_start_ray_commands"][-1])[0])
    sizes = {"c7i.8xlarge": {"cpus": 32}, "p4de.24xlarge": {"cpus": 96, "gpus": 8}}
    kinds = [cluster["available_node_types"][name] for name in ("data_worker", "gpu_worker")]
    assert told == [{**sizes[kind["node_config"]["InstanceType"]], "most": kind["max_workers"]} for kind in kinds]
    assert sum(group["most"] for group in told) <= cluster["max_workers"]


def test_workers_reach_the_bucket_and_have_the_token(cluster: dict[str, Any]) -> None:
    for name in ("data_worker", "gpu_worker"):
        assert cluster["available_node_types"][name]["node_config"]["IamInstanceProfile"] == {"Name": "starloom-node"}
    assert cluster["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert ".[all,s3]" in cluster["setup_commands"][0]


def test_every_node_starts_with_the_shared_package_and_token_authentication(cluster: dict[str, Any]) -> None:
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        assert "PYTHONPATH=platform" in commands[-1]
        assert "RAY_AUTH_MODE=token" in commands[-1]
        assert "ray start" in commands[-1]
