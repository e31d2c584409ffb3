"""Ray at the edge of the data jobs: a pure function over a list of shards, each a retriable task."""

import ctypes
import logging
import pickle
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pyarrow as pa

from starloom import cluster, digests, metrics
from starloom.errors import readable

T = TypeVar("T")
PROGRESS_SECONDS = 10.0
TASKS_PER_CPU = 16


def shard_name(number: int) -> str:
    """``part-00000.parquet``: the same name is the same rows in every artifact."""
    return f"part-{number:05d}.parquet"


def map_shards(items: Sequence[T], work: Callable[[T], Any], *, name: str, cpus: float = 1.0) -> list[Any]:
    """``[work(item) for item in items]`` on the cluster through Ray Data, results in the order of `items`.

    A lost task is run again. `work` writes its shard atomically and leaves a finished one alone, so that little is done
    twice; it returns small, picklable results: text never travels through the object store.

    Raises:
        StarloomError: what the first task to fail has to say to people, such as that the disk is full.
    """
    if not items:
        return []
    import ray

    cluster.connect()
    _settle(ray.data.DataContext.get_current())
    reference = ray.put(list(items))

    def one(row: dict[str, Any]) -> dict[str, Any]:
        digests.collected()  # of another step's task in this worker
        failure = result = None
        try:
            result = work(ray.get(reference)[row["item"]])
        except Exception as error:
            failure = readable(error)  # it travels as data: Ray Data would print pages about it, and lose what it is
            if failure is None:
                raise
        _give_back()
        return {"item": row["item"], "result": pickle.dumps((failure, result, digests.collected()))}

    one.__name__ = name
    # a task costs the driver some milliseconds: enough of them to keep every CPU busy to the end, and no more
    tasks = min(len(items), TASKS_PER_CPU * cluster.cpus())
    dataset = ray.data.from_items([{"item": n} for n in range(len(items))], override_num_blocks=tasks)
    results: dict[int, Any] = {}
    said, size = time.monotonic(), 0
    metrics.progress(name, 0, len(items), 0)
    for row in dataset.map(one, num_cpus=cpus).iter_rows():
        failure, results[row["item"]], written = pickle.loads(row["result"])
        if failure is not None:
            raise failure
        digests.remember(written)
        size += sum(digest.bytes for digest in written.values())
        metrics.progress(name, len(results), len(items), size)
        if time.monotonic() - said > PROGRESS_SECONDS:
            said = time.monotonic()
            print(f"{name}: {len(results):,} of {len(items):,} shards", flush=True)
    return [results[number] for number in range(len(items))]


def _give_back() -> None:
    """Return freed memory to the system: Ray keeps a worker for many stages, and its heap would only grow."""
    pa.default_memory_pool().release_unused()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc's
        libc.malloc_trim(0)


def _settle(context: Any) -> None:
    """Ray Data for this work: every CPU for the one operator there is, and no page of log lines a stage."""
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # the reservation keeps half of the CPUs for operators that never come: on two CPUs one of them stays idle
    context.op_resource_reservation_enabled = False
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
