"""A benchmark proves itself before it counts: its own solutions pass here, and wrong ones fail.

A task whose solution does not pass is invalid on this machine: it counts for no model, and the result names it. What a
solution costs sets the budget of its task. Where the data hold no solutions, what a task's own text needs (headers,
modules, a compiler) is tried with an empty completion.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from serve_apps.evaluation.benchmarks.benchmark import Benchmark, Task
from serve_apps.evaluation.missing import missing
from serve_apps.sandbox.jobs import Budgeted, Job, Program
from serve_apps.sandbox.sandbox import Limits, Verdict
from starloom.errors import one_line

FACTOR = 5.0  # of a solution's own cost: evalplus gives 4, on one kind of machine
GENEROUS = Limits(cpu_seconds=120.0, wall_seconds=300.0, memory_megabytes=4096)
MOST_EXCEPTIONS = 20
# lines by which a task's text asks for something
_NEEDS = re.compile(
    r"^\s*(?:#include|import|from\s+\w|use\s|using|extern crate|.*\brequire\b|library\()[^\n]*", re.MULTILINE
)

_PROBED_AS = {"TypeScript": "JavaScript"}  # its types say nothing of what is there


class Execute(Protocol):
    """Runs jobs; verdicts in their order."""

    def __call__(self, jobs: Sequence[Job], limits: Limits) -> list[Verdict]:
        """All verdicts, or fewer when the run was stopped."""
        ...


@dataclass(frozen=True)
class Proof:
    """What the tasks are known to need. `invalid` maps tasks that cannot be judged here to the reason."""

    invalid: dict[str, str] = field(default_factory=dict)
    budgets: dict[str, Budgeted] = field(default_factory=dict)  # without a job
    references: int = 0

    def job(self, task: Task, job: Job) -> Job:
        """A job with its task's budget."""
        budget = self.budgets.get(task.id)
        return Budgeted(job, budget.cpu_seconds, budget.memory_megabytes) if budget else job

    def words(self) -> list[str]:
        """Lines for the user: what is missing, and for how many tasks."""
        reasons: dict[str, list[str]] = {}
        for task, reason in self.invalid.items():
            reasons.setdefault(reason, []).append(task)
        return [
            f"invalid, not counted: {len(tasks)} tasks such as {tasks[0]}: {reason}"
            for reason, tasks in sorted(reasons.items(), key=lambda item: -len(item[1]))
        ]


def prove(chosen: Benchmark, tasks: Sequence[Task], execute: Execute) -> Proof:
    """Run each task's own solution; without one, try what its text needs."""
    solutions = {task.id: _reference(chosen, task) for task in tasks}
    with_one = [task for task in tasks if solutions[task.id] is not None]
    verdicts = execute([chosen.job(task, str(solutions[task.id])) for task in with_one], GENEROUS)
    invalid, budgets = {}, {}
    for task, verdict in zip(with_one, verdicts, strict=False):
        if not verdict.passed:
            invalid[task.id] = missing(_words(verdict)) or f"its own solution: {ending(verdict)}"
        else:
            memory = int(2 * verdict.peak_megabytes)
            budgets[task.id] = Budgeted(None, round(FACTOR * verdict.cpu_seconds, 1), memory)
    without = [task for task in tasks if solutions[task.id] is None]
    return Proof(invalid | _needs(chosen, without, execute), budgets, len(with_one))


def _needs(chosen: Benchmark, tasks: Sequence[Task], execute: Execute) -> dict[str, str]:
    """Tasks whose text asks for what is not here: what one of each kind asks for is tried alone."""
    kinds: dict[tuple[str, ...], list[Task]] = {}
    for task in tasks:
        text = f"{task.prompt}\n{task.record.get('tests') or ''}"
        asked = tuple(dict.fromkeys(line.strip() for line in _NEEDS.findall(text)))
        kinds.setdefault((task.language, *asked), []).append(task)
    verdicts = execute([_probe(chosen, of_kind[0], asked[1:]) for asked, of_kind in kinds.items()], GENEROUS)
    found = {}
    for of_kind, verdict in zip(kinds.values(), verdicts, strict=False):
        reason = verdict.detail if verdict.status == "invalid" else missing(_words(verdict))
        found.update({task.id: reason for task in of_kind if reason})
    return found


def _probe(chosen: Benchmark, task: Task, asked: Sequence[str]) -> Job:
    """The lines by which a task asks for things; of a Python task, its tests with nothing to be tested."""
    if task.language == "Python":
        return chosen.job(task, "")
    return Program(_PROBED_AS.get(task.language, task.language), "\n".join(asked) + "\n")


@dataclass(frozen=True)
class Checked:
    """How a benchmark fares here; `exceptions` names each solution that fails and each mutant that passes."""

    benchmark: str
    tasks: int
    references: int
    passed: int
    mutants: int
    rejected: int
    exceptions: tuple[str, ...]

    def lines(self) -> list[str]:
        """For the user."""
        if not self.references:
            return [f"{self.benchmark}: {self.tasks} tasks; the data hold no solutions, so nothing proves the tests"]
        more = len(self.exceptions) - MOST_EXCEPTIONS
        return [
            f"{self.benchmark}: {self.passed} of {self.references} references passed,"
            f" {self.rejected} of {self.mutants} mutants rejected ({self.tasks} tasks)",
            *(f"  {exception}" for exception in self.exceptions[:MOST_EXCEPTIONS]),
            *([f"  and {more} more"] if more > 0 else []),
        ]


def check(chosen: Benchmark, tasks: Sequence[Task], execute: Execute, limits: Limits) -> Checked:
    """References must pass with generous limits; mutants must fail within each task's budget."""
    proof = prove(chosen, tasks, execute)
    exceptions = [f"{task}: {reason}" for task, reason in proof.invalid.items()]
    valid = [task for task in tasks if task.id not in proof.invalid]
    wrong = [(task, n, text) for task in valid for n, text in enumerate(_mutants(chosen, task), 1)]
    verdicts = execute([proof.job(task, chosen.job(task, text)) for task, _, text in wrong], limits)
    for (task, number, _), verdict in zip(wrong, verdicts, strict=True):
        if verdict.passed or verdict.status == "invalid":
            exceptions.append(f"{task.id}: mutant {number} {ending(verdict)}")
    rejected = sum(not v.passed and v.status != "invalid" for v in verdicts)
    failed = sum(_reference(chosen, task) is not None for task in tasks if task.id in proof.invalid)
    passed = proof.references - failed
    return Checked(chosen.name, len(tasks), proof.references, passed, len(wrong), rejected, tuple(exceptions))


def ending(verdict: Verdict) -> str:
    """How a program ended, in words."""
    last = "".join(verdict.stderr.strip().splitlines()[-1:])
    said = verdict.detail or one_line(last, 120)
    return f"{verdict.status}: {said}" if said else verdict.status


def _words(verdict: Verdict) -> str:
    return f"{verdict.detail}\n{verdict.stderr}\n{verdict.stdout}"


def _reference(chosen: Benchmark, task: Task) -> str | None:
    find: Callable[[Task], str | None] | None = getattr(chosen, "reference", None)
    return find(task) if find is not None else None


def _mutants(chosen: Benchmark, task: Task) -> Sequence[str]:
    find: Any = getattr(chosen, "mutants", None)
    return tuple(find(task)) if find is not None else ()
