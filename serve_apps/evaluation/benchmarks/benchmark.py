"""What a benchmark is: tasks with prompts and stops, and a job that decides whether a completion passes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from serve_apps.sandbox.jobs import Job


@dataclass(frozen=True)
class Facts:
    """What ``--benchmarks`` shows."""

    tasks: str = "?"
    languages: str = "Python"
    needs: str = "-"
    data: str = "a file of your own (--data)"


EXPLANATION = "\0explanation\0"


@dataclass(frozen=True)
class Task:
    """One task. `suffix` is the text after the gap where the task is to fill one; `record` is the benchmark's own.

    Some tasks take two steps: what the model writes for `first`, up to `first_characters` of it, stands in the place of
    `EXPLANATION` in the prompt.
    """

    id: str
    prompt: str
    stops: tuple[str, ...]
    suffix: str | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    language: str = "Python"
    group: str = ""  # tasks of a group have a score of their own
    first: str = ""
    first_characters: int = 0


class Benchmark(Protocol):
    """A benchmark: load, prompt, stops, program, score."""

    name: str
    samples: int  # n, as the papers set it
    max_tokens: int

    def tasks(self, source: str | None) -> Sequence[Task]:
        """All tasks, from a local path when `source` is given; `UserError` when they cannot be read."""
        ...

    def job(self, task: Task, completion: str) -> Job:
        """What runs to decide about a completion, already cut at the stops."""
        ...


class Proven(Protocol):
    """A benchmark whose data hold solutions: it can be checked (`proof.py`). Optional for a benchmark of one's own."""

    def reference(self, task: Task) -> str | None:
        """A completion that passes; None where the record has none."""
        ...

    def mutants(self, task: Task) -> Sequence[str]:
        """Completions that must not pass."""
        ...


def cut(completion: str, stops: Sequence[str]) -> str:
    """The completion up to the first stop; servers may or may not have cut it there."""
    ends = [position for stop in stops if (position := completion.find(stop)) >= 0]
    return completion[: min(ends)] if ends else completion
