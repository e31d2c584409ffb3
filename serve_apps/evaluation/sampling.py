"""Completions for the tasks of a benchmark: concurrent, seeded one by one, resumable."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from serve_apps.evaluation.answers import answered, looks_like_an_answer, messages
from serve_apps.evaluation.benchmarks.benchmark import EXPLANATION, Task, cut
from serve_apps.evaluation.endpoint import Endpoint, Generation, TooLong
from starloom.errors import UserError

LEAST_ROOM = 16
NO_ROOM = "the prompt fills the model's context"


@dataclass(frozen=True)
class Sample:
    """One completion. `refused` holds why there is none: the prompt does not fit the model.

    `before` stands before the prompt's last line: what a chat model's answer defines first. `explanation` is what the
    model wrote in the first of two steps.
    """

    task: str
    number: int
    completion: str
    refused: str = ""
    before: str = ""
    explanation: str = ""


class Source(Protocol):
    """Where completions come from."""

    def sample(self, task: Task, number: int, generation: Generation) -> Sample:
        """One completion.

        Raises:
            TooLong: the prompt does not fit the model.
            RunError: there is no usable answer.
        """
        ...


@dataclass(frozen=True)
class Asked:
    """Completions of an endpoint: by its completion API, or by its chat API with the task as a question."""

    endpoint: Endpoint
    chat: bool = False
    system: str = ""

    def sample(self, task: Task, number: int, generation: Generation) -> Sample:
        """As `Source`.

        Raises:
            UserError: a chat model is asked to fill a gap.
        """
        explanation = ""
        if task.first:
            explanation = self._text(replace(task, prompt=task.first, suffix=None), generation, ())
            explanation = explanation.strip()[: task.first_characters]
            task = replace(task, prompt=task.prompt.replace(EXPLANATION, explanation))
        if self.chat:
            if task.suffix is not None:
                raise UserError("a chat model fills no gap: this benchmark needs the completion API, without --chat")
            answer = answered(task, self.endpoint.chat(messages(task, self.system), generation))
        else:
            text = self.endpoint.complete(task.prompt, generation, task.stops, task.suffix)
            if not looks_like_an_answer(task, text):
                return Sample(task.id, number, cut(text, task.stops), explanation=explanation)
            answer = answered(task, text)
        return Sample(task.id, number, answer.completion, before=answer.before, explanation=explanation)

    def _text(self, task: Task, generation: Generation, stops: tuple[str, ...]) -> str:
        if self.chat:
            return self.endpoint.chat([{"role": "user", "content": task.prompt}], generation)
        return self.endpoint.complete(task.prompt, generation, stops)


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
    source: Source,
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
                return Sample(task.id, number, "", NO_ROOM)
        settings = replace(generation, max_tokens=allowed, seed=sample_seed(generation.seed, task.id, number))
        try:
            return source.sample(task, number, settings)
        except TooLong as error:
            return Sample(task.id, number, "", str(error))

    with ThreadPoolExecutor(concurrency, thread_name_prefix="samples") as pool:
        try:
            for sample in pool.map(one, wanted):
                if sample is None:
                    return
                yield sample
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
