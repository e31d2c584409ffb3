"""Evaluate a model: HumanEval through its own HTTP API, and bits per byte on held-out files.

``starloom evaluate MODEL_OR_URL`` and the step ``serve_apps.evaluate``.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from serve_apps.evaluation.benchmarks import benchmark
from serve_apps.evaluation.contamination import contamination
from serve_apps.evaluation.endpoint import Endpoint, Generation
from serve_apps.evaluation.heldout import measure, within_budget
from serve_apps.evaluation.judging import evaluate_benchmark
from serve_apps.hosting import model_folder, serving
from serve_apps.sandbox.sandbox import Limits
from serve_apps.sandbox.toolchains import toolchain_table
from starloom import jsonlines
from starloom.config import Config, runtime, validate
from starloom.errors import UserError
from starloom.kinds import Corpus, Evaluation, HeldoutDocument, Model, Tokens
from starloom.program import main
from starloom.step import Outcome, Step, StepContext

COMPLETION_LINES = 12
NO_SETTINGS = ("model", "toolchains", "benchmark", "data", "output")  # of the command line: what and where


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

    With the corpus among its inputs, the result also tells what decontamination found of HumanEval in it.
    """
    model = Model(context.only(Model.kind))
    folder = model.folder()
    documents = within_budget(Tokens(context.only(Tokens.kind)).heldout_documents(), config.heldout_bytes)
    heldout = measure(folder, documents)
    context.say(
        f"{heldout['bits_per_byte']:.3f} bits per byte on {heldout['files']} held-out files "
        f"(gzip {heldout['gzip']:.3f}, xz {heldout['xz']:.3f})"
    )
    with serving(folder) as url:
        measured = evaluate_endpoint(config, url, folder, context.say)
        completions = sample_completions(config, url, folder, documents)
    corpus = context.optional(Corpus.kind)
    if corpus is not None:
        measured.summary["contamination"] = contamination(corpus, benchmark("humaneval").tasks(None))
    results = {
        "model": model.artifact.fingerprint,
        "humaneval": measured.summary,
        "heldout": heldout,
        "completions": completions,
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


def evaluate_endpoint(
    config: EvaluateConfig,
    url: str,
    folder: Path | None,
    say: Callable[[str], None],
    *,
    name: str = "humaneval",
    data: str | None = None,
) -> Any:
    """A benchmark against a URL; `folder` is the model's, when it is known, and tells how long prompts may be."""
    chosen = benchmark(name)
    endpoint = Endpoint(url)
    try:
        scored = evaluate_benchmark(
            chosen,
            endpoint,
            chosen.tasks(data)[: config.tasks],
            config.n,
            Generation(config.temperature, config.top_p, config.max_tokens, config.seed),
            Limits(cpu_seconds=config.cpu_seconds),
            isolated=not config.run_model_code_without_isolation,
            workers=config.workers,
            room=_room(folder) if folder is not None else None,
            say=say,
        )
    finally:
        endpoint.close()
    say(f"{name} pass@1 {100 * scored.summary['pass_at_k']['1']:.1f} % of {scored.summary['tasks']} tasks")
    return scored


def _room(folder: Path) -> Callable[[str], int]:
    """How many tokens may follow a prompt in the context of a model folder."""
    from starloom.model.folder import read_config
    from starloom.tokenizer import load_tokenizer

    context, tokenizer = read_config(folder).context, load_tokenizer(folder)
    return lambda prompt: context - len(tokenizer.encode_prompt(prompt))


def sample_completions(
    config: EvaluateConfig, url: str, folder: Path, documents: Sequence[HeldoutDocument]
) -> list[dict[str, str]]:
    """What the model writes after the first lines of held-out files; sampled, since greedy text of a toy repeats."""
    room = _room(folder)
    endpoint = Endpoint(url)
    found: list[dict[str, str]] = []
    try:
        for document in documents:
            if len(found) == config.completions:
                break
            if document.kind != "file":
                continue  # issues, commits and notebooks do not begin with code to go on from
            prompt = _opening(document.content)
            space = min(config.max_tokens, room(prompt))
            if not prompt.strip() or space < min(32, config.max_tokens):
                continue
            text = endpoint.complete(prompt, Generation(0.7, 0.95, space, config.seed), ())
            found.append({"prompt": prompt, "completion": text, "path": f"{document.repo_name}/{document.path}"})
    finally:
        endpoint.close()
    return found


def _opening(content: str) -> str:
    """The start of a file, cut after its first definition line when there is one."""
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines[: 4 * COMPLETION_LINES]):
        if line.lstrip().startswith(("def ", "class ", "func ", "function ", "fn ")):
            return "".join(lines[max(0, number + 1 - COMPLETION_LINES) : number + 1])
    return "".join(lines[:COMPLETION_LINES])


def command(argv: Sequence[str]) -> int:
    """``starloom evaluate MODEL_OR_URL``.

    Raises:
        UserError: no model is named, or a setting is wrong.
    """
    arguments = _parser().parse_args(list(argv))
    if arguments.toolchains:
        print(toolchain_table())
        return 0
    if arguments.model is None:
        raise UserError("starloom evaluate: name a model folder, the root of a run, or a URL")
    config = _config_of(arguments)
    with _url_of(arguments.model) as target:
        measured = evaluate_endpoint(
            config,
            target.url,
            target.folder,
            lambda line: print(line, flush=True),
            name=arguments.benchmark,
            data=arguments.data,
        )
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        lines = map(jsonlines.dump, measured.rows)
        (arguments.output / "samples.jsonl").write_text("".join(lines), encoding="utf-8")
        (arguments.output / Evaluation.RESULTS).write_text(
            json.dumps(measured.summary, indent=1) + "\n", encoding="utf-8"
        )
    print(json.dumps(measured.summary))
    return 0


def _config_of(arguments: argparse.Namespace) -> EvaluateConfig:
    """The settings of the command line; what is left out is the benchmark's own."""
    chosen = benchmark(arguments.benchmark)
    settings = {key: value for key, value in vars(arguments).items() if key not in NO_SETTINGS}
    settings["n"] = chosen.samples if arguments.n is None else arguments.n
    settings["max_tokens"] = chosen.max_tokens if arguments.max_tokens is None else arguments.max_tokens
    return validate(EvaluateConfig, settings, where="starloom evaluate")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="starloom evaluate", description="A benchmark on a model folder, a run or a URL."
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL_OR_URL", help="a model folder, the root of a run, or an OpenAI URL"
    )
    parser.add_argument("--toolchains", action="store_true", help="list the languages that can be run here, and stop")
    parser.add_argument(
        "--benchmark", default="humaneval", help="humaneval, mbpp, multiple-rs, ..., or MODULE:ATTRIBUTE"
    )
    parser.add_argument("--data", help="the benchmark's file (default: its package or the Hugging Face hub)")
    parser.add_argument("--tasks", type=int, help="only so many tasks (default: all)")
    parser.add_argument("--n", type=int, help="samples a task (default: the benchmark's own, 200 for HumanEval)")
    parser.add_argument("--temperature", type=float, default=0.2)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--max-tokens", type=int, help="default: the benchmark's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpu-seconds", type=float, default=5.0, help="CPU time of one program")
    parser.add_argument("--workers", type=int, help="sandboxes at once (default: cores)")
    parser.add_argument("--output", type=Path, help="write all samples to this folder")
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
    folder = model_folder(model)
    with serving(folder) as url:
        yield Target(url, folder)


STEP = Step(config=EvaluateConfig, run=run, produces=Evaluation.kind)

if __name__ == "__main__":
    main(STEP)
