"""How a decision says that a file holds a benchmark's task: written by decontamination, read beside a score."""

import re
from dataclasses import dataclass
from typing import Final

BENCHMARK_TEXT: Final = "benchmark_text"  # a text of the task stands in the file
BENCHMARK_SOLUTION: Final = "benchmark_solution"  # the file nearly holds its solution
REASONS: Final = (BENCHMARK_TEXT, BENCHMARK_SOLUTION)
_SHARE: Final = re.compile(r"(?P<task>.*), (?P<share>[\d.]+) of its 5-grams", re.DOTALL)


@dataclass(frozen=True)
class Match:
    """A file that holds a task, named ``BENCHMARK ID``; `share` of a solution's 5-grams where it is nearly one."""

    reason: str
    task: str
    share: float | None = None

    @property
    def detail(self) -> str:
        """As it stands in a decision."""
        return self.task if self.share is None else f"{self.task}, {self.share:.2f} of its 5-grams"

    @classmethod
    def read(cls, reason: str, detail: str) -> "Match | None":
        """What a decision says; None when it is about something else."""
        if reason not in REASONS:
            return None
        found = _SHARE.fullmatch(detail) if reason == BENCHMARK_SOLUTION else None
        return cls(reason, found["task"], float(found["share"])) if found else cls(reason, detail)

    def possible_ids(self) -> list[str]:
        """What the task's id can be: the benchmark's name before it may have spaces in it."""
        words = self.task.split(" ")
        return [" ".join(words[at:]) for at in range(1, len(words))]
