"""Steps as Ray jobs: one run's, under one id, so that it can be listed, read, followed and stopped as a whole."""

import asyncio
import logging
import os
import secrets
import shlex
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

from starloom import storage
from starloom.artifact import Story
from starloom.cluster import local_cluster, only
from starloom.errors import NotFoundError, RunError, UserError, one_line
from starloom.joblog import LogPrinter
from starloom.plugins import beside
from starloom.program import job_file
from starloom.recipe import StepStatus

FOLDER: Final = ".jobs"
RUN: Final = "STARLOOM_RUN"  # in the environment of a run's own job: its id
AGENT_PATIENCE_SECONDS = 60
BUSY_SECONDS = 3.0
LOST_TRIES: Final = 5  # of a step whose node, and its job with it, was lost
LOST: Final = ("JOB_SUPERVISOR_ACTOR_DIED", "JOB_SUPERVISOR_ACTOR_START_TIMEOUT")  # Ray's words for it
LOOK_SECONDS = 2.0  # so often the nodes are looked at
PAUSE_SECONDS: Final = (2.0, 10.0, 30.0, 60.0, 120.0)
TERMINAL: Final = ("SUCCEEDED", "FAILED", "STOPPED")


def new_run(recipe: str) -> str:
    """An id for a run: the recipe's name, when it began, and something of its own."""
    return f"{recipe}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


