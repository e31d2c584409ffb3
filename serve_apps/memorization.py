"""How much a model writes that stands in its corpus, beside how much people do who had not read it.

Prompts are beginnings of training files, of held-out files, and nothing. What follows them is looked up in the index;
so is what really follows in the held-out files, since idioms and licence headers are everybody's. A training prompt is
extractable when the likeliest next tokens are the file's own (Carlini et al. 2022).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pydantic import Field

from serve_apps.evaluation.endpoint import Endpoint, Generation
from serve_apps.hosting import serving
from starloom.attribution.answer import Index, Query
from starloom.config import Config
from starloom.errors import UserError
from starloom.kinds import Attribution, Memorization, Model, Tokens, check_index
from starloom.program import main
from starloom.step import Count, Outcome, Step, StepContext
from starloom.tokenizer import END_OF_TEXT, CodeTokenizer, load_tokenizer

EXTRACTED: Final = 32  # tokens that must be the file's own
WORST: Final = 10
HUMAN: Final = "people, held-out files"


class MemorizationConfig(Config):
    """What is sampled."""

    prompts: int = Field(48, ge=1)  # of each kind
    prompt_tokens: int = Field(50, ge=1)
    new_tokens: int = Field(64, ge=EXTRACTED)
    temperatures: tuple[float, ...] = (0.0, 0.8)
    seed: int = Field(0, ge=0)


@dataclass(frozen=True)
class Prompt:
    """Ids that the model goes on from, and the text that really follows."""

    kind: str
    ids: tuple[int, ...]
    follows: str
    language: str


@dataclass(frozen=True)
class Written:
    """What followed a prompt, written by the model or by people."""

    prompt: Prompt
    text: str
    writer: str  # a temperature, or people


def run(config: MemorizationConfig, context: StepContext) -> Outcome:
    """Write results.json: figures by kind of prompt and temperature, by language, and the worst completions.

    Raises:
        UserError: the index is of another corpus than the tokens, or the model's window is too short.
    """
    from starloom.model.adapter import base_folder
    from starloom.model.folder import read_config

    model, tokens = Model(context.only(Model.kind)), Tokens(context.only(Tokens.kind))
    view = Attribution(context.only(Attribution.kind))
    check_index(view, tokens.artifact)
    folder = model.folder()
    window = read_config(base_folder(folder)).context
    if config.prompt_tokens + config.new_tokens > window:
        raise UserError(f"prompt_tokens + new_tokens are more than the model's window of {window}; lower one")
    index, tokenizer = Index.open(view), load_tokenizer(folder)
    prompts = [*_trained(config, index, tokens, tokenizer), *_heldout(config, tokens, tokenizer)]
    prompts += [Prompt("nothing", (tokenizer.special(END_OF_TEXT),), "", "")] * config.prompts
    with serving(model.location) as url:
        samples = list(_sampled(config, url, prompts))
    samples += [Written(one, one.follows, HUMAN) for one in prompts if one.kind == "held-out"]
    held = sorted({one.repo_name for one in tokens.heldout_documents()})
    results = measured(samples, index, tokenizer, ignore=held)
    for row in results["figures"]:
        context.say(
            f"{row['prompts']:<9} {row['writer']:<24} {row['share']:.1%} of characters stand in the corpus, "
            f"longest {row['longest']:,}"
        )
    context.output.write_json(Memorization.RESULTS, results)
    return Outcome(rows_in=len(prompts), rows_out=len(samples), details={"figures": results["figures"]})


def _trained(config: MemorizationConfig, index: Index, tokens: Tokens, tokenizer: CodeTokenizer) -> Iterator[Prompt]:
    """Passages of files that are in the corpus and were not held out."""
    held = {(one.repo_name, one.path) for one in tokens.heldout_documents()}
    draws = np.random.default_rng(config.seed)
    sizes = np.array([segment.info.files for segment in index.segments])
    wanted, made = config.prompt_tokens + config.new_tokens, 0
    for _ in range(200 * config.prompts):
        if made == config.prompts:
            return
        segment = index.segments[int(draws.choice(len(sizes), p=sizes / sizes.sum()))]
        file = int(draws.integers(segment.info.files))
        row = segment.files.slice(file, 1).to_pylist()[0]
        if (row["repo_name"], row["path"]) in held:
            continue
        found = _prompt("training", segment.text_of(file), row["language"], wanted, config, tokenizer, draws)
        if found is not None:
            made += 1
            yield found


def _heldout(config: MemorizationConfig, tokens: Tokens, tokenizer: CodeTokenizer) -> Iterator[Prompt]:
    draws = np.random.default_rng(config.seed + 1)
    documents = tokens.heldout_documents()
    wanted, made = config.prompt_tokens + config.new_tokens, 0
    for _ in range(200 * config.prompts):
        if made == config.prompts or not documents:
            return
        document = documents[int(draws.integers(len(documents)))]
        found = _prompt("held-out", document.content, document.language, wanted, config, tokenizer, draws)
        if found is not None:
            made += 1
            yield found


def _prompt(
    kind: str, text: str, language: str | None, wanted: int, config: MemorizationConfig, tokenizer: CodeTokenizer,
    draws: np.random.Generator,
) -> Prompt | None:  # fmt: skip
    """A passage from the beginning of a line on; None where the text is too short."""
    lines = [0, *(at + 1 for at, letter in enumerate(text) if letter == "\n")]
    start = lines[int(draws.integers(len(lines)))]
    ids = tokenizer.encode(text[start : start + 40 * wanted])
    if len(ids) < wanted:
        return None
    cut = config.prompt_tokens
    follows = tokenizer.decode(ids[cut : cut + config.new_tokens])
    return Prompt(kind, tuple(ids[:cut]), follows, language or "")


def _sampled(config: MemorizationConfig, url: str, prompts: Sequence[Prompt]) -> Iterator[Written]:
    endpoint = Endpoint(url)
    try:
        for temperature in config.temperatures:
            for number, prompt in enumerate(prompts):
                generation = Generation(temperature, 1.0, config.new_tokens, config.seed + number)
                text = endpoint.complete(list(prompt.ids), generation, ())
                yield Written(prompt, text, f"temperature {temperature:g}")
    finally:
        endpoint.close()


def measured(
    samples: Sequence[Written], index: Index, tokenizer: CodeTokenizer, *, ignore: Sequence[str] = ()
) -> dict[str, Any]:
    """Figures of samples: by kind of prompt and writer, by language, and the worst, each with its files.

    `ignore` are repositories that are in the index and were not trained on: those that are held out.
    """
    rows: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for sample in samples:
        answer = index.ask(Query(sample.text, kinds=("exact",), offsets="code-points", ignore=tuple(ignore)))
        covered = sum(end - start for start, end in answer["spans"])
        first = tokenizer.decode(tokenizer.encode(sample.prompt.follows)[:EXTRACTED])
        rows[sample.prompt.kind, sample.writer].append(
            {
                "text": sample.text,
                "characters": len(sample.text),
                "covered": covered,
                "longest": max((end - start for start, end in answer["spans"]), default=0),
                "language": sample.prompt.language,
                "extracted": bool(first) and sample.text.startswith(first),
                "matches": answer["matches"],
            }
        )
    figures = [{"prompts": kind, "writer": writer, **_figures(found)} for (kind, writer), found in rows.items()]
    languages: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for (kind, writer), found in rows.items():
        if kind == "training" and writer != HUMAN:
            for row in found:
                languages[row["language"]].append(row)
    written = [{"prompts": kind, "writer": writer, **row} for (kind, writer), found in rows.items() for row in found]
    worst = sorted((row for row in written if row["writer"] != HUMAN), key=lambda row: (-row["longest"], row["text"]))
    kept = ("prompts", "writer", "text", "longest", "matches")
    return {
        "figures": figures,
        "languages": {name: _figures(found) for name, found in sorted(languages.items())},
        "worst": [{key: row[key] for key in kept} for row in worst[:WORST] if row["longest"]],
    }


def _figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    characters = sum(row["characters"] for row in rows)
    return {
        "samples": len(rows),
        "share": sum(row["covered"] for row in rows) / max(1, characters),  # of characters
        "with_a_passage": sum(row["longest"] > 0 for row in rows) / max(1, len(rows)),
        "longest": max((row["longest"] for row in rows), default=0),
        "extractable": sum(row["extracted"] for row in rows) / max(1, len(rows)),
    }


STEP = Step(
    config=MemorizationConfig,
    run=run,
    produces=Memorization.kind,
    consumes={Model.kind: Count.ONE, Tokens.kind: Count.ONE, Attribution.kind: Count.ONE},
)

if __name__ == "__main__":
    main(STEP)
