"""One evaluation from its tasks to its score, from wherever it stands: each sample and verdict is kept as it comes."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from serve_apps.evaluation.benchmarks import benchmark
from serve_apps.evaluation.benchmarks.benchmark import Benchmark, Task
from serve_apps.evaluation.contamination import contamination
from serve_apps.evaluation.endpoint import Endpoint, Generation
from serve_apps.evaluation.generations import saved_samples
from serve_apps.evaluation.judging import Measured, decided, groups, job_of, provenance, row, summarize
from serve_apps.evaluation.progress import Progress
from serve_apps.evaluation.proof import Proof, prove
from serve_apps.evaluation.sampling import Asked, Sample, places, samples
from serve_apps.evaluation.store import RUNNING, EvaluationRequest, StoredRun
from serve_apps.evaluation.throughput import measure_throughput
from serve_apps.sandbox.jobs import Job
from serve_apps.sandbox.sandbox import Limits, Verdict
from starloom.artifact import Artifact
from starloom.errors import RunError, UserError


class Runs(Protocol):
    """Runs jobs somewhere: on this machine (`run_jobs`) or on a cluster (`run_on_actors`)."""

    def __call__(
        self, jobs: Sequence[Job], limits: Limits, *, finished: Callable[[int, Verdict], None]
    ) -> list[Verdict]:
        """Verdicts in order; `finished` is called once for each job."""
        ...


@dataclass(frozen=True)
class Means:
    """How an evaluation is carried out. Nothing of it decides what comes out, and `key` is kept nowhere."""

    runs: Runs
    default_url: str | None = None
    key: str | None = None
    endpoint_name: str | None = None  # in the result, in the place of the URL
    concurrency: int = 16
    room: Callable[[str], int] | None = None  # how many tokens may follow a prompt
    isolated: bool = True
    say: Callable[[str], None] = lambda line: None
    progress: IO[str] | None = None
    stopped: Callable[[], bool] = lambda: False


def conduct(run: StoredRun, request: EvaluationRequest, means: Means) -> Measured | None:
    """The score of an evaluation; None when it was stopped. Samples and verdicts are kept as they come.

    Raises:
        UserError: the benchmark, its data or the saved completions are wrong.
        RunError: the endpoint gives no usable answer, or no task can be judged.
    """
    run.mend()
    chosen = benchmark(request.benchmark)
    everything = chosen.tasks(request.data)
    tasks = everything[: request.tasks]
    limits = Limits(cpu_seconds=request.cpu_seconds, wall_seconds=request.wall_seconds)
    saved = saved_samples(request.generations, tasks) if request.generations else None
    count = len(saved[tasks[0].id]) if saved else request.n or chosen.samples
    run.set_state(RUNNING, total=len(tasks) * count)
    proof = prove(chosen, tasks, lambda jobs, within: means.runs(jobs, within, finished=lambda number, verdict: None))
    for line in proof.words():
        means.say(line)
    generation = Generation(request.temperature, request.top_p, request.max_tokens or chosen.max_tokens, request.seed)
    if saved is not None:
        drawn = [sample for task in tasks for sample in saved[task.id]]
        told: dict[str, Any] = {"model": request.model or "unnamed", "generations": _file(str(request.generations))}
    else:
        drawn, told = _drawn(run, request, means, tasks, count, generation)
    if len(drawn) < len(tasks) * count or means.stopped():
        return None
    means.say(f"{chosen.name}: {len(drawn)} samples of {len(tasks)} tasks drawn")
    _judge(run, chosen, tasks, drawn, limits, proof, means)
    by_place = {(v["task_id"], v["sample"]): v for v in run.verdicts()}
    if any((sample.task, sample.number) not in by_place for sample in drawn):
        return None
    # in the order of the samples, whatever the order in which programs ended
    rows = [{"completion": s.completion, **by_place[s.task, s.number]} for s in drawn]
    settings = {**_settings(request, generation, saved is not None), "isolated": means.isolated}
    result = {
        **told,
        **provenance(chosen, tasks, request.data, len(everything)),
        **summarize(tasks, rows, count),
        "settings": settings,
    }
    if request.corpus is not None:
        result["contamination"] = contamination(Artifact.open(request.corpus), tasks)
    return Measured(result, rows)


def _settings(request: EvaluationRequest, generation: Generation, saved: bool) -> dict[str, Any]:
    """Every setting that can change a score; of saved completions, how they were drawn is not known."""
    judged = {"cpu_seconds": request.cpu_seconds, "wall_seconds": request.wall_seconds}
    if saved:
        return judged
    asked = {"chat": request.chat, "system": request.system} if request.chat else {"chat": False}
    drawn = {
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "max_tokens": generation.max_tokens,
        "seed": generation.seed,
    }
    return {**drawn, **asked, **judged}


def _file(path: str) -> dict[str, str]:
    return {"file": Path(path).name, "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()}


def _drawn(
    run: StoredRun,
    request: EvaluationRequest,
    means: Means,
    tasks: Sequence[Task],
    count: int,
    generation: Generation,
) -> tuple[list[Sample], dict[str, Any]]:
    """All samples that there are, and what the result tells of the endpoint."""
    url = request.url or means.default_url
    if url is None:
        raise RunError("no url was given and no model is served here; name one with url")
    if request.system and not request.chat:
        raise UserError("system: a system prompt is for chat models; ask with chat")
    endpoint = Endpoint(url, request.model, key=means.key)
    try:
        drawn = _draw(run, Asked(endpoint, request.chat, request.system), means, tasks, count, generation)
        if request.throughput and len(drawn) == len(tasks) * count:
            # a measurement differs from run to run: it stays out of the result
            run.write("throughput.json", measure_throughput(endpoint))
        told: dict[str, Any] = {"model": endpoint.model, "endpoint": means.endpoint_name or endpoint.url}
        if endpoint.answered_as:
            told["answered_as"] = sorted(endpoint.answered_as)
        if endpoint.adapted:
            told["left_out"] = sorted(endpoint.adapted)
        return drawn, told
    finally:
        endpoint.close()


def _draw(
    run: StoredRun, source: Asked, means: Means, tasks: Sequence[Task], count: int, generation: Generation
) -> list[Sample]:
    wanted = places(tasks, count)
    have = {(sample.task, sample.number): sample for sample in run.samples()}
    missing = [place for place in wanted if (place.task.id, place.number) not in have]
    progress = Progress("samples", len(missing), means.progress)
    drawn = samples(source, missing, generation, concurrency=means.concurrency, room=means.room, stopped=means.stopped)
    for sample in drawn:
        run.add_sample(sample)
        have[sample.task, sample.number] = sample
        progress.add()
    progress.end()
    ordered = [have.get((place.task.id, place.number)) for place in wanted]
    return [sample for sample in ordered if sample is not None]


def _judge(
    run: StoredRun,
    chosen: Benchmark,
    tasks: Sequence[Task],
    drawn: Sequence[Sample],
    limits: Limits,
    proof: Proof,
    means: Means,
) -> None:
    """Run each distinct completion that has no verdict yet, and keep a verdict for every sample with it."""
    judged = {(v["task_id"], v["sample"]) for v in run.verdicts()}
    waiting = groups(drawn, lambda sample: (sample.task, sample.number) in judged)
    progress = Progress("verdicts", sum(len(group.samples) for group in waiting), means.progress)

    def keep(number: int, verdict: Verdict) -> None:
        for sample in programs[number].samples:
            _keep(run, sample, verdict)
        progress.add(len(programs[number].samples), len(programs[number].samples) * verdict.passed)

    programs = []
    for group in waiting:
        verdict = decided(group.first, proof)
        if verdict is None:
            programs.append(group)
            continue
        for sample in group.samples:
            _keep(run, sample, verdict)
        progress.add(len(group.samples), 0)
    by_id = {task.id: task for task in tasks}
    jobs = [job_of(chosen, by_id[group.first.task], group.first, proof) for group in programs]
    means.runs(jobs, limits, finished=keep)
    progress.end()


def _keep(run: StoredRun, sample: Sample, verdict: Verdict) -> None:
    kept = row(sample, verdict)
    del kept["completion"]  # it is in samples.jsonl
    run.add_verdict(kept)
