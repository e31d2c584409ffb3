"""Evaluate a model: a benchmark through an HTTP API, or saved completions; and bits per byte on held-out files.

``starloom evaluate MODEL_OR_URL`` and the step ``serve_apps.evaluate``.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from serve_apps.evaluation.benchmarks import benchmark, described_benchmarks
from serve_apps.evaluation.compare import compare
from serve_apps.evaluation.conduct import Means, conduct
from serve_apps.evaluation.contamination import contamination
from serve_apps.evaluation.endpoint import Endpoint, Generation
from serve_apps.evaluation.heldout import measure, within_budget
from serve_apps.evaluation.judging import Measured
from serve_apps.evaluation.proof import check
from serve_apps.evaluation.samples import finished, spots
from serve_apps.evaluation.store import DONE, RUNNING, EvaluationRequest, StoredRun
from serve_apps.hosting import model_folder, serving
from serve_apps.sandbox.jobs import Job, run_jobs
from serve_apps.sandbox.sandbox import Limits, Verdict
from serve_apps.sandbox.toolchains import toolchain_table
from starloom import jsonlines, storage
from starloom.config import Config, runtime, validate
from starloom.errors import RunError, UserError
from starloom.fetched import local_copy
from starloom.kinds import Attribution, Corpus, Evaluation, HeldoutDocument, Model, Tokens, check_index
from starloom.program import main
from starloom.step import Count, Outcome, Step, StepContext

INFILLING = 4  # tokens around a gap, and what joining texts may add
UNFINISHED = "unfinished"  # in the output folder: what an interrupted evaluation has
KEY_VARIABLE = "STARLOOM_API_KEY"
OURS = "served from its folder"  # in the place of a URL whose port is another one each time


class EvaluateConfig(Config):
    """What is measured. `tasks` is how many of the benchmark's tasks, from the first; None is all of them."""

    tasks: int | None = Field(20, ge=1)
    n: int = Field(1, ge=1, le=1000)
    temperature: float = Field(0.2, ge=0, le=2)
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: int = Field(128, ge=1)
    seed: int = Field(0, ge=0)
    cpu_seconds: float = Field(5.0, gt=0)
    heldout_bytes: int | None = Field(300_000, ge=1)
    completions: int = Field(3, ge=0)
    run_model_code_without_isolation: bool = False
    workers: int | None = runtime(None, ge=1)


def run(config: EvaluateConfig, context: StepContext) -> Outcome:
    """Write results.json and humaneval/samples.jsonl for the model and the held-out files of the tokens.

    With the corpus among its inputs, the result also tells what decontamination found of HumanEval in it; with an index
    of it, where each sample completion stands.
    """
    model = Model(context.only(Model.kind))
    folder = model.folder()
    documents = within_budget(Tokens(context.only(Tokens.kind)).heldout_documents(), config.heldout_bytes)
    heldout = measure(folder, documents)
    context.say(
        f"{heldout['bits_per_byte']:.3f} bits per byte on {heldout['files']} held-out files "
        f"(gzip {heldout['gzip']:.3f}, xz {heldout['xz']:.3f})"
    )
    before = _before(config, model, documents, context.say)
    with serving(model.location) as url:
        measured = evaluate_endpoint(config, url, folder, context.say)
        completions = sample_completions(config, url, folder, documents)
    index = context.optional(Attribution.kind)
    if index is not None:
        _attribute(completions, Attribution(index), Tokens(context.only(Tokens.kind)))
    corpus = context.optional(Corpus.kind)
    if corpus is not None:
        measured.summary["contamination"] = contamination(corpus, benchmark("humaneval").tasks(None))
    results = {
        "model": model.artifact.fingerprint,
        "humaneval": measured.summary,
        "heldout": heldout,
        "completions": completions,
        **({"before": before} if before else {}),
    }
    context.output.write_json(Evaluation.RESULTS, results)
    with context.output.create("humaneval/samples.jsonl", "w") as file:
        for row in measured.rows:
            file.write(jsonlines.dump(row))
    pass_at_1 = measured.summary["pass_at_k"]["1"]
    return Outcome(
        rows_in=len(measured.rows),
        rows_out=len(measured.rows),
        details={"humaneval_pass_at_1": pass_at_1, "bits_per_byte": heldout["bits_per_byte"]},
    )


