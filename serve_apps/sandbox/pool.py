"""A pool of evaluation actors: programs run on the cluster's CPUs, and a killed actor's program is run again."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError

from serve_apps.sandbox.jobs import Job, Workshop, doubtful, final, patient
from serve_apps.sandbox.sandbox import Limits, Verdict
from serve_apps.sandbox.toolchains import present_folders
from starloom import cluster, metrics
from starloom.errors import RunError

MOST_ATTEMPTS = 4
JOBS_PER_ACTOR = 8  # fewer do not pay for the start of another
IN_FLIGHT = 2  # jobs of an actor: one that runs, one that waits for its core
MOST_IN_FLIGHT = 8
SLOW_SECONDS = 2.0  # a job that takes longer may sleep: its actor gets one more
CORE_SECONDS = 60.0  # how long no actor may get a core before that is an error


@ray.remote(num_cpus=1, max_restarts=-1)
class Executor:
    """Warm sandboxes on one core."""

    def __init__(self) -> None:
        self._workshop = Workshop(Limits(), 1, folders=present_folders())

    def ready(self) -> None:
        """Answer once a core is there."""

    def execute(self, job: Job, limits: Limits) -> Verdict:
        """Run a job."""
        return self._workshop.run(job, limits)

    def close(self) -> None:
        """End the sandboxes."""
        self._workshop.close()


def run_on_actors(
    jobs: Sequence[Job],
    limits: Limits,
    *,
    actors: int | None = None,
    finished: Callable[[int, Verdict], None] = lambda number, verdict: None,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Verdict]:
    """Verdicts in the order of the jobs; `finished` is called once for each, from this thread.

    As `run_jobs`: what a busy machine may have decided is run again. Jobs go to those actors that have a core; the
    others join when they get one. Ends early, with the verdicts so far, once `stopped` says.

    Raises:
        RunError: a job's actor died again and again, or no core becomes free.
    """
    if not jobs:
        return []
    count = actors or min(cluster.cpus(), -(-len(jobs) // JOBS_PER_ACTOR))
    several = Executor.options(max_concurrency=MOST_IN_FLIGHT)  # type: ignore[attr-defined]
    pool = Pool([several.remote() for _ in range(count)])
    verdicts: dict[int, Verdict] = {}
    again: list[int] = []
    counts: Counter[str] = Counter()

    def first(number: int, verdict: Verdict) -> None:
        if doubtful(verdict):
            again.append(number)
        else:
            second(number, verdict)

    def second(number: int, verdict: Verdict) -> None:
        verdicts[number] = final(verdict)
        counts[verdicts[number].status] += 1
        metrics.tell("starloom_evaluation_programs", counts[verdicts[number].status], verdict=verdicts[number].status)
        metrics.tell("starloom_evaluation_programs_left", len(jobs) - len(verdicts))
        finished(number, verdicts[number])

    try:
        pool.spread(jobs, list(range(len(jobs))), limits, first, stopped)
        pool.spread(jobs, sorted(again), patient(limits), second, stopped)
    finally:
        pool.close()
    return [verdicts[number] for number in sorted(verdicts)]


class Pool:
    """Actors, and which of them have a core."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = list(actors)
        self._starting = {actor.ready.remote(): number for number, actor in enumerate(actors)}
        self._live: list[int] = []

    def spread(
        self,
        jobs: Sequence[Job],
        numbers: list[int],
        limits: Limits,
        finished: Callable[[int, Verdict], None],
        stopped: Callable[[], bool],
    ) -> None:
        """A few jobs at a time on each live actor; more where those that it has take long.

        Raises:
            RunError: a job's actor died again and again, or no actor gets a core.
        """
        waiting = numbers[::-1]
        attempts = dict.fromkeys(numbers, 0)
        running: dict[Any, tuple[int, int, float]] = {}  # of each answer to come: job, actor, when it was asked
        since, patience = time.monotonic(), cluster.patience(CORE_SECONDS)
        while (waiting or running) and not stopped():
            for actor in self._with_room(running)[: len(waiting)]:
                number = waiting.pop()
                attempts[number] += 1
                asked = self._actors[actor].execute.remote(jobs[number], limits)
                running[asked] = number, actor, time.monotonic()
            ready, _ = ray.wait([*running, *self._starting], timeout=1.0)
            self._live += [self._starting.pop(reference) for reference in ready if reference in self._starting]
            if not self._live and time.monotonic() - since > patience:
                raise RunError(no_core())
            for reference in ready:
                if reference not in running:
                    continue
                number, _, _ = running.pop(reference)
                try:
                    verdict = ray.get(reference)
                except RayActorError as error:  # Ray starts the actor again; its program has no verdict yet
                    if attempts[number] == MOST_ATTEMPTS:
                        raise RunError(f"program {number}: its actor died {MOST_ATTEMPTS} times: {error}") from None
                    waiting.append(number)
                    continue
                finished(number, verdict)

    def _with_room(self, running: dict[Any, tuple[int, int, float]]) -> list[int]:
        """Live actors, once for each job that they can take, those with the fewest jobs first."""
        now = time.monotonic()
        slow = Counter(actor for _, actor, began in running.values() if now - began > SLOW_SECONDS)
        has = Counter(actor for _, actor, _ in running.values())
        places = [
            (place, actor)
            for actor in self._live
            for place in range(has[actor], min(MOST_IN_FLIGHT, IN_FLIGHT + slow[actor]))
        ]
        return [actor for _, actor in sorted(places)]

    def close(self) -> None:
        """End the actors and their sandboxes."""
        for actor in self._live:
            self._actors[actor].close.remote()
        for actor in self._actors:
            ray.kill(actor)


def no_core() -> str:
    """Why programs cannot run, and what to free."""
    total = ray.cluster_resources().get("CPU", 0)
    free = ray.available_resources().get("CPU", 0)
    return (
        f"no core is free to run programs: {total - free:g} of the cluster's {total:g} are held, such as by a served"
        " model; add cores, or serve with fewer replicas"
    )
