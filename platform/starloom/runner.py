"""Running a recipe: each step that is not done becomes a named Ray job, one after the other."""

import asyncio
import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from starloom import storage
from starloom.artifact import Artifact
from starloom.cluster import local_cluster
from starloom.errors import RunError, UserError, one_line
from starloom.joblog import LogPrinter
from starloom.kinds import Report
from starloom.pages import with_run
from starloom.plugins import beside
from starloom.program import job_file, summary_line
from starloom.reachable import keep_plan
from starloom.recipe import Recipe, State, StepStatus, resolve

JOBS = ".jobs"
AGENT_PATIENCE_SECONDS = 60


def run_recipe(recipe: Recipe, *, only: Sequence[str] = (), say: Callable[[str], None] = print) -> list[Artifact]:
    """Bring a recipe's steps up to date and return their artifacts in order.

    Finished steps are not run again. Raises `UserError` before anything starts when the recipe is wrong, `RunError`
    when a step fails; what was finished stays.
    """
    for name in only:
        recipe.step(name)
    statuses = resolve(recipe)
    chosen = [status for status in statuses if not only or status.entry.name in only]
    _check_inputs_of(chosen, statuses)
    todo = [status for status in chosen if status.state is not State.DONE]
    keep_plan(recipe, statuses)
    if not todo:
        say(f"{recipe.name}: nothing to do, all {len(chosen)} steps are done in {recipe.root}")
        return [status.artifact for status in chosen if status.artifact is not None]
    for status in chosen:
        if status.artifact is not None:
            say(f"· {status.entry.name} {status.fingerprint[:8]}: done before")
    with Jobs(recipe.name) as jobs:
        say(f"{recipe.name}: {len(todo)} of {len(chosen)} steps to do; dashboard {jobs.dashboard}")
        for status in todo:
            say(f"▶ {status.entry.name} {status.fingerprint[:8]}: {status.entry.run}")
            jobs.run(status, recipe.root)
            say(summary_line(Artifact.open(status.folder)))
    artifacts = [Artifact.open(status.folder) for status in chosen]
    for artifact in artifacts:
        if artifact.kind == Report.kind:
            publish(artifact, recipe.root, artifacts)
    return artifacts


def publish(report: Artifact, root: str, artifacts: Sequence[Artifact]) -> None:
    """Copy the page of a report to the run's root, where people look for it, with what the steps took."""
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = with_run(report.read_text(Report.PAGE), artifacts, date, commit_here())
    with storage.atomic_write(storage.join(root, Report.PAGE)) as file:
        file.write(page.encode())


