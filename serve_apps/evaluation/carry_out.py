"""Carry one stored evaluation to its end, from wherever it stands."""

from collections.abc import Callable, Sequence

from serve_apps.evaluation.benchmarks import benchmark
from serve_apps.evaluation.benchmarks.benchmark import Benchmark, Task
from serve_apps.evaluation.contamination import contamination
from serve_apps.evaluation.endpoint import Endpoint, Generation
from serve_apps.evaluation.judging import row, settings_of, summarize
from serve_apps.evaluation.results import keep_as_artifact
from serve_apps.evaluation.sampling import Sample, places, samples
from serve_apps.evaluation.store import CANCELLED, DONE, FAILED, RUNNING, EvaluationRequest, StoredRun
from serve_apps.evaluation.throughput import measure_throughput
from serve_apps.sandbox.pool import run_on_actors
from serve_apps.sandbox.sandbox import Limits, Verdict
from starloom.artifact import Artifact
from starloom.errors import RunError, StarloomError, one_line
from starloom.kinds import Evaluation


def carry_out(run: StoredRun, default_url: str | None, stopped: Callable[[], bool]) -> None:
    """Draw the samples that are missing, run the programs that have no verdict, write the result.

    Errors end in the run's state. A run that was stopped is cancelled; what it has stays.
    """
    try:
        run.mend()
        finished = _advance(run, run.request(), default_url, stopped)
        if not finished:
            run.set_state(CANCELLED)
    except StarloomError as error:
        run.set_state(FAILED, error=str(error))
    except Exception as error:  # noqa: BLE001 - the run's own outermost frame: the error is kept and shown
        run.set_state(FAILED, error=f"{type(error).__name__}: {one_line(error, 500)}")


def _advance(run: StoredRun, request: EvaluationRequest, default_url: str | None, stopped: Callable[[], bool]) -> bool:
    chosen = benchmark(request.benchmark)
    tasks = chosen.tasks(request.data)[: request.tasks]
    count = request.n or chosen.samples
    run.set_state(RUNNING, total=len(tasks) * count)
    url = request.url or default_url
    if url is None:
        raise RunError("no url was given and no model is served here; name one with url")
    generation = Generation(request.temperature, request.top_p, request.max_tokens or chosen.max_tokens, request.seed)
    limits = Limits(cpu_seconds=request.cpu_seconds)
    endpoint = Endpoint(url, request.model)
    try:
        drawn = _draw(run, endpoint, tasks, count, generation, stopped)
        if len(drawn) < len(tasks) * count:
            return False
        speed = measure_throughput(endpoint) if request.throughput else None
        model = endpoint.model
    finally:
        endpoint.close()
    _judge(run, chosen, tasks, drawn, limits, stopped)
    by_place = {(v["task_id"], v["sample"]): v for v in run.verdicts()}
    if len(by_place) < len(drawn):
        return False
    # in the order of the samples, whatever the order in which programs ended
    rows = [{"completion": s.completion, **by_place[s.task, s.number]} for s in drawn]
    summary = summarize(tasks, rows, count)
    settings = settings_of(generation, limits, isolated=True)
    result = {"model": model, "benchmark": chosen.name, **summary, "settings": settings}
    if request.corpus is not None:
        result["contamination"] = contamination(Artifact.open(request.corpus), tasks)
    kept = keep_as_artifact(run.folder.parent, request.model_dump(mode="json"), result, rows)
    run.write(Evaluation.RESULTS, {**result, "artifact": f"{kept.name}/{kept.fingerprint}"})
    if speed is not None:  # a measurement differs from run to run: it stays out of the result
        run.write("throughput.json", speed)
    run.set_state(DONE)
    return True


def _draw(
    run: StoredRun,
    endpoint: Endpoint,
    tasks: Sequence[Task],
    count: int,
    generation: Generation,
    stopped: Callable[[], bool],
) -> list[Sample]:
    wanted = places(tasks, count)
    have = {(sample.task, sample.number): sample for sample in run.samples()}
    missing = [place for place in wanted if (place.task.id, place.number) not in have]
    for sample in samples(endpoint, missing, generation, stopped=stopped):
        run.add_sample(sample)
        have[sample.task, sample.number] = sample
    ordered = [have.get((place.task.id, place.number)) for place in wanted]
    return [sample for sample in ordered if sample is not None]


def _judge(
    run: StoredRun,
    chosen: Benchmark,
    tasks: Sequence[Task],
    drawn: Sequence[Sample],
    limits: Limits,
    stopped: Callable[[], bool],
) -> None:
    """Run each distinct completion that has no verdict yet, and keep a verdict for every sample with it."""
    judged = {(v["task_id"], v["sample"]) for v in run.verdicts()}
    groups: dict[tuple[str, str, bool], list[Sample]] = {}
    for sample in drawn:
        if (sample.task, sample.number) not in judged:
            groups.setdefault((sample.task, sample.completion, bool(sample.refused)), []).append(sample)
    by_id = {task.id: task for task in tasks}
    programs = [group for (_, _, refused), group in groups.items() if not refused]

    def keep(group: Sequence[Sample], verdict: Verdict) -> None:
        if verdict.status == "sandbox_error":
            raise RunError(f"{group[0].task}: the sandbox failed: {verdict.detail or verdict.stderr}")
        for sample in group:
            kept = row(sample, verdict)
            del kept["completion"]  # it is in samples.jsonl
            run.add_verdict(kept)

    for (_, _, refused), group in groups.items():
        if refused:
            keep(group, Verdict("refused"))
    jobs = [chosen.job(by_id[group[0].task], group[0].completion) for group in programs]
    run_on_actors(jobs, limits, finished=lambda n, verdict: keep(programs[n], verdict), stopped=stopped)
