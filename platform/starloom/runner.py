"""Running a recipe: each step that is not done becomes a named Ray job."""

import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from starloom import storage
from starloom.artifact import Artifact, Story
from starloom.ends import told_at_end, url_of
from starloom.errors import UserError
from starloom.jobs import Jobs
from starloom.kinds import Model, Report
from starloom.lineage import lineage
from starloom.lock import hold
from starloom.pages import with_run
from starloom.plugins import beside
from starloom.reachable import keep_plan
from starloom.recipe import Recipe, State, StepStatus, resolve
from starloom.schedule import Schedule


def run_recipe(
    recipe: Recipe, *, only: Sequence[str] = (), lock: str | None = None, say: Callable[[str], None] = print
) -> list[Artifact]:
    """Bring a recipe's steps up to date and return their artifacts in order.

    Finished steps are not run again. With a `lock` only what it holds is run. Raises `UserError` before anything starts
    when the recipe is wrong, `RunError` when a step fails; what was finished stays.
    """
    for name in only:
        recipe.step(name)
    url_of(recipe.at_end)
    statuses = resolve(recipe)
    if lock is not None:
        hold(lock, statuses)
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
    names = {status.entry.name for status in chosen}
    with (
        Jobs(recipe.name, Story(commit=commit_here() or "", labels=recipe.labels), prefixed=recipe.at_once > 1) as jobs,
        stopped_by_signals(),  # behind it: Ray's start sets handlers of its own
        told_at_end(recipe, jobs.run, say),
    ):
        say(f"{recipe.name}: {len(todo)} of {len(chosen)} steps to do; run {jobs.run}; dashboard {jobs.dashboard}")
        statuses = Schedule(recipe, statuses, names, say).carry_out(jobs)
        keep_plan(recipe, statuses)
        artifacts = [Artifact.open(status.folder) for status in statuses if status.entry.name in names]
        for artifact in artifacts:
            if artifact.kind == Report.kind:
                publish(artifact, recipe.root, artifacts)
    return artifacts


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGTERM, which `ray job stop`, Slurm and Kubernetes send, ends a run as Ctrl-C does: its step ends too."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def publish(report: Artifact, root: str, artifacts: Sequence[Artifact]) -> None:
    """Copy the page of a report to the run's root, where people look for it, with what the steps took."""
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    models = [artifact for artifact in artifacts if artifact.kind == Model.kind]
    tree = lineage(root, models[-1].name) if models else []
    page = with_run(report.read_text(Report.PAGE), artifacts, date, commit_here(), tree)
    with storage.atomic_write(storage.join(root, Report.PAGE)) as file:
        file.write(page.encode())


def commit_here() -> str | None:
    """The commit of the recipe's folder, with "-dirty" behind where files have changed since; None without git.

    The folder is the working one for recipes that are built in or at a URL.
    """
    folder = next(iter(beside()), ".")

    def git(*words: str) -> str | None:
        try:
            command = ["git", "-C", folder, *words]
            found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return found.stdout.strip() if found.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return f"{commit}-dirty" if commit and git("status", "--porcelain", "--untracked-files=no") else commit


def _check_inputs_of(chosen: Sequence[StepStatus], statuses: Sequence[StepStatus]) -> None:
    will_exist = {status.entry.name for status in chosen}
    will_exist |= {status.entry.name for status in statuses if status.state is State.DONE}
    for status in chosen:
        for need in status.entry.needs:
            if "/" not in need and need not in will_exist:
                raise UserError(f"--only {status.entry.name}: its input {need!r} is not done; add --only {need}")


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
