"""A benchmark of one task."""

from collections.abc import Sequence
from dataclasses import dataclass

from serve_apps.evaluation.benchmarks.benchmark import Task
from serve_apps.sandbox.jobs import JudgedPython
from serve_apps.sandbox.sandbox import Tests


@dataclass(frozen=True)
class Doubling:
    """One task."""

    name: str = "acme-doubling"
    samples: int = 1
    max_tokens: int = 32

    def tasks(self, source: str | None) -> Sequence[Task]:
        """The task."""
        return [Task("double/0", "def double(x):\n", ("\ndef",))]

    def job(self, task: Task, completion: str) -> JudgedPython:
        """The function in its cell, the assertion in the judge."""
        return JudgedPython(task.prompt + completion, Tests("", "assert double(21) == 42", ("double",)))


BENCHMARK = Doubling()
