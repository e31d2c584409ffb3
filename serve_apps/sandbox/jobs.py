"""Jobs: what decides about a completion; and running many of them on warm sandboxes."""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from serve_apps.sandbox.controls import controlled, wrong_tests
from serve_apps.sandbox.java import PACKAGE, main_class, tuple_sources
from serve_apps.sandbox.sandbox import Bound, Command, Limits, Sandbox, Tests, Verdict
from serve_apps.sandbox.seals import NO_SEAL, sealed, without_complaint
from serve_apps.sandbox.toolchains import Language, command_words, language, present_folders, toolchain

SEAL_ALONE = "passed under a seal alone: its tests run in its own process"
MOST_ASLEEP = 8  # programs that sleep, for each core


class Job(Protocol):
    """Something to run in a sandbox."""

    def run(self, sandbox: Sandbox, limits: Limits) -> Verdict:
        """Run it and say how it ended."""
        ...


@dataclass(frozen=True)
class JudgedPython:
    """Python source whose functions are tested from outside."""

    source: str
    tests: Tests

    def run(self, sandbox: Sandbox, limits: Limits) -> Verdict:
        """Run the source in a cell and the tests in a judge."""
        return sandbox.judge_python(self.source, self.tests, limits=limits)


@dataclass(frozen=True)
class Program:
    """A whole program in some language; it passes when it ends with exit code 0.

    `timeout` is CPU seconds of the run; None is the language's own. With `tests_last` the source ends with tests, and
    the program passes only when they came to their end (`seals.py`) and when it does not pass wrong ones too
    (`controls.py`); where a language has no seal or no test could be made wrong, the verdict's detail says so.
    """

    language: str
    source: str
    stdin: str = ""
    timeout: float | None = None
    tests_last: bool = False

    def run(self, sandbox: Sandbox, limits: Limits) -> Verdict:
        """Build it where the language does that, and run it."""
        known = language(self.language)
        lacking = toolchain(known).missing
        if lacking:
            return Verdict("invalid", f"{known.name}: {', '.join(lacking)} is not installed; {known.install}")
        if not known.tools:
            wanted = replace(limits, cpu_seconds=self.timeout or limits.cpu_seconds)
            return sandbox.run_python(self.source, stdin=self.stdin, limits=wanted)
        build = (tuple(command_words(known, known.build)),) if known.build else ()
        run = command_words(known, known.run)
        if known.name == "Java":
            run[-1] = main_class(self.source) or run[-1]
        wanted = replace(
            limits,
            cpu_seconds=self.timeout or max(limits.cpu_seconds, known.run_cpu_seconds),
            build_cpu_seconds=known.build_cpu_seconds,
            limit_addresses=known.virtual_memory,
            processes=max(limits.processes, known.processes),
            file_megabytes=max(limits.file_megabytes, 128),
            temporary_megabytes=max(limits.temporary_megabytes, 256),
        )

        def run_once(source: str) -> Verdict:
            return self._run_once(known, source, build, tuple(run), sandbox, wanted)

        verdict = run_once(self.source)
        if not (self.tests_last and verdict.passed):
            return verdict
        return controlled(verdict, map(run_once, wrong_tests(known.name, self.source)))

    def _run_once(
        self,
        known: Language,
        source: str,
        build: tuple[tuple[str, ...], ...],
        run: tuple[str, ...],
        sandbox: Sandbox,
        limits: Limits,
    ) -> Verdict:
        ending = sealed(known.name, source) if self.tests_last else None
        files = {known.file: ending.source if ending else source}
        if known.name == "Java" and PACKAGE in source:
            files.update(tuple_sources())
        whole = Command(files, build, run, ending.seal if ending else "")
        verdict = sandbox.run_command(whole, stdin=self.stdin, limits=limits)
        if not self.tests_last:
            return verdict
        verdict = without_complaint(known.name, verdict)
        return verdict if ending or not verdict.passed else replace(verdict, detail=NO_SEAL)


@dataclass(frozen=True)
class InstalledPython:
    """A Python program that uses the packages of this environment, in an interpreter of its own."""

    source: str
    cpu_seconds: float = 60.0

    def run(self, sandbox: Sandbox, limits: Limits) -> Verdict:
        """Run it with the environment's interpreter; importing such packages takes seconds and much address space."""
        wanted = replace(
            limits,
            cpu_seconds=max(limits.cpu_seconds, self.cpu_seconds),
            memory_megabytes=max(limits.memory_megabytes, 4096),
            limit_addresses=False,
        )
        ending = sealed("Python", self.source)
        assert ending is not None, "any Python program takes one more statement"
        python = (sandbox.environment_python, "-s", "program.py")
        verdict = sandbox.run_command(Command({"program.py": ending.source}, (), python, ending.seal), limits=wanted)
        return replace(verdict, detail=SEAL_ALONE) if verdict.passed else verdict


@dataclass(frozen=True)
class ExactMatch:
    """A completion that must equal the missing text, white space around them aside; nothing runs.

    With `similarity` the verdict also says how near it came.
    """

    completion: str
    expected: str
    similarity: bool = False

    def run(self, sandbox: Sandbox, limits: Limits) -> Verdict:
        """Compare."""
        found, expected = self.completion.strip(), self.expected.strip()
        status = "passed" if found == expected else "failed"
        return Verdict(status, similarity=edit_similarity(found, expected) if self.similarity else None)


