"""What every test shares: one Ray per test session."""

import inspect
import logging
import os
from collections.abc import Iterator

import httpx
import pytest

from starloom.cluster import prepare_environment
from tests.object_store import BUCKET, ObjectStore
from tests.patience import PATIENCE

ALL_TESTS = "STARLOOM_ALL_TESTS"  # environment: also what CI leaves out, as CONTRIBUTING.md tells
thorough = pytest.mark.skipif(not os.environ.get(ALL_TESTS), reason="long, and left to `make test-all`")
inspect.signature(httpx.post).parameters["timeout"].default.read = PATIENCE  # its five seconds judge by the clock
STORE = ObjectStore()  # one address for the session: Ray's workers have the environment that Ray started with


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """A local Ray of two CPUs; yields its GCS address. Started once, by the first test that asks."""
    import ray

    prepare_environment()
    os.environ.update(STORE.environment)
    context = ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=512 << 20,
        logging_level=logging.WARNING,
        log_to_driver=False,
    )
    yield context.address_info["address"]
    ray.shutdown()


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The URL of a bucket of an object store of this machine's own, which the environment leads to."""
    os.environ.update(STORE.environment)
    STORE.start()
    yield f"s3://{BUCKET}"
    STORE.stop()
