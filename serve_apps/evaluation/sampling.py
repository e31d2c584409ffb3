"""Completions for the tasks of a benchmark: concurrent, seeded one by one, resumable."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from serve_apps.evaluation.benchmarks.benchmark import Task, cut
from serve_apps.evaluation.endpoint import Endpoint, Generation, TooLong

LEAST_ROOM = 16


@dataclass(frozen=True)
class Sample:
    """One completion. `refused` holds why there is none: the prompt does not fit the model."""

    task: str
    number: int
    completion: str
    refused: str = ""


def sample_seed(seed: int, task: str, number: int) -> int:
    """The seed of one sample: a function of its place, so that order and concurrency change nothing."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{task}\0{number}".encode()).digest()[:4], "little") >> 1


@dataclass(frozen=True)
class Place:
    """Which sample of which task."""

    task: Task
    number: int


def places(tasks: Sequence[Task], count: int) -> list[Place]:
    """`count` places of each task, in order."""
    return [Place(task, number) for task in tasks for number in range(count)]


def samples(
    endpoint: Endpoint,
    wanted: Sequence[Place],
    generation: Generation,
    *,
    concurrency: int = 16,
    room: Callable[[str], int] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Sample]:
    """A completion for each place, in order. `room` tells how many tokens may follow a prompt.

    Ends early once `stopped` says so.

    Raises:
        RunError: the endpoint gives no usable answer.
    """

    def one(place: Place) -> Sample | None:
        if stopped():
            return None
        task, number, allowed = place.task, place.number, generation.max_tokens
        if room is not None:
            allowed = min(allowed, room(task.prompt + (task.suffix or "")))
            if allowed < min(LEAST_ROOM, generation.max_tokens):
                return Sample(task.id, number, "", "the prompt fills the model's context")
        settings = replace(generation, max_tokens=allowed, seed=sample_seed(generation.seed, task.id, number))
        try:
            text = endpoint.complete(task.prompt, settings, task.stops, task.suffix)
        except TooLong as error:
            return Sample(task.id, number, "", str(error))
        return Sample(task.id, number, cut(text, task.stops))

    with ThreadPoolExecutor(concurrency, thread_name_prefix="samples") as pool:
        try:
            for sample in pool.map(one, wanted):
                if sample is None:
                    return
                yield sample
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