@dataclass
class Jobs(AbstractContextManager["Jobs"]):
    """Submits steps as Ray jobs and follows their logs: to the cluster of ``RAY_ADDRESS``, else to a local Ray."""

    recipe: str
    story: Story | None = None
    prefixed: bool = False  # each line of a log begins with its step's name: several are printed at once
    dashboard: str = ""
    run: str = ""
    _client: Any = None
    _active: set[str] = field(default_factory=set)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _runtime_env: dict[str, Any] = field(default_factory=dict)
    _variables: dict[str, str] = field(default_factory=dict)
    _python: str = "python"
    _open: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> "Jobs":
        import ray
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
        address = os.environ.get("RAY_ADDRESS")
        self.run = os.environ.get(RUN) or new_run(self.recipe)
        self.dashboard = self._open.enter_context(self._joined(address) if address else local_cluster())
        if not address:
            self._python = shlex.quote(sys.executable)
        # modules beside the recipe are found by its steps, and by their workers
        paths = [os.environ.get("PYTHONPATH", ""), *beside()]
        self._runtime_env["env_vars"] = {
            **self._variables,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            **only(ray.get_runtime_context().gcs_address),
        }
        self._client = JobSubmissionClient(self.dashboard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @contextmanager
    def _joined(self, address: str) -> Iterator[str]:
        """The running cluster: this runner is itself a job there, or the cluster is the user's; steps are siblings."""
        import ray

        try:
            context = ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
        except (ConnectionError, OSError) as error:
            raise RunError(f"Ray at {address}: {one_line(error)}; is it up, and is its token here?") from None
        own = ray.get_runtime_context().runtime_env or {}
        if own.get("working_dir"):
            self._runtime_env["working_dir"] = own["working_dir"]
        self._variables = dict(own.get("env_vars") or {})  # what `submit` was told is for the steps
        if not context.dashboard_url:
            raise RunError(f"Ray at {address} runs without its dashboard, which takes the jobs; install ray[default]")
        try:
            yield f"http://{context.dashboard_url}"
        finally:
            ray.shutdown()

    def step(self, status: StepStatus, root: str) -> None:
        """Run one step to its end, again where its node was lost or as often as its `retries` say.

        Raises:
            StarloomError: of the step's own kind, such as `RunError`, when it fails for good.
        """
        failed = lost = 0
        while True:
            try:
                self._once(status, root)
                return
            except _LostError as error:
                lost += 1
                if lost == LOST_TRIES:
                    raise
                pause, told = PAUSE_SECONDS[lost - 1], str(error)
            except RunError as error:
                failed += 1
                if failed > status.entry.retries:
                    raise
                pause, told = PAUSE_SECONDS[min(failed, len(PAUSE_SECONDS)) - 1], str(error)
            if self._stopped.is_set():
                raise RunError(told)
            print(f"{told}; again in {pause:g} s", flush=True)
            if self._stopped.wait(pause):
                raise RunError(told)

    def stop(self) -> None:
        """Stop the steps that run; none is tried again."""
        self._stopped.set()
        for job in tuple(self._active):
            self._stop(job)

    def _stop(self, job: str) -> None:
        try:
            self._client.stop_job(job)
        except (OSError, RuntimeError) as error:  # with Ray itself
            print(f"{job}: could not be stopped: {one_line(error, 100)}", flush=True)

    def _once(self, status: StepStatus, root: str) -> None:
        from requests import RequestException  # loaded by Ray's client: a look at a recipe does not wait for it

        name, file = f"{self.recipe}.{status.entry.name}", write_job_file(status, root, self.story)
        job = submitted(
            self._client,
            entrypoint=f"{self._python} -m {status.entry.run} --config {shlex.quote(file)}",
            submission_id=self._free_id(f"{name}.{status.fingerprint[:8]}"),
            metadata={"job_name": name, "recipe": self.recipe, "step": status.entry.name, "run": self.run},
            runtime_env=self._runtime_env,
        )
        self._active.add(job)
        if self._stopped.is_set():  # while it was submitted
            self._stop(job)
        try:
            last_lines = asyncio.run(self._follow(job, f"{status.entry.name} | " if self.prefixed else ""))
            outcome = self._client.get_job_info(job)
        except BrokenPipeError:  # nobody reads what is printed: the run ends, and so does its step
            self._stop(job)
            raise
        except RequestException as error:  # of what the client asks it with; a full disk is not the dashboard's
            raise RunError(
                f"step {status.entry.name}: the dashboard, which has the jobs, does not answer: {one_line(error, 99)}"
            ) from None
        finally:
            self._active.discard(job)
        if outcome.status.value != "SUCCEEDED":
            complaint = next((line for line in reversed(last_lines) if line.startswith("error: ")), None)
            message = complaint.removeprefix("error: ") if complaint else one_line(outcome.message or "")
            failure: type[Exception] = RunError
            if outcome.driver_exit_code == UserError.exit_code:
                failure = UserError
            elif outcome.error_type in LOST:
                failure = _LostError
            raise failure(f"step {status.entry.name}: {message or outcome.status.value.lower()}")

    async def _follow(self, job: str, prefix: str) -> list[str]:
        """Print the job's log as it comes, to its end; returns the last lines."""
        printer = LogPrinter(prefix)
        tail = asyncio.create_task(self._print_tail(job, printer))
        looked = time.monotonic()
        try:
            while not self._client.get_job_info(job).status.is_terminal():
                await asyncio.wait([tail], timeout=0.3)
                if tail.done():
                    await asyncio.sleep(0.1)
                if time.monotonic() > looked + LOOK_SECONDS:
                    _check_nodes(job)
                    looked = time.monotonic()
        finally:
            # the server ends its stream only seconds after the job: the rest of the log is there at once
            tail.cancel()
            await asyncio.wait([tail])
        try:
            printer.finish(self._client.get_job_logs(job))
        except RuntimeError as error:  # with its node
            print(f"the rest of its log is lost: {one_line(error, 100)}", flush=True)
        return printer.last

    async def _print_tail(self, job: str, printer: LogPrinter) -> None:
        async for text in self._client.tail_job_logs(job):
            printer.add(text)

    def _free_id(self, wanted: str) -> str:
        taken = {details.submission_id for details in self._client.list_jobs()}
        attempts = (wanted if n == 1 else f"{wanted}-{n}" for n in range(1, len(taken) + 2))
        return next(attempt for attempt in attempts if attempt not in taken)


def _check_nodes(job: str) -> None:
    """A job whose agent went with the last node would run for ever, as far as Ray knows (2.60)."""
    import ray

    if not any(node["Alive"] for node in ray.nodes()):
        raise RunError(f"{job}: Ray's last node has died; run it again: what is finished stays")


class _LostError(RunError):
    """A job's node is gone, and the job with it."""


def write_job_file(status: StepStatus, root: str, story: Story | None = None) -> str:
    """Write the step as a job file of its own (what ``python -m MODULE --config`` takes) and return its location."""
    location = storage.join(root, FOLDER, f"{status.entry.name}-{status.fingerprint}.toml")
    with storage.atomic_write(location) as file:
        file.write(job_file(status.entry.name, root, status.needs, status.config, status.source, story))
    return location


def submitted(client: Any, **job: Any) -> str:
    """Submit a job and return its id, waiting for a cluster that has just started and has no agent for jobs yet.

    Raises:
        RunError: none comes.
    """
    deadline = time.monotonic() + AGENT_PATIENCE_SECONDS
    while True:
        try:
            return str(client.submit_job(**job))
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise
            if time.monotonic() > deadline:
                raise RunError(f"Ray took no job within {AGENT_PATIENCE_SECONDS} s: it has no job agent") from error
            time.sleep(0.5)


@contextmanager
def cluster_at(address: str) -> Iterator[Any]:
    """The job client of a cluster; whatever keeps it from answering is one line.

    Raises:
        UserError: the cluster refuses, or there is none.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)

    def client() -> Any:
        with suppress(ConnectionError):  # a dashboard that is busy is asked once more
            return JobSubmissionClient(address)
        time.sleep(BUSY_SECONDS)
        return JobSubmissionClient(address)

    try:
        yield client()
    except (AuthenticationError, ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"--address {address}: {one_line(error)}") from None


@dataclass(frozen=True)
class Sent:
    """A run to be sent to a cluster: what ``starloom run`` is told behind the location, and variables of it."""

    recipe: str
    location: str
    words: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


def submit_run(address: str, sent: Sent, *, follow: bool) -> str:
    """Send ``starloom run`` itself to a cluster as a Ray job; returns the run's id, which is the job's too.

    Raises:
        UserError: the cluster refuses, or there is none.
        RunError: the run failed, where its end is waited for.
    """
    run = new_run(sent.recipe)
    words = ["python", "-m", "starloom.cli", "run", sent.location, *sent.words]
    environment = dict(sent.environment)
    with cluster_at(address) as client:
        submitted(
            client,
            entrypoint=shlex.join(words),
            submission_id=run,
            runtime_env={"working_dir": ".", "env_vars": {"PYTHONPATH": "platform", **environment, RUN: run}},
            metadata={"job_name": f"starloom run {sent.location}", "recipe": sent.recipe, "run": run},
        )
    if follow:
        attach(address, run)
    return run


def runs(address: str) -> Iterator[tuple[str, Sequence[Any]]]:
    """Each run that a cluster knows, the one that began last first: its id, and its jobs in the order of their start.

    Raises:
        UserError: the cluster refuses, or there is none.
    """
    with cluster_at(address) as client:
        found = [job for job in client.list_jobs() if (job.metadata or {}).get("run")]
    grouped: dict[str, list[Any]] = {}
    for job in sorted(found, key=lambda job: job.start_time or 0):
        grouped.setdefault(job.metadata["run"], []).append(job)
    yield from sorted(grouped.items(), key=lambda entry: entry[1][0].start_time or 0, reverse=True)


def jobs_of(address: str, run: str) -> Sequence[Any]:
    """The jobs of one run, its own first where it has one.

    Raises:
        NotFoundError: the cluster knows no such run; names those that it knows.
    """
    known = dict(runs(address))
    if run not in known:
        listed = ", ".join(list(known)[:5]) or "none"
        raise NotFoundError(f"{run}: no such run at {address}; the last ones: {listed}")
    return known[run]


def state_of(jobs: Sequence[Any]) -> str:
    """How a run stands: its own job's state, or what its steps' say where it was not sent as a job."""
    own = [job for job in jobs if "step" not in job.metadata]
    return str((own or jobs)[-1].status.value).lower()


def log_of(address: str, run: str, step: str | None = None) -> str:
    """The log of a run, or of one of its steps.

    Raises:
        NotFoundError: the run has no such step, or no log of its own.
    """
    jobs = [job for job in jobs_of(address, run) if job.metadata.get("step") == step]
    if not jobs:
        steps = sorted({job.metadata["step"] for job in jobs_of(address, run) if "step" in job.metadata})
        raise NotFoundError(f"{run}: has no log of {step or 'its own'}; its steps: {', '.join(steps) or 'none'}")
    with cluster_at(address) as client:
        return str(client.get_job_logs(jobs[-1].submission_id))


def stop(address: str, run: str) -> list[str]:
    """Stop a run and its steps; returns the ids of the jobs that were stopped."""
    stopped = []
    for job in jobs_of(address, run):  # the run's own first: it starts no other step then
        with cluster_at(address) as client:
            if job.status.value not in TERMINAL and client.stop_job(job.submission_id):
                stopped.append(str(job.submission_id))
    return stopped


def attach(address: str, run: str) -> None:
    """Print a run's log until it ends.

    Raises:
        NotFoundError: the run is no job, or there is none.
        RunError: it failed.
    """
    own = [job for job in jobs_of(address, run) if "step" not in job.metadata]
    if not own:
        raise NotFoundError(f"{run}: is no job, its log is where it was started; see starloom logs {run} STEP")
    with cluster_at(address) as client:
        asyncio.run(_print_log(client, run))
        while not (details := client.get_job_info(run)).status.is_terminal():
            time.sleep(0.2)
    if details.status.value != "SUCCEEDED":
        raise RunError(f"run {run}: {one_line(details.message or details.status.value)}")


async def _print_log(client: Any, job: str) -> None:
    async for text in client.tail_job_logs(job):
        print(text, end="", flush=True)