def edit_similarity(one: str, two: str) -> float:
    """Twice the longest common subsequence over both lengths, as `fuzz.ratio` of RepoBench and CrossCodeEval has it."""
    if not one and not two:
        return 1.0
    above = [0] * (len(two) + 1)
    for letter in one:
        row = [0]
        for n, other in enumerate(two):
            row.append(above[n] + 1 if letter == other else max(above[n + 1], row[n]))
        above = row
    return round(2 * above[-1] / (len(one) + len(two)), 6)


@dataclass(frozen=True)
class InputOutput:
    """A Python program that must print what is expected for each input, white space at line ends aside."""

    source: str
    cases: tuple[tuple[str, str], ...]

    def run(self, sandbox: Sandbox, limits: Limits) -> Verdict:
        """Run it on one input after another, until one fails; the output that is kept must hold what is expected."""
        verdict = Verdict("invalid", "the task has no test cases")
        for number, (given, expected) in enumerate(self.cases, 1):
            room = replace(limits, output_bytes=max(limits.output_bytes, 2 * len(expected) + 1024))
            verdict = sandbox.run_python(self.source, stdin=given, limits=room)
            if not verdict.passed:
                return replace(verdict, detail=verdict.detail or f"test {number} of {len(self.cases)}")
            if _lines(verdict.stdout) != _lines(expected):
                return replace(verdict, status="failed", detail=f"test {number} of {len(self.cases)}: another output")
        return verdict


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


@dataclass(frozen=True)
class Budgeted:
    """A job with limits that are at least so wide, because its task's own solution needs them."""

    job: Job | None
    cpu_seconds: float
    memory_megabytes: int

    def run(self, sandbox: Sandbox, limits: Limits) -> Verdict:
        """Run it."""
        assert self.job is not None, "a budget without a job runs nothing"
        cpu, memory = max(limits.cpu_seconds, self.cpu_seconds), max(limits.memory_megabytes, self.memory_megabytes)
        return self.job.run(sandbox, replace(limits, cpu_seconds=cpu, memory_megabytes=memory))


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


class Workshop:
    """Warm sandboxes that share cores; safe to use from several threads.

    A program that sleeps gives its core to the next one: `cores` bounds those that work, not those that wait.
    """

    def __init__(self, limits: Limits, cores: int, *, isolated: bool = True, folders: Sequence[Bound] = ()) -> None:
        self._like = Sandbox(limits, isolated, folders)
        self._cores = threading.Semaphore(cores)
        self._free: list[Sandbox] = []
        self._opened: list[Sandbox] = []

    def run(self, job: Job, limits: Limits) -> Verdict:
        """Run a job once a core is free.

        Raises:
            UserError: nothing isolates on this system.
        """
        self._cores.acquire()
        held = [True]

        def give_back() -> None:
            if held:
                held.pop()
                self._cores.release()

        try:
            sandbox = self._take()
            sandbox.asleep = give_back
            verdict = job.run(sandbox, limits)
            self._free.append(sandbox)
            return verdict
        finally:
            give_back()

    def _take(self) -> Sandbox:
        try:
            return self._free.pop()
        except IndexError:
            sandbox = replace(self._like).__enter__()
            self._opened.append(sandbox)
            return sandbox

    def close(self) -> None:
        """End all sandboxes."""
        for sandbox in self._opened:
            sandbox.close()


def needed_folders(jobs: Iterable[Job]) -> list[Bound]:
    """What the sandboxes of these jobs must have besides the system's folders."""
    kinds = {type(job.job) if isinstance(job, Budgeted) else type(job) for job in jobs}
    return [*present_folders()] if Program in kinds else []


def doubtful(verdict: Verdict) -> bool:
    """Whether what else the machine does may have decided: the job is to run once more before that counts."""
    return verdict.status == "sandbox_error" or (verdict.limit == "wall" and verdict.starved)


def final(verdict: Verdict) -> Verdict:
    """The verdict of a second run. A sandbox that ends twice with the same program was ended by it."""
    if verdict.status == "sandbox_error":
        return replace(verdict, status="failed", detail=f"it ended its sandbox twice: {verdict.detail}")
    return verdict


def patient(limits: Limits) -> Limits:
    """The limits of a second run: the same CPU time, twice the wall time."""
    return replace(limits, wall_seconds=2 * limits.wall_seconds)


def run_jobs(
    jobs: Sequence[Job],
    limits: Limits,
    *,
    workers: int | None = None,
    isolated: bool = True,
    finished: Callable[[int, Verdict], None] | None = None,
) -> list[Verdict]:
    """Verdicts in the order of the jobs, from warm sandboxes on `workers` cores.

    Jobs that ran out of wall time while they waited for a core run once more, together, with twice of it, before that
    counts: what else the machine does changes no verdict. `finished` is called once a job, from any thread.

    Raises:
        UserError: nothing isolates on this system.
    """
    cores = min(workers or usable_cores(), usable_cores(), max(1, len(jobs)))
    verdicts: dict[int, Verdict] = {}
    workshop = Workshop(limits, cores, isolated=isolated, folders=needed_folders(jobs))

    def keep(number: int, verdict: Verdict) -> None:
        verdicts[number] = verdict
        if finished:
            finished(number, verdict)

    def first(number: int) -> int | None:
        verdict = workshop.run(jobs[number], limits)
        if doubtful(verdict):
            return number
        keep(number, verdict)
        return None

    def second(number: int) -> None:
        keep(number, final(workshop.run(jobs[number], patient(limits))))

    try:
        with ThreadPoolExecutor(cores * MOST_ASLEEP, thread_name_prefix="sandbox") as pool:
            again = [number for number in pool.map(first, range(len(jobs))) if number is not None]
            list(pool.map(second, again))
    finally:
        workshop.close()
    return [verdicts[number] for number in range(len(jobs))]
