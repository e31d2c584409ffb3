"""Fewer data ranks when nodes are lost, all of them again when nodes come: the global batch stays what it is.

Samples follow from the step alone and checkpoints are of no layout, so an attempt with other data ranks goes on where
the one before stopped, with the same batches.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from starloom import storage
from starloom.errors import UserError
from train_jobs.config import PretrainConfig
from train_jobs.job import Job
from train_jobs.layout import Layout

GROW: Final = ".grow"  # in the run's folder while it is small and could be larger
POLL_SECONDS: Final = 2.0
PATIENCE_SECONDS: Final = 300.0  # for nodes to come back before even the least number of ranks is given up


def fitting(job: Job, places: int) -> Layout | None:
    """The layout with the most data ranks, at most the configuration's, for that many places; None: not the least."""
    config = job.config
    for data in range(config.layout.data, config.min_data - 1, -1):
        layout = config.layout.model_copy(update={"data": data})
        if layout.ranks <= places and _divides(layout, job):
            return layout
    return None


def _divides(layout: Layout, job: Job) -> bool:
    try:
        layout.check(job.shape, job.config.global_batch, job.config.micro_batch)
    except UserError:
        return False  # the question is how many ranks go, not what is wrong with other numbers
    return True


def places(config: PretrainConfig) -> int:
    """How many workers the nodes that are alive could hold, if nothing else ran."""
    import ray

    kind, each = ("GPU", 1.0) if config.use_gpu else ("CPU", config.cpus_per_worker)
    alive = [node["Resources"].get(kind, 0) for node in ray.nodes() if node["Alive"]]
    return sum(int(has // each) for has in alive)


def ask_for(config: PretrainConfig | None) -> None:
    """Ask the autoscaler, where there is one, for places for all workers; None takes that back: it would hold nodes."""
    from ray.autoscaler.sdk import request_resources

    if config is None:
        request_resources(bundles=[])
        return
    each = {"CPU": config.cpus_per_worker, **({"GPU": 1.0} if config.use_gpu else {})}
    request_resources(bundles=[each] * config.layout.ranks)


@contextmanager
def watching(job: Job, layout: Layout) -> Iterator[None]:
    """While an attempt runs with `layout`: say so in the run's folder as soon as more data ranks would go."""
    sign, over = _sign(job), threading.Event()
    storage.remove_file(sign)

    def watch() -> None:
        while not over.wait(POLL_SECONDS):
            larger = fitting(job, places(job.config))
            if larger is not None and larger.data > layout.data:
                storage.create(sign, b"")
                return

    thread = threading.Thread(target=watch, name="elastic", daemon=True)
    if layout.data < job.config.layout.data:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if thread.ident is not None:
            thread.join()
        storage.remove_file(sign)


def wants_more(job: Job) -> bool:
    """In a worker: whether the attempt should end at this checkpoint, to go on with more ranks."""
    return storage.exists(_sign(job))


def _sign(job: Job) -> str:
    return storage.join(job.published or job.output, GROW)
