"""What can be known before the first step; each failure is one line that names the remedy.

Storage that all nodes share, a disk that holds the checkpoints, tensor ranks inside a node.
"""

import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starloom import cluster
from starloom.errors import UserError
from train_jobs.config import PretrainConfig
from train_jobs.job import Job
from train_jobs.planning.forecast import STATE_BYTES

EXPORT_BYTES = 4  # of a parameter in the exported folder


def preflight(job: Job) -> None:
    """Check the cluster that this process is connected to; see `check_disk`, `check_nodes` and `check_shared`."""
    import ray

    config = job.config
    if not job.published:
        check_disk(job, shutil.disk_usage(job.output).free)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    here = {node["NodeManagerHostname"]: node["Resources"] for node in nodes}
    to_come = [
        (f"{number} of those that may come", group.resources)
        for group in cluster.groups_to_come()
        for number in range(1, min(group.most, config.layout.ranks) + 1)
    ]
    kind = "GPU" if config.use_gpu else "CPU"
    enough = sum(resources.get(kind, 0) for resources in here.values()) >= sum(
        resources.get(kind, 0) for _, resources in to_come
    )
    check_nodes(config, here if enough else dict(to_come))
    if not job.published:  # an object store is what all nodes share
        check_shared(Path(job.output), nodes)


def check_disk(job: Job, free: int) -> None:
    """`UserError` when the kept checkpoints, the one being written and the export are more than `free` bytes."""
    config, parameters = job.config, job.shape.parameters
    kept = config.keep_checkpoints + 1 + config.keep_best
    kept += config.steps // config.keep_every if config.keep_every else 0
    needed = parameters * (STATE_BYTES * kept + EXPORT_BYTES)
    if needed > free:
        raise UserError(
            f"root: {kept} checkpoints and the exported model need {needed / 1e9:,.1f} GB, {job.output} has "
            f"{free / 1e9:,.1f} GB free; lower keep_checkpoints, or choose another root"
        )


def check_nodes(config: PretrainConfig, nodes: Mapping[str, Mapping[str, float]]) -> None:
    """`UserError` when a node's share of ranks would cut a tensor group, or when there are too few GPUs.

    `nodes` are resources by host name. Ray gives neighbouring ranks to one node until it is full.
    """
    kind, each = ("GPU", 1.0) if config.use_gpu else ("CPU", config.cpus_per_worker)
    places = {host: int(resources.get(kind, 0) // each) for host, resources in nodes.items()}
    tensor, ranks = config.layout.tensor, config.layout.ranks
    if config.use_gpu and sum(places.values()) < ranks:
        raise UserError(
            f"layout: {ranks} workers need {ranks} GPUs, the cluster has {sum(places.values())}; lower the layout or "
            "add nodes"
        )
    used = [host for host, count in places.items() if count]
    if len(used) > 1 and tensor > 1 and ranks > max(places.values()):
        for host in used:
            if places[host] % tensor:
                raise UserError(
                    f"layout.tensor = {tensor}: node {host} has room for {places[host]} workers, which would cut a "
                    f"tensor group in two; use a divisor of it"
                )


def check_shared(folder: Path, nodes: list[dict[str, Any]]) -> None:
    """`UserError` when a node of the cluster does not see what this process writes into the folder, or cannot write."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    probe = folder / f".probe-{secrets.token_hex(4)}"
    try:
        probe.write_text("here")
    except OSError as error:
        raise UserError(f"root: {folder} cannot be written: {error.strerror}; choose another root") from None
    try:
        look = ray.remote(num_cpus=0)(_look)
        answers = {}
        for node in nodes:
            here = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
            answers[node["NodeManagerHostname"]] = look.options(scheduling_strategy=here).remote(str(probe))
        for host, answer in answers.items():
            complaint = ray.get(answer)
            if complaint:
                raise UserError(f"root: {folder} on node {host}: {complaint}; use storage that all nodes share")
    finally:
        probe.unlink(missing_ok=True)


def _look(probe: str) -> str:
    """On a node: what is wrong with the folder, or nothing."""
    path = Path(probe)
    try:
        if path.read_text() != "here":
            return "it is another folder than here"
        mine = path.with_name(f"{path.name}-{secrets.token_hex(4)}")
        mine.write_text("there")
        mine.unlink()
    except FileNotFoundError:
        return "it is another folder than here"
    except OSError as error:
        return f"it cannot be written: {error.strerror}"
    return ""
