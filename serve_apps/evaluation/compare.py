"""Two runs of one benchmark, task by task: which is better, and whether that could be chance."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from starloom.errors import UserError


@dataclass(frozen=True)
class Difference:
    """A task, and the share of each run's samples that passed."""

    task: str
    first: float
    second: float


@dataclass(frozen=True)
class Comparison:
    """`better` and `worse` are tasks where the second run passes more, or fewer, of its samples than the first.

    `p_value` is that of the two-sided sign test (Dixon and Mood 1946) on those tasks: how likely so uneven a split is
    when each task is as likely to go one way as the other. With one sample a task it is McNemar's exact test.
    """

    tasks: int
    first: float
    second: float
    better: tuple[Difference, ...]
    worse: tuple[Difference, ...]
    p_value: float

    def lines(self) -> list[str]:
        """For the user."""
        verdict = "no more than chance would give" if self.p_value >= 0.05 else "more than chance gives"
        lines = [
            f"{self.tasks} tasks in both: {100 * self.first:.1f} % and {100 * self.second:.1f} %;"
            f" the second is better on {len(self.better)}, worse on {len(self.worse)}"
            f" (sign test p = {self.p_value:.3g}: {verdict})"
        ]
        for name, found in (("better", self.better), ("worse", self.worse)):
            lines += [f"  {name}: {d.task} ({100 * d.first:.0f} % → {100 * d.second:.0f} %)" for d in found]
        return lines


def compare(first: Iterable[Mapping[str, Any]], second: Iterable[Mapping[str, Any]]) -> Comparison:
    """Compare the rows of two runs (``{"task_id", "passed", "status"}``) on the tasks that both have judged.

    Raises:
        UserError: they have no task in common.
    """
    one, two = _shares(first), _shares(second)
    both = [task for task in one if task in two]
    if not both:
        raise UserError("the two runs have no task in common")
    differences = [Difference(task, one[task], two[task]) for task in both]
    better = tuple(d for d in differences if d.second > d.first)
    worse = tuple(d for d in differences if d.second < d.first)
    mean = [sum(shares[task] for task in both) / len(both) for shares in (one, two)]
    return Comparison(len(both), mean[0], mean[1], better, worse, sign_test(len(better), len(worse)))


def sign_test(better: int, worse: int) -> float:
    """The two-sided p-value of so many against so many."""
    count = better + worse
    tail = sum(math.comb(count, k) for k in range(min(better, worse) + 1))
    return min(1.0, float(2 * tail / 2**count))


def _shares(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The share of passed samples of each task; invalid ones are nobody's."""
    found: dict[str, list[bool]] = {}
    for row in rows:
        if row.get("status") != "invalid":
            found.setdefault(str(row["task_id"]), []).append(bool(row.get("passed")))
    return {task: sum(passed) / len(passed) for task, passed in found.items()}
