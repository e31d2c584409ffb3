"""Ray at the edge: connect once, wherever this process runs."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import Field

from starloom.config import Config, validate
from starloom.errors import RunError, UserError, one_line

OBJECT_STORE_SHARE = 0.1
OBJECT_STORE_BYTES_MAX = 2 << 30
GROWTH_SECONDS = 1800.0  # a node of many GPUs may take that long to come
NODES = "STARLOOM_NODES"  # environment: [{"cpus": 32, "most": 128}, {"cpus": 96, "gpus": 8, "most": 64}]


# For processes of a Ray that is started here. Serve's proxies take what is named there before their own work; a proxy
# that is not ready in time is killed, and with Ray's five seconds a busy machine starts none.
ENVIRONMENT = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve_apps.proxy:middlewares",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}
OWN_ADDRESS = "STARLOOM_RAY_ADDRESS"
USAGE_STATISTICS = "RAY_USAGE_STATS_ENABLED"  # Ray's own, to its makers: off, unless somebody has set it


def prepare_environment() -> None:
    """Set what processes of a Ray that is started here are to find."""
    os.environ.update(ENVIRONMENT)
    os.environ.setdefault(USAGE_STATISTICS, "0")


def only(address: str) -> dict[str, str]:
    """Variables for a job's processes that hold them to the cluster at `address`.

    To a job's own process Ray gives the address of whichever Ray was started last on its machine (2.60, in
    `JobSupervisor`), and that of the variables to its workers alone: `settle` sets it right.
    """
    return {"RAY_ADDRESS": address, OWN_ADDRESS: address}


def settle() -> None:
    """In a job's own process: go to the cluster that `only` named, and no other."""
    if OWN_ADDRESS in os.environ:
        os.environ["RAY_ADDRESS"] = os.environ[OWN_ADDRESS]


def connect() -> None:
    """Join the cluster of this process, once.

    Inside a Ray job, or with ``RAY_ADDRESS`` set, that is the running cluster; otherwise a local Ray is started that
    ends with this process. Token authentication is left as Ray has it: on.

    Raises:
        RunError: the cluster does not answer.
    """
    import ray

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING)
        else:
            prepare_environment()
            ray.init(address="local", include_dashboard=False, logging_level=logging.WARNING, **local_limits())
    except (ConnectionError, OSError) as error:
        raise RunError(f"Ray at {address or 'this machine'}: {one_line(error)}") from error


def local_limits() -> dict[str, Any]:
    """Arguments for a local `ray.init`: every core, and an object store that leaves memory to the workers."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    store = min(OBJECT_STORE_BYTES_MAX, int(memory * OBJECT_STORE_SHARE))
    return {"num_cpus": len(os.sched_getaffinity(0)), "object_store_memory": store}


@contextmanager
def local_cluster() -> Iterator[str]:
    """A Ray of this machine's own with a dashboard, joined by this process; yields the dashboard's URL.

    `ray.init` gives every cluster of a machine the same port for the agent that takes jobs, so that the second one
    takes none; here each gets a free one, and the dashboard the next that is free. Ray's reaper
    ends the cluster when this process dies, however it dies.

    Raises:
        RunError: Ray runs without its dashboard.
    """
    import ray
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
    from ray.cluster_utils import Cluster

    ensure_token_if_auth_enabled(create_token_if_missing=True)  # as `ray.init` does before it starts one
    dashboard = {"include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": None}
    head = {**dashboard, "dashboard_agent_listen_port": 0, **local_limits()}
    prepare_environment()
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        context = ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
        if not context.dashboard_url:
            raise RunError("Ray runs without its dashboard, which takes the jobs; install ray[default]")
        yield f"http://{context.dashboard_url}"
    finally:
        ray.shutdown()
        cluster.shutdown()


class NodeGroup(Config):
    """Nodes of a kind that an autoscaler may start: what each has, and how many there may be."""

    cpus: float = Field(0, ge=0)
    gpus: float = Field(0, ge=0)
    most: int = Field(ge=1)

    @property
    def resources(self) -> dict[str, float]:
        """As Ray names them."""
        return {"CPU": self.cpus, "GPU": self.gpus}


class _Groups(Config):
    nodes: tuple[NodeGroup, ...]


def groups_to_come() -> tuple[NodeGroup, ...]:
    """What the cluster's autoscaler may start, as `NODES` tells on its head: Ray itself (2.60) tells no job of it.

    Raises:
        UserError: the variable holds something else.
    """
    text = os.environ.get(NODES, "")
    if not text:
        return ()
    try:
        found = {"nodes": json.loads(text)}
    except ValueError as error:
        raise UserError(f"{NODES} = {text!r}: no JSON: {error}") from None
    return validate(_Groups, found, where=NODES).nodes


def expected(kind: str) -> float:
    """How much of a resource, such as "CPU", the connected cluster has, or may have once it has grown."""
    import ray

    connect()
    to_come = sum(group.resources.get(kind, 0) * group.most for group in groups_to_come())
    return max(float(ray.cluster_resources().get(kind, 0)), to_come)


def patience(seconds: float) -> float:
    """How long to wait for room: `seconds`, or as long as an autoscaler takes to bring a node."""
    return GROWTH_SECONDS if groups_to_come() else seconds


def cpus() -> int:
    """The number of CPUs that the connected cluster has or may grow to, at least 1: work is cut for so many."""
    return max(1, int(expected("CPU")))
