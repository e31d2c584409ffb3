"""A pool of evaluation actors: programs run on the cluster's CPUs, and a killed actor's program is run again."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayActorError

from serve_apps.sandbox.jobs import Job
from serve_apps.sandbox.sandbox import ENVIRONMENT, Limits, Sandbox, Verdict
from serve_apps.sandbox.toolchains import present_folders
from starloom.errors import RunError

MOST_ATTEMPTS = 4
JOBS_PER_ACTOR = 8  # fewer do not pay for the start of another


@ray.remote(num_cpus=1, max_restarts=-1)
class Executor:
    """One warm sandbox."""

    def __init__(self) -> None:
        self._sandbox: Sandbox | None = None

    def execute(self, job: Job, limits: Limits) -> Verdict:
        """Run a job."""
        if self._sandbox is None:
            self._sandbox = Sandbox(limits, folders=(*present_folders(), ENVIRONMENT)).__enter__()
        return job.run(self._sandbox, limits)

    def close(self) -> None:
        """End the sandbox."""
        if self._sandbox is not None:
            self._sandbox.close()


def run_on_actors(
    jobs: Sequence[Job],
    limits: Limits,
    *,
    actors: int | None = None,
    finished: Callable[[int, Verdict], None] = lambda number, verdict: None,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Verdict]:
    """Verdicts in the order of the jobs; `finished` is called once for each, from this thread.

    As `run_jobs`: what ran out of time is run again alone. Ends early, with the verdicts so far, once `stopped` says.

    Raises:
        RunError: a job's actor died again and again.
    """
    if not jobs:
        return []
    cpus = int(ray.cluster_resources().get("CPU", 1))
    count = actors or max(1, min(cpus, -(-len(jobs) // JOBS_PER_ACTOR)))
    pool = [Executor.remote() for _ in range(count)]  # type: ignore[attr-defined]
    verdicts: dict[int, Verdict] = {}

    def keep(number: int, verdict: Verdict) -> None:
        verdicts[number] = verdict
        finished(number, verdict)

    try:
        doubtful: list[int] = []

        def first(number: int, verdict: Verdict) -> None:
            if verdict.status in ("timeout", "sandbox_error"):
                doubtful.append(number)
            else:
                keep(number, verdict)

        _spread(pool, jobs, list(range(len(jobs))), limits, first, stopped)
        _spread(pool[:1], jobs, sorted(doubtful), replace(limits, wall_seconds=2 * limits.wall_seconds), keep, stopped)
        for actor in pool:
            actor.close.remote()
    finally:
        for actor in pool:
            ray.kill(actor)
    return [verdicts[number] for number in sorted(verdicts)]


def _spread(
    pool: Sequence[Any],
    jobs: Sequence[Job],
    numbers: list[int],
    limits: Limits,
    finished: Callable[[int, Verdict], None],
    stopped: Callable[[], bool],
) -> None:
    """One job at a time on each actor."""
    waiting = numbers[::-1]
    attempts = dict.fromkeys(numbers, 0)
    idle = list(pool)
    running: dict[Any, tuple[int, Any]] = {}
    while (waiting or running) and not stopped():
        while waiting and idle:
            number, actor = waiting.pop(), idle.pop()
            attempts[number] += 1
            running[actor.execute.remote(jobs[number], limits)] = number, actor
        ready, _ = ray.wait(list(running), timeout=1.0)
        for reference in ready:
            number, actor = running.pop(reference)
            idle.append(actor)
            try:
                verdict = ray.get(reference)
            except RayActorError as error:  # Ray starts the actor again; its program has no verdict yet
                if attempts[number] == MOST_ATTEMPTS:
                    raise RunError(f"program {number}: its actor died {MOST_ATTEMPTS} times: {error}") from None
                waiting.append(number)
                continue
            finished(number, verdict)
