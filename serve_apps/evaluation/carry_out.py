"""Carry one stored evaluation to its end on the cluster's actors."""

from collections.abc import Callable, Sequence

from serve_apps.evaluation.allowed import Allowed
from serve_apps.evaluation.conduct import Means, conduct
from serve_apps.evaluation.results import keep_as_artifact
from serve_apps.evaluation.store import CANCELLED, DONE, FAILED, StoredRun
from serve_apps.sandbox.jobs import Job
from serve_apps.sandbox.pool import run_on_actors
from serve_apps.sandbox.sandbox import Limits, Verdict
from starloom.errors import StarloomError, one_line
from starloom.kinds import Evaluation


def carry_out(
    run: StoredRun, allowed: Allowed, default_url: str | None, key: str | None, stopped: Callable[[], bool]
) -> None:
    """Draw the samples that are missing, run the programs that have no verdict, write the result.

    `default_url` is the served model's, and `key` the one for it.
    Errors end in the run's state. A run that was stopped is cancelled; what it has stays.
    """

    def runs(jobs: Sequence[Job], limits: Limits, *, finished: Callable[[int, Verdict], None]) -> list[Verdict]:
        return run_on_actors(jobs, limits, finished=finished, stopped=stopped)

    try:
        request = run.request()
        asked = allowed.resolved(request)
        key = allowed.urls[request.url].key() if request.url is not None else key
        means = Means(runs, default_url, key, request.url or "the served model", stopped=stopped)
        measured = conduct(run, asked, means)
        if measured is None:
            run.set_state(CANCELLED)
            return
        kept = keep_as_artifact(run.folder.parent, request.model_dump(mode="json"), measured.summary, measured.rows)
        run.write(Evaluation.RESULTS, {**measured.summary, "artifact": f"{kept.name}/{kept.fingerprint}"})
        run.set_state(DONE)
    except StarloomError as error:
        run.set_state(FAILED, error=str(error))
    except Exception as error:  # noqa: BLE001 - the run's own outermost frame: the error is kept and shown
        run.set_state(FAILED, error=f"{type(error).__name__}: {one_line(error, 500)}")
