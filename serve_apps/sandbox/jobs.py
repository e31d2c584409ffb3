"""Jobs: what decides about a completion; and running many of them on warm sandboxes."""

import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from serve_apps.sandbox.javatuples import PACKAGE, tuple_sources
from serve_apps.sandbox.sandbox import ENVIRONMENT, Bound, Command, Limits, Sandbox, Tests, Verdict
from serve_apps.sandbox.seals import sealed, without_complaint
from serve_apps.sandbox.toolchains import command_words, language, present_folders


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
    the program passes only when they came to their end (`seals.py`), in the languages whose endings are known.
    """

    language: str
    source: str
    stdin: str = ""
    timeout: float | None = None
    tests_last: bool = False

    def run(self, sandbox: Sandbox, limits: Limits) -> Verdict:
        """Build it where the language does that, and run it."""
        known = language(self.language)
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
        ending = sealed(known.name, self.source) if self.tests_last else None
        files = {known.file: ending.source if ending else self.source}
        if known.name == "Java" and PACKAGE in self.source:
            files.update(tuple_sources())
        whole = Command(files, build, tuple(run), ending.seal if ending else "")
        verdict = sandbox.run_command(whole, stdin=self.stdin, limits=wanted)
        return without_complaint(known.name, verdict) if self.tests_last else verdict


def main_class(source: str) -> str | None:
    """The Java class that holds `main`: the last one named before it."""
    before, found, _ = source.partition("static void main")
    names = re.findall(r"\bclass\s+(\w+)", before) if found else []
    return names[-1] if names else None


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
        return sandbox.run_command(Command({"program.py": ending.source}, (), python, ending.seal), limits=wanted)


@dataclass(frozen=True)
class ExactMatch:
    """A completion that must equal the missing text, white space around them aside; nothing runs."""

    completion: str
    expected: str

    def run(self, sandbox: Sandbox, limits: Limits) -> Verdict:
        """Compare."""
        return Verdict("passed" if self.completion.strip() == self.expected.strip() else "failed")


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def run_jobs(
    jobs: Sequence[Job],
    limits: Limits,
    *,
    workers: int | None = None,
    isolated: bool = True,
    finished: Callable[[int, Verdict], None] | None = None,
) -> list[Verdict]:
    """Verdicts in the order of the jobs, from one warm sandbox a worker.

    Jobs that ran out of time are run again alone, one after another, with the same limit of CPU time and a wider one
    of wall time, before that counts: what else the machine does changes no verdict. `finished` is called once a job,
    from any thread.

    Raises:
        UserError: nothing isolates on this system.
    """
    count = min(workers or usable_cores(), usable_cores(), max(1, len(jobs)))
    verdicts: list[Verdict | None] = [None] * len(jobs)
    local = threading.local()
    folders: list[Bound] = [*present_folders()] if any(isinstance(job, Program) for job in jobs) else []
    if any(isinstance(job, InstalledPython) for job in jobs):
        folders.append(ENVIRONMENT)
    opened: list[Sandbox] = []

    def sandbox() -> Sandbox:
        if not hasattr(local, "sandbox"):
            local.sandbox = Sandbox(limits, isolated, folders).__enter__()
            opened.append(local.sandbox)
        found: Sandbox = local.sandbox
        return found

    def work(number: int) -> None:
        verdict = jobs[number].run(sandbox(), limits)
        if verdict.status not in ("timeout", "sandbox_error"):
            verdicts[number] = verdict
            if finished:
                finished(number, verdict)

    try:
        with ThreadPoolExecutor(count, thread_name_prefix="sandbox") as pool:
            for result in [pool.submit(work, number) for number in range(len(jobs))]:
                result.result()
        patient = replace(limits, wall_seconds=limits.wall_seconds * 2)
        for number in [number for number, verdict in enumerate(verdicts) if verdict is None]:
            verdict = jobs[number].run(sandbox(), patient)
            verdicts[number] = verdict
            if finished:
                finished(number, verdict)
    finally:
        for sandbox_ in opened:
            sandbox_.close()
    return [verdict for verdict in verdicts if verdict is not None]