def _before(
    config: EvaluateConfig, model: Model, documents: Sequence[HeldoutDocument], say: Callable[[str], None]
) -> dict[str, Any] | None:
    """The same measures of the model that this one was trained on from; None where it began from nothing."""
    if model.initial is None:
        return None
    if not storage.is_folder(model.initial):
        say(f"the model that it began from is not measured: {model.initial} is gone")
        return None
    folder = local_copy(model.initial)
    say(f"the same of the model that it began from, {folder.name}")
    heldout = measure(folder, documents)
    with serving(model.initial) as url:
        measured = evaluate_endpoint(config, url, folder, say)
    return {"humaneval": measured.summary, "heldout": heldout}


def _attribute(completions: list[dict[str, Any]], view: Attribution, tokens: Tokens) -> None:
    """Tell of each completion what of it stands in the corpus."""
    from starloom.attribution.answer import Index, Query

    check_index(view, tokens.artifact)
    index = Index.open(view)
    for sample in completions:
        sample["attribution"] = index.ask(Query(sample["completion"], offsets="code-points"))


def evaluate_endpoint(config: EvaluateConfig, url: str, folder: Path, say: Callable[[str], None]) -> Measured:
    """HumanEval against the URL that serves a model folder, which tells how long prompts may be."""
    asked = {key: getattr(config, key) for key in ("tasks", "n", "temperature", "top_p", "max_tokens", "seed")}
    request = EvaluationRequest(benchmark="humaneval", url=url, cpu_seconds=config.cpu_seconds, **asked)
    means = Means(
        _on_this_machine(config.workers, not config.run_model_code_without_isolation),
        endpoint_name=OURS,
        room=_room(folder),
        isolated=not config.run_model_code_without_isolation,
        say=say,
    )
    with tempfile.TemporaryDirectory() as place:
        measured = conduct(StoredRun(Path(place)), request, means)
    assert measured is not None, "nothing stops this evaluation"
    say(score_line(measured))
    return measured


def score_line(measured: Measured) -> str:
    """The score with its interval, and what does not count."""
    summary = measured.summary
    low, high = summary["interval_95"]["1"]
    line = f"{summary['benchmark']} pass@1 {100 * summary['pass_at_k']['1']:.1f} %"
    line += f" [{100 * low:.1f}, {100 * high:.1f}] of {summary['tasks']} tasks"
    return line + (f"; {len(summary['invalid'])} invalid tasks are not counted" if summary["invalid"] else "")


def _on_this_machine(workers: int | None, isolated: bool) -> Callable[..., list[Verdict]]:
    def runs(jobs: Sequence[Job], limits: Limits, *, finished: Callable[[int, Verdict], None]) -> list[Verdict]:
        return run_jobs(jobs, limits, workers=workers, isolated=isolated, finished=finished)

    return runs


def _room(folder: Path) -> Callable[[str], int]:
    """How many tokens may follow a prompt in the context of a model folder."""
    from starloom.model.adapter import base_folder
    from starloom.model.folder import read_config
    from starloom.tokenizer import load_tokenizer

    context, tokenizer = read_config(base_folder(folder)).context, load_tokenizer(folder)
    return lambda prompt: context - len(tokenizer.encode_prompt(prompt))


def sample_completions(
    config: EvaluateConfig, url: str, folder: Path, documents: Sequence[HeldoutDocument]
) -> list[dict[str, Any]]:
    """What the model writes in held-out files: bodies of functions, and every other time a gap in the middle of one.

    Sampled, since greedy text of a toy repeats itself.
    """
    room = _room(folder)
    least = min(32, config.max_tokens)
    endpoint = Endpoint(url)
    found: list[dict[str, Any]] = []
    try:
        for document in documents:
            if len(found) == config.completions:
                break
            if document.kind != "file":
                continue  # issues, commits and notebooks do not begin with code to go on from
            chosen = spots(
                document.content,
                middle=len(found) % 2 == 1,
                fits=lambda text: room(text) >= least + INFILLING,
            )
            spot = next(chosen, None)
            if spot is None:
                continue
            space = min(config.max_tokens, room(spot.prompt + spot.suffix) - INFILLING)
            generation = Generation(0.7, 0.95, space, config.seed)
            text = endpoint.complete(spot.prompt, generation, (), spot.suffix or None)
            sample = {"prompt": spot.prompt, "completion": finished(text, spot), "suffix": spot.suffix}
            found.append({**sample, "path": f"{document.repo_name}/{document.path}"})
    finally:
        endpoint.close()
    return found


