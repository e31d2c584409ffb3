"""HumanEval's canonical solutions and wrong variants of them, idle and with every core burning: the same verdicts."""

import pytest

from serve_apps.evaluation.benchmarks import benchmark
from serve_apps.sandbox.jobs import run_jobs
from serve_apps.sandbox.sandbox import Limits
from tests.benchmarks.bench_eval import busy_cores

pytestmark = pytest.mark.slow

BROKEN_ENDS = ("\n    return None\n", "    x = 1 /\n", "    raise ValueError\n", "    while True: pass\n")


def test_verdicts_are_the_same_with_all_cores_busy() -> None:
    humaneval = benchmark("humaneval")
    tasks = humaneval.tasks(None)
    right = [humaneval.job(task, task.record["canonical_solution"]) for task in tasks]
    wrong = [humaneval.job(task, BROKEN_ENDS[n % len(BROKEN_ENDS)]) for n, task in enumerate(tasks[:8])]
    limits = Limits(cpu_seconds=1.5)
    idle = [verdict.status for verdict in run_jobs([*right, *wrong], limits)]
    with busy_cores():
        busy = [verdict.status for verdict in run_jobs([*right, *wrong], limits)]
    assert idle == busy
    assert idle[: len(right)] == ["passed"] * 164
    assert set(idle[len(right) :]) == {"failed", "timeout"}
