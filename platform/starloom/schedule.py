"""The order of a run: each step as soon as its inputs are done, one at a time or several at once."""

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from starloom import metrics
from starloom.artifact import Artifact
from starloom.jobs import Jobs
from starloom.program import summary_line
from starloom.recipe import Recipe, State, StepStatus, resolve


class Schedule:
    """What of a recipe is done, and what is to do of the steps that a run was asked for."""

    def __init__(
        self, recipe: Recipe, statuses: Collection[StepStatus], names: Collection[str], say: Callable[[str], None]
    ) -> None:
        self._recipe = recipe
        self._names = names
        self._say = say
        self._known = {status.entry.name: status for status in statuses}
        self._running: dict[Future[None], str] = {}
        self._ran: set[str] = set()

    def carry_out(self, jobs: Jobs) -> list[StepStatus]:
        """Run what is not done; returns how every step of the recipe stands at the end.

        When a step fails no other is started; those that run go on to their end.

        Raises:
            StarloomError: of the first step that failed.
        """
        failures: list[BaseException] = []
        with ThreadPoolExecutor(self._recipe.at_once, thread_name_prefix="step") as pool:
            try:
                while True:
                    for status in () if failures else self._startable():
                        self._say(f"▶ {status.entry.name} {status.fingerprint[:8]}: {status.entry.run}")
                        self._running[pool.submit(jobs.step, status, self._recipe.root)] = status.entry.name
                    if not self._running:
                        break
                    failures += self._ended()
            except BaseException:  # Ctrl-C, SIGTERM: none of the run's jobs stays behind
                jobs.stop()
                raise
        for other in failures[1:]:
            self._say(f"error: {other}")
        if failures:
            raise failures[0]
        return list(self._known.values())

    def _startable(self) -> Iterator[StepStatus]:
        busy = set(self._running.values())
        for name, status in self._known.items():
            if len(self._running) >= self._recipe.at_once:
                return
            waits = name in busy or name not in self._names or status.state is State.DONE
            if not waits and all(self._known[need].state is State.DONE for need in self._within(status)):
                yield status

    def _within(self, status: StepStatus) -> Iterator[str]:
        return (need for need in status.entry.needs if need in self._known)

    def _ended(self) -> list[BaseException]:
        """Wait for the next end of a step; returns what went wrong."""
        ended, _ = wait(self._running, return_when=FIRST_COMPLETED)
        failures = []
        for future in ended:
            name = self._running.pop(future)
            error = future.exception()
            if error is not None:
                failures.append(error)
                continue
            self._ran.add(name)
            artifact = Artifact.open(self._known[name].folder)
            metrics.done(self._recipe.name, artifact)
            self._say(summary_line(artifact))
        self._look_again()
        return failures

    def _look_again(self) -> None:
        """What follows from what has been done: a result of before may make more of it done."""
        told = self._ran | set(self._running.values())
        told |= {name for name, status in self._known.items() if status.state is State.DONE}
        self._known = {status.entry.name: status for status in resolve(self._recipe, self._known)}
        for name, status in self._known.items():
            if status.state is State.DONE and name in self._names and name not in told:
                self._say(f"· {name} {status.fingerprint[:8]}: done before, what it reads is the same")
