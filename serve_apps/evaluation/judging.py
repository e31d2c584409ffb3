"""One benchmark on one model: sample, run, score."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from serve_apps.evaluation.benchmarks.benchmark import Benchmark, Task
from serve_apps.evaluation.endpoint import Endpoint, Generation
from serve_apps.evaluation.sampling import Sample, places, samples
from serve_apps.evaluation.scores import reported_k, score
from serve_apps.sandbox.jobs import Job, run_jobs
from serve_apps.sandbox.sandbox import Limits, Verdict
from starloom.errors import RunError

REFUSED = "refused"


@dataclass(frozen=True)
class Measured:
    """A score with all that it rests on. `rows` are one JSON-able object a sample."""

    summary: dict[str, Any]
    rows: list[dict[str, Any]]


def evaluate_benchmark(
    benchmark: Benchmark,
    endpoint: Endpoint,
    tasks: Sequence[Task],
    count: int,
    generation: Generation,
    limits: Limits,
    *,
    isolated: bool = True,
    workers: int | None = None,
    room: Callable[[str], int] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Measured:
    """`count` samples a task, their verdicts, and pass@k.

    A prompt that the model refuses counts as failed, and the summary says how many there were.

    Raises:
        RunError: the endpoint gives no usable answer, or a task's own code fails in the sandbox.
    """
    drawn = list(samples(endpoint, places(tasks, count), generation, room=room))
    say(f"{benchmark.name}: {len(drawn)} samples of {len(tasks)} tasks drawn")
    verdicts = judge(benchmark, tasks, drawn, lambda jobs: run_jobs(jobs, limits, isolated=isolated, workers=workers))
    rows = [row(sample, verdict) for sample, verdict in zip(drawn, verdicts, strict=True)]
    summary = summarize(tasks, rows, count)
    return Measured({**summary, "settings": settings_of(generation, limits, isolated)}, rows)


def settings_of(generation: Generation, limits: Limits, isolated: bool) -> dict[str, Any]:
    """The settings that every result names."""
    return {
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "max_tokens": generation.max_tokens,
        "seed": generation.seed,
        "cpu_seconds": limits.cpu_seconds,
        "isolated": isolated,
    }


def judge(
    benchmark: Benchmark,
    tasks: Sequence[Task],
    drawn: Sequence[Sample],
    execute: Callable[[Sequence[Job]], list[Verdict]],
) -> list[Verdict]:
    """Verdicts of samples, in order. Equal completions of a task run once.

    Raises:
        RunError: the sandbox failed, or a task's own code does.
    """
    by_id = {task.id: task for task in tasks}
    distinct: dict[tuple[str, str], int] = {}
    for sample in drawn:
        if not sample.refused:
            distinct.setdefault((sample.task, sample.completion), len(distinct))
    verdicts = execute([benchmark.job(by_id[task], completion) for task, completion in distinct])
    for (task, _), verdict in zip(distinct, verdicts, strict=True):
        if verdict.status == "sandbox_error":
            raise RunError(f"{benchmark.name} {task}: the sandbox failed: {verdict.detail or verdict.stderr}")
    refused = Verdict(REFUSED)
    return [refused if s.refused else verdicts[distinct[s.task, s.completion]] for s in drawn]


def row(sample: Sample, verdict: Verdict) -> dict[str, Any]:
    """A sample and its verdict as they are kept: nothing that differs between equal runs."""
    return {
        "task_id": sample.task,
        "sample": sample.number,
        "completion": sample.completion,
        "passed": verdict.passed,
        "status": verdict.status,
        "detail": sample.refused or verdict.detail,
    }


def summarize(tasks: Sequence[Task], rows: Sequence[dict[str, Any]], count: int) -> dict[str, Any]:
    """pass@k with 95 % intervals, and how the samples ended."""
    right = Counter(entry["task_id"] for entry in rows if entry["passed"])
    correct = [right[task.id] for task in tasks]
    scores = {str(k): score(correct, count, k) for k in reported_k(count)}
    return {
        "pass_at_k": {k: round(interval.value, 6) for k, interval in scores.items()},
        "interval_95": {k: [round(interval.low, 6), round(interval.high, 6)] for k, interval in scores.items()},
        "n": count,
        "tasks": len(tasks),
        "statuses": dict(sorted(Counter(entry["status"] for entry in rows).items())),
    }
