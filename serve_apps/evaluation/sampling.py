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


def samples(
    endpoint: Endpoint,
    tasks: Sequence[Task],
    count: int,
    generation: Generation,
    *,
    concurrency: int = 16,
    room: Callable[[str], int] | None = None,
) -> Iterator[Sample]:
    """`count` completions of each task, in order. `room` tells how many tokens may follow a prompt.

    Raises:
        RunError: the endpoint gives no usable answer.
    """

    def one(place: tuple[Task, int]) -> Sample:
        task, number = place
        wanted = generation.max_tokens
        if room is not None:
            wanted = min(wanted, room(task.prompt + (task.suffix or "")))
            if wanted < min(LEAST_ROOM, generation.max_tokens):
                return Sample(task.id, number, "", "the prompt fills the model's context")
        settings = replace(generation, max_tokens=wanted, seed=sample_seed(generation.seed, task.id, number))
        try:
            text = endpoint.complete(task.prompt, settings, task.stops, task.suffix)
        except TooLong as error:
            return Sample(task.id, number, "", str(error))
        return Sample(task.id, number, cut(text, task.stops))

    places = [(task, number) for task in tasks for number in range(count)]
    with ThreadPoolExecutor(concurrency, thread_name_prefix="samples") as pool:
        try:
            yield from pool.map(one, places)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
