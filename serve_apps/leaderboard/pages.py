"""The leaderboard's pages as text."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from serve_apps.evaluation.benchmarks import benchmark
from serve_apps.evaluation.compare import compare
from serve_apps.evaluation.store import StoredRun
from serve_apps.leaderboard.board import Board
from serve_apps.leaderboard.plot import scatter
from starloom.errors import NotFoundError, UserError

BASE = "/leaderboard"


@cache
def _templates() -> Environment:
    folder = Path(__file__).parent / "templates"
    return Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True)


def board_page(board: Board) -> str:
    """The table, its plot, and what sorts and filters it; one self-contained page."""
    return _templates().get_template("board.html.j2").render(board=board, base=BASE, plot=scatter(board), size=size)


def run_page(run: StoredRun) -> str:
    """A run: its score, its settings, and its tasks with how many samples of each passed."""
    request = run.request()
    found: dict[str, TaskResult] = {}
    for row in run.verdicts():
        found.setdefault(row["task_id"], TaskResult(row["task_id"])).add(row)
    tasks = sorted(found.values(), key=lambda one: _in_order(one.task))
    return (
        _templates()
        .get_template("run.html.j2")
        .render(run_id=run.id, base=BASE, request=request, state=run.state(), result=run.result(), tasks=tasks)
    )


@dataclass
class TaskResult:
    """How a task's samples ended."""

    task: str
    passed: int = 0
    samples: int = 0
    detail: str = ""

    def add(self, row: Mapping[str, Any]) -> None:
        """One more verdict."""
        self.samples += 1
        self.passed += bool(row["passed"])
        if not row["passed"] and not self.detail:
            self.detail = f"{row['status']}: {row['detail']}" if row.get("detail") else str(row["status"])

    @property
    def verdict(self) -> str:
        """Whether all, some or none passed."""
        return "passed" if self.passed == self.samples else "some" if self.passed else "failed"


def _in_order(task: str) -> tuple[Any, ...]:
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", task))


def task_page(run: StoredRun, name: str) -> str:
    """The samples of one task: prompt, completion, verdict.

    Raises:
        NotFoundError: the run has no such task.
    """
    request = run.request()
    verdicts = {row["sample"]: row for row in run.verdicts() if row["task_id"] == name}
    samples = [sample for sample in run.samples() if sample.task == name]
    if not samples:
        raise NotFoundError(f"{run.id}: it has no samples of task {name!r}")
    try:
        task = next((t for t in benchmark(request.benchmark).tasks(request.data) if t.id == name), None)
    except UserError:  # its file has gone since, or is known by a name alone: completions are still worth a page
        task = None
    shown = [
        {
            "number": sample.number,
            "before": sample.before,
            "explanation": sample.explanation,
            "completion": sample.completion,
            "passed": verdicts.get(sample.number, {}).get("passed", False),
            "status": verdicts.get(sample.number, {}).get("status"),
            "detail": verdicts.get(sample.number, {}).get("detail") or sample.refused,
        }
        for sample in samples
    ]
    return (
        _templates()
        .get_template("task.html.j2")
        .render(run_id=run.id, base=BASE, request=request, result=run.result(), name=name, task=task, samples=shown)
    )


def compare_page(first: StoredRun, second: StoredRun) -> str:
    """Two runs task by task.

    Raises:
        UserError: they are of different benchmarks, or have no task in common.
    """
    results = [run.result() or {} for run in (first, second)]
    names = [run.request().benchmark for run in (first, second)]
    if names[0] != names[1]:
        raise UserError(f"{first.id} is of {names[0]} and {second.id} of {names[1]}: they have no task in common")
    found = compare(first.verdicts(), second.verdicts())
    return (
        _templates()
        .get_template("compare.html.j2")
        .render(base=BASE, runs=(first, second), results=results, benchmark=names[0], found=found)
    )


def size(parameters: int | None) -> str:
    """``15.5B``, ``164M``."""
    if parameters is None:
        return "–"
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= unit:
            return f"{parameters / unit:.3g}{letter}"
    return str(parameters)