def command(argv: Sequence[str]) -> int:
    """``starloom evaluate MODEL_OR_URL``.

    Raises:
        UserError: no model is named, or a setting is wrong.
        RunError: the endpoint refuses or fails, or no task can be judged.
    """
    arguments = _parser().parse_args(list(argv))
    if arguments.toolchains:
        print(toolchain_table())
        return 0
    if arguments.benchmarks:
        print("\n".join(described_benchmarks()))
        return 0
    if arguments.check:
        return _check(arguments)
    if arguments.compare:
        print("\n".join(compare(*map(_rows_of, arguments.compare)).lines()))
        return 0
    if (arguments.model is None) == (arguments.generations is None):
        raise UserError(
            "starloom evaluate: name a model folder, the root of a run, or a URL; or give --generations FILE"
        )
    request = _request(arguments)
    means = Means(
        _on_this_machine(arguments.workers, not arguments.run_model_code_without_isolation),
        key=_key(arguments.api_key_file),
        concurrency=arguments.concurrency,
        isolated=not arguments.run_model_code_without_isolation,
        say=lambda line: print(line, flush=True),
        progress=sys.stderr,
    )
    with _kept(arguments.output, request) as run:
        if arguments.model is None:
            measured = conduct(run, request, means)
        else:
            with _url_of(arguments.model) as target:
                if target.folder is not None:
                    means = replace(means, endpoint_name=OURS, room=_room(target.folder))
                measured = conduct(run, request.model_copy(update={"url": target.url}), means)
        assert measured is not None, "nothing stops this evaluation"
        if arguments.output:
            _write(arguments.output, measured)
        run.set_state(DONE)
    print(score_line(measured))
    print(json.dumps(measured.summary))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    """Whether a benchmark's own solutions pass here and wrong ones fail; 1 when one does not."""
    chosen = benchmark(arguments.check)
    tasks = chosen.tasks(arguments.data)[: arguments.tasks]
    runs = _on_this_machine(arguments.workers, not arguments.run_model_code_without_isolation)
    limits = Limits(cpu_seconds=arguments.cpu_seconds, wall_seconds=arguments.wall_seconds)
    checked = check(chosen, tasks, lambda jobs, within: runs(jobs, within, finished=lambda n, verdict: None), limits)
    print("\n".join(checked.lines()))
    return 1 if checked.exceptions else 0


def _rows_of(folder: Path) -> list[dict[str, Any]]:
    """The verdicts of an output folder."""
    path = folder / "samples.jsonl"
    if not path.is_file():
        raise UserError(f"--compare {folder}: holds no samples.jsonl; give the --output of two evaluations")
    return [row for _, row in jsonlines.read(path)]


def _request(arguments: argparse.Namespace) -> EvaluationRequest:
    """What the command line asks for; what is left out is the benchmark's own."""
    names = set(EvaluationRequest.model_fields) - {"model", "url", "throughput", "corpus", "about"}
    settings = {key: value for key, value in vars(arguments).items() if key in names and value is not None}
    settings["system"] = arguments.system or ""
    named = {"model": arguments.model_name, "url": arguments.model}
    return validate(EvaluationRequest, {**settings, **named}, where="starloom evaluate")


def _key(path: Path | None) -> str | None:
    """The endpoint's key, from a file or the environment.

    Raises:
        UserError: the file cannot be read, or is empty.
    """
    if path is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        key = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(f"--api-key-file {path}: {error.strerror}") from None
    if not key:
        raise UserError(f"--api-key-file {path}: is empty")
    return key