def commit_here() -> str | None:
    """The commit of the working folder; None where it is in no repository, or there is no git."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def _check_inputs_of(chosen: Sequence[StepStatus], statuses: Sequence[StepStatus]) -> None:
    will_exist = {status.entry.name for status in chosen}
    will_exist |= {status.entry.name for status in statuses if status.state is State.DONE}
    for status in chosen:
        for need in status.entry.needs:
            if "/" not in need and need not in will_exist:
                raise UserError(f"--only {status.entry.name}: its input {need!r} is not done; add --only {need}")


@dataclass
class Jobs(AbstractContextManager["Jobs"]):
    """Submits steps as Ray jobs and follows their logs: to the cluster of ``RAY_ADDRESS``, else to a local Ray."""

    recipe: str
    dashboard: str = ""
    _client: Any = None
    _runtime_env: dict[str, Any] = field(default_factory=dict)
    _python: str = "python"
    _open: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> "Jobs":
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
        address = os.environ.get("RAY_ADDRESS")
        self.dashboard = self._open.enter_context(self._joined(address) if address else local_cluster())
        if not address:
            self._python = shlex.quote(sys.executable)
        # modules beside the recipe are found by its steps, and by their workers
        paths = [os.environ.get("PYTHONPATH", ""), *beside()]
        self._runtime_env["env_vars"] = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
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

        context = ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
        working_dir = (ray.get_runtime_context().runtime_env or {}).get("working_dir")
        if working_dir:
            self._runtime_env["working_dir"] = working_dir
        if not context.dashboard_url:
            raise RunError(f"Ray at {address} runs without its dashboard, which takes the jobs; install ray[default]")
        try:
            yield f"http://{context.dashboard_url}"
        finally:
            ray.shutdown()

    def run(self, status: StepStatus, root: str) -> None:
        """Run one step to its end; raises the step's own kind of error when it fails."""
        job_file = write_job_file(status, root)
        name = f"{self.recipe}.{status.entry.name}"
        job = _submit(
            self._client,
            entrypoint=f"{self._python} -m {status.entry.run} --config {shlex.quote(job_file)}",
            submission_id=self._free_id(f"{name}.{status.fingerprint[:8]}"),
            metadata={"job_name": name, "recipe": self.recipe, "step": status.entry.name},
            runtime_env=self._runtime_env,
        )
        try:
            last_lines = asyncio.run(self._follow(job))
        except KeyboardInterrupt:
            self._client.stop_job(job)
            raise
        outcome = self._client.get_job_info(job)
        if outcome.status.value != "SUCCEEDED":
            complaint = next((line for line in reversed(last_lines) if line.startswith("error: ")), None)
            message = complaint.removeprefix("error: ") if complaint else one_line(outcome.message or "")
            failure = UserError if outcome.driver_exit_code == UserError.exit_code else RunError
            raise failure(f"step {status.entry.name}: {message or outcome.status.value.lower()}")

    async def _follow(self, job: str) -> list[str]:
        """Print the job's log as it comes, to its end; returns the last lines."""
        printer = LogPrinter()
        tail = asyncio.create_task(self._print_tail(job, printer))
        while not self._client.get_job_info(job).status.is_terminal():
            await asyncio.wait([tail], timeout=0.3)
            if tail.done():
                await asyncio.sleep(0.1)
        # the server ends its stream only seconds after the job: the rest of the log is there at once
        tail.cancel()
        await asyncio.wait([tail])
        printer.finish(self._client.get_job_logs(job))
        return printer.last

    async def _print_tail(self, job: str, printer: LogPrinter) -> None:
        async for text in self._client.tail_job_logs(job):
            printer.add(text)

    def _free_id(self, wanted: str) -> str:
        taken = {details.submission_id for details in self._client.list_jobs()}
        attempts = (wanted if n == 1 else f"{wanted}-{n}" for n in range(1, len(taken) + 2))
        return next(attempt for attempt in attempts if attempt not in taken)


def write_job_file(status: StepStatus, root: str) -> str:
    """Write the step as a job file of its own (what ``python -m MODULE --config`` takes) and return its location."""
    location = storage.join(root, JOBS, f"{status.entry.name}-{status.fingerprint}.toml")
    with storage.atomic_write(location) as file:
        file.write(job_file(status.entry.name, root, status.needs, status.config, status.source))
    return location


def _submit(client: Any, **job: Any) -> str:
    """Submit, waiting for a cluster that has just started and has no agent for jobs yet."""
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


def travels(recipe: Recipe, *, asked: str) -> None:
    """Whether a recipe means the same on a cluster as here; `asked` is its root as it was written.

    Raises:
        UserError: its root would lie in a folder that Ray removes.
    """
    if not storage.is_remote(recipe.root) and not asked.startswith(("/", "~", "file:///")):
        raise UserError(
            f"root = {asked!r}: is relative, and would lie in a folder of Ray's own on the cluster; give --root "
            "s3://BUCKET/run, or an absolute path that every node has"
        )


def submit_recipe(recipe_location: str, *, address: str, extra: Sequence[str], follow: bool) -> str:
    """Send ``starloom run`` itself to a cluster as a Ray job; returns the job's submission id.

    Raises:
        UserError: the cluster refuses, or there is none.
        RunError: the job failed, where its end is waited for.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    words = ["python", "-m", "starloom.cli", "run", recipe_location, *extra]
    try:
        client = JobSubmissionClient(address)
        job = _submit(
            client,
            entrypoint=shlex.join(words),
            runtime_env={"working_dir": ".", "env_vars": {"PYTHONPATH": "platform"}},
            metadata={"job_name": f"starloom run {recipe_location}"},
        )
    except (AuthenticationError, ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"--address {address}: {one_line(error)}") from None
    if follow:
        asyncio.run(_print_log(client, job))
        while not (details := client.get_job_info(job)).status.is_terminal():
            time.sleep(0.2)
        if details.status.value != "SUCCEEDED":
            raise RunError(f"job {job}: {one_line(details.message or details.status.value)}")
    return job


async def _print_log(client: Any, job: str) -> None:
    async for text in client.tail_job_logs(job):
        print(text, end="", flush=True)
