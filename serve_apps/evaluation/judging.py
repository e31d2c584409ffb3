"""Samples become verdicts, verdicts a score with all that it rests on."""

import hashlib
import json
import platform
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from serve_apps.evaluation.benchmarks.benchmark import Benchmark, Task
from serve_apps.evaluation.proof import Proof
from serve_apps.evaluation.sampling import NO_ROOM, Sample
from serve_apps.evaluation.scores import reported_k, score
from serve_apps.sandbox.jobs import Job
from serve_apps.sandbox.sandbox import Verdict
from starloom import __version__
from starloom.errors import RunError

_IMPORT = re.compile(r"\s*(?:import|#include|using|use|from|extern crate)\b")
_FIRST = re.compile(r"package\b|<\?php|#lang\b|#!")  # lines before which nothing may stand
REFUSED, INVALID = "refused", "invalid"


@dataclass(frozen=True)
class Measured:
    """A score with all that it rests on. `rows` are one JSON-able object a sample."""

    summary: dict[str, Any]
    rows: list[dict[str, Any]]


def job_of(chosen: Benchmark, task: Task, sample: Sample, proof: Proof) -> Job:
    """What decides about a sample, within its task's budget."""
    if sample.before:
        task = replace(task, prompt=_with_before(task.prompt, sample.before))
    return proof.job(task, chosen.job(task, sample.completion))


def _with_before(prompt: str, before: str) -> str:
    """A prompt with an answer's own definitions before its last line, and its imports where imports stand."""
    lines, last = prompt.rstrip("\n").splitlines(keepends=True), ""
    if lines:
        last = lines.pop()
    added = before.splitlines(keepends=True)
    imports = [line for line in added if _IMPORT.match(line)]
    top = 1 if lines and _FIRST.match(lines[0]) else 0
    rest = [line for line in added if not _IMPORT.match(line)]
    return "".join([*lines[:top], *imports, *lines[top:], *rest, last, prompt[len(prompt.rstrip("\n")) :]])


@dataclass(frozen=True)
class Group:
    """Equal samples of a task: they are judged once."""

    samples: tuple[Sample, ...]

    @property
    def first(self) -> Sample:
        """The sample that stands for all."""
        return self.samples[0]


def groups(drawn: Sequence[Sample], judged: Callable[[Sample], bool]) -> list[Group]:
    """The samples that have no verdict, equal ones together."""
    found: dict[tuple[str, str, str, bool], list[Sample]] = {}
    for sample in drawn:
        if not judged(sample):
            key = sample.task, sample.before, sample.completion, bool(sample.refused)
            found.setdefault(key, []).append(sample)
    return [Group(tuple(samples)) for samples in found.values()]


def decided(sample: Sample, proof: Proof) -> Verdict | None:
    """The verdict of a sample that no program has to run for."""
    if sample.task in proof.invalid:
        return Verdict(INVALID, proof.invalid[sample.task])
    return Verdict(REFUSED, sample.refused) if sample.refused else None


def row(sample: Sample, verdict: Verdict) -> dict[str, Any]:
    """A sample and its verdict as they are kept: nothing that differs between equal runs."""
    shown = {
        "task_id": sample.task,
        "sample": sample.number,
        "completion": sample.completion,
        "passed": verdict.passed,
        "status": verdict.status,
        "detail": verdict.detail,
    }
    more = {"before": sample.before, "explanation": sample.explanation}
    similar = {} if verdict.similarity is None else {"similarity": verdict.similarity}
    return shown | {key: value for key, value in more.items() if value} | similar


def summarize(tasks: Sequence[Task], rows: Sequence[dict[str, Any]], count: int) -> dict[str, Any]:
    """pass@k over the tasks that can be judged, with 95 % intervals, and how the samples ended.

    A task with an invalid sample is invalid as a whole.

    Raises:
        RunError: no task can be judged, or the model refused every prompt.
    """
    invalid = {entry["task_id"]: entry["detail"] for entry in rows if entry["status"] == INVALID}
    valid = [task for task in tasks if task.id not in invalid]
    if not valid:
        raise RunError(f"no task could be judged: {next(iter(invalid.values()), 'there is none')}")
    counted = [entry for entry in rows if entry["task_id"] not in invalid]
    words = {entry["detail"] for entry in counted if entry["status"] == REFUSED} - {NO_ROOM}
    if words and all(entry["status"] == REFUSED for entry in counted):
        raise RunError(f"the endpoint refused every prompt: {sorted(words)[0]}")
    right = Counter(entry["task_id"] for entry in rows if entry["passed"])
    correct = [right[task.id] for task in valid]
    scores = {str(k): score(correct, count, k) for k in reported_k(count)}
    groups = sorted({task.group for task in valid if task.group})
    by_group = {group: _mean([right[task.id] / count for task in valid if task.group == group]) for group in groups}
    similar = [entry["similarity"] for entry in counted if "similarity" in entry]
    remarks = Counter(entry["detail"] for entry in rows if entry["passed"] and entry["detail"])
    return {
        "pass_at_k": {k: round(interval.value, 6) for k, interval in scores.items()},
        "interval_95": {k: [round(interval.low, 6), round(interval.high, 6)] for k, interval in scores.items()},
        **({"pass_at_1_by_group": by_group} if by_group else {}),
        **({"edit_similarity": _mean(similar)} if similar else {}),
        "n": count,
        "tasks": len(valid),
        "invalid": invalid,
        "remarks": dict(sorted(remarks.items())),
        "statuses": dict(sorted(Counter(entry["status"] for entry in rows).items())),
    }


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 6)


def provenance(chosen: Benchmark, tasks: Sequence[Task], data: str | None, all_tasks: int) -> dict[str, Any]:
    """What was measured: the benchmark, its data by their content, and with what."""
    digest = hashlib.sha256()
    for task in tasks:
        digest.update(json.dumps([task.id, task.prompt, task.suffix, dict(task.record)], sort_keys=True).encode())
    return {
        "benchmark": chosen.name,
        "data": {"source": data or "published", "sha256": digest.hexdigest(), "tasks_of": [len(tasks), all_tasks]},
        "versions": {"starloom": __version__, "python": platform.python_version()},
    }