@contextmanager
def _kept(output: Path | None, request: EvaluationRequest) -> Iterator[StoredRun]:
    """A place for samples and verdicts as they come; with an output folder an interrupted evaluation goes on there.

    Raises:
        RunError: the folder holds what another evaluation has begun.
    """
    if output is None:
        with tempfile.TemporaryDirectory() as place:
            yield StoredRun(Path(place))
        return
    run = StoredRun(output / UNFINISHED)
    asked = request.model_dump(mode="json")
    if run.folder.is_dir():
        begun = run.request().model_dump(mode="json")
        if begun != asked:
            remedy = "finish it, remove it, or choose another --output"
            raise RunError(f"{run.folder} is of an evaluation with other settings; {remedy}")
    run.folder.mkdir(parents=True, exist_ok=True)
    run.write("request.json", asked)
    run.set_state(RUNNING)
    yield run
    shutil.rmtree(run.folder)


def _write(folder: Path, measured: Measured) -> None:
    (folder / "samples.jsonl").write_text("".join(map(jsonlines.dump, measured.rows)), encoding="utf-8")
    (folder / Evaluation.RESULTS).write_text(json.dumps(measured.summary, indent=1) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="starloom evaluate", description="A benchmark on a model folder, a run, a URL, or saved completions."
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL_OR_URL", help="a model folder, the root of a run, or an OpenAI URL"
    )
    parser.add_argument("--toolchains", action="store_true", help="list the languages that can be run here, and stop")
    parser.add_argument("--benchmarks", action="store_true", help="list the benchmarks and what they need, and stop")
    parser.add_argument(
        "--check", metavar="BENCHMARK", help="run its own solutions, which must pass, and wrong ones, and stop"
    )
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar="FOLDER", help="compare what two evaluations have written, and stop"
    )
    parser.add_argument(
        "--benchmark", default="humaneval", help="humaneval, mbpp, multiple-rs, ..., or MODULE:ATTRIBUTE"
    )
    parser.add_argument("--data", help="the benchmark's file (default: its package or the Hugging Face hub)")
    parser.add_argument(
        "--generations", metavar="FILE", help="judge saved completions: JSON lines or Parquet with task_id, completion"
    )
    parser.add_argument("--model", dest="model_name", metavar="NAME", help="the model's name (default: the only one)")
    parser.add_argument("--chat", action="store_true", help="ask the chat API; the code is taken from the answer")
    parser.add_argument("--system", help="the system prompt of a chat model")
    parser.add_argument("--api-key-file", type=Path, help=f"the endpoint's key (default: ${KEY_VARIABLE})")
    parser.add_argument("--concurrency", type=int, default=16, help="requests at once (default 16)")
    parser.add_argument("--tasks", type=int, help="only so many tasks (default: all)")
    parser.add_argument("--n", type=int, help="samples a task (default: the benchmark's own, 200 for HumanEval)")
    parser.add_argument("--temperature", type=float, default=0.2)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--max-tokens", type=int, help="default: the benchmark's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpu-seconds", type=float, default=5.0, help="CPU time of one program, at least")
    parser.add_argument(
        "--wall-seconds", type=float, default=60.0, help="time of one program, however busy (default 60)"
    )
    parser.add_argument("--workers", type=int, help="programs at once (default: cores)")
    parser.add_argument("--output", type=Path, help="write all samples to this folder; run again to go on")
    parser.add_argument(
        "--run-model-code-without-isolation",
        action="store_true",
        help="DANGEROUS: run model-written programs with your rights, files and network where nothing isolates them",
    )
    return parser


@dataclass(frozen=True)
class Target:
    """Where a model answers, and its folder when it is ours."""

    url: str
    folder: Path | None


@contextmanager
def _url_of(model: str) -> Iterator[Target]:

    if model.startswith(("http://", "https://")):
        yield Target(model, None)
        return
    location = model_folder(model)
    with serving(location) as url:
        yield Target(url, local_copy(location))


STEP = Step(
    config=EvaluateConfig,
    run=run,
    produces=Evaluation.kind,
    consumes={
        Model.kind: Count.ONE,
        Tokens.kind: Count.ONE,
        Corpus.kind: Count.OPTIONAL,
        Attribution.kind: Count.OPTIONAL,
    },
)

if __name__ == "__main__":
    main(STEP)
