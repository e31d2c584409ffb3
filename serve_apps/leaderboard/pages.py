"""The leaderboard's pages as text."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from serve_apps.evaluation.benchmarks import benchmark
from serve_apps.evaluation.store import StoredRun
from serve_apps.leaderboard.board import Board
from serve_apps.leaderboard.plot import scatter
from starloom.errors import UserError

BASE = "/leaderboard"


@cache
def _templates() -> Environment:
    folder = Path(__file__).parent / "templates"
    return Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True)


def board_page(board: Board) -> str:
    """The table, its plot, and what sorts and filters it; one self-contained page."""
    return _templates().get_template("board.html.j2").render(board=board, base=BASE, plot=scatter(board), size=size)


def run_page(run: StoredRun) -> str:
    """Every task of a run: prompt, completion, verdict; and its settings."""
    request = run.request()
    verdicts = {(row["task_id"], row["sample"]): row for row in run.verdicts()}
    try:
        tasks = {task.id: task for task in benchmark(request.benchmark).tasks(request.data)}
    except UserError:  # its file has gone since: completions and verdicts are still worth a page
        tasks = {}
    samples: list[dict[str, Any]] = []
    for sample in run.samples():
        verdict, task = verdicts.get((sample.task, sample.number), {}), tasks.get(sample.task)
        samples.append(
            {
                "task": sample.task,
                "number": sample.number,
                "prompt": task.prompt if task else "",
                "suffix": task.suffix if task else None,
                "completion": sample.completion,
                "passed": verdict.get("passed", False),
                "status": verdict.get("status"),
                "detail": verdict.get("detail") or sample.refused,
            }
        )
    return (
        _templates()
        .get_template("run.html.j2")
        .render(run_id=run.id, base=BASE, request=request, state=run.state(), result=run.result(), samples=samples)
    )


def size(parameters: int | None) -> str:
    """``15.5B``, ``164M``."""
    if parameters is None:
        return "–"
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= unit:
            return f"{parameters / unit:.3g}{letter}"
    return str(parameters)
