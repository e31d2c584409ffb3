"""Pack the corpus into memory-mapped token shards, with a held-out split by repository."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from pydantic import Field

from data_jobs.documents.rendering import REPOSITORY_TOKENS, Document, DocumentConfig, documents_of
from data_jobs.shards import map_shards
from data_jobs.verdicts import rows
from starloom.artifact import ArtifactWriter
from starloom.config import Config
from starloom.draws import draw
from starloom.errors import UserError
from starloom.kinds import SPLITS, Corpus, PackedShard, Split, Tokenizer, Tokens, data_file
from starloom.program import main
from starloom.records import Piece, Special, kind_of
from starloom.schema import CORPUS
from starloom.step import Count, Outcome, Step, StepContext
from starloom.tokenizer import CodeTokenizer, load_tokenizer, smallest_dtype
from starloom.tokens.encoder import Encoder
from starloom.tokens.shard import TokenShardWriter

_WORK = ".work"
_HELDOUT = pa.schema([CORPUS.field(name) for name in ("id", "repo_name", "path", "language", "kind", "content")])


class PackConfig(Config):
    """How documents look and which repositories are held out."""

    seed: int = 0
    heldout_share: float = Field(0.05, ge=0, lt=1)  # of repositories
    dtype: Literal["auto", "uint16", "uint32"] = "auto"
    documents: DocumentConfig = DocumentConfig()
    groups: Literal["none", "language", "source"] = "none"  # shards apart, so that training can weigh them


def run(config: PackConfig, context: StepContext) -> Outcome:
    """Encode every document and write token shards; the held-out repositories go to shards of their own.

    Raises:
        UserError: the tokenizer lacks a token that the documents need, or every repository is held out.
    """
    corpus, trained = Corpus(context.only(Corpus.kind)), Tokenizer(context.only(Tokenizer.kind))
    tokenizer = load_tokenizer(trained.path())
    _check_specials(config, tokenizer)
    dtype = token_dtype(config.dtype, tokenizer.size)
    route = Encoder.of(tokenizer).route
    context.say(
        "encoding with the compiled loop"
        if route == "compiled"
        else "warning: the tokenizer splits otherwise than StarCoder's: encoding with tokenizers, many times slower"
    )

    def work(shard: str) -> dict[str, PackedShard]:
        return _pack_shard(shard, corpus, _encoder(trained.path()), dtype, config, context.output)

    names = corpus.shards()
    packed = map_shards(names, work, name="pack")
    shards: dict[str, PackedShard] = {name: counts for made in packed for name, counts in sorted(made.items())}
    if not sum(counts.tokens for name, counts in shards.items() if name.startswith("train/")):
        raise UserError("heldout_share: every repository was held out; lower it or change the seed")
    heldout = _merge_heldout(names, context.output)
    context.output.remove(_WORK)
    details = Tokens.details(
        tokenizer=trained.artifact.fingerprint,
        vocabulary=tokenizer.size,
        dtype=dtype,
        route=route,
        shards=shards,
        heldout=heldout,
    )
    documents = sum(counts.documents for counts in shards.values())
    return Outcome(rows_in=documents, rows_out=documents, details=details)


def _check_specials(config: PackConfig, tokenizer: CodeTokenizer) -> None:
    if config.documents.layout != "repositories":
        return
    for needed in REPOSITORY_TOKENS:
        if needed.token not in tokenizer.special_ids:
            raise UserError(
                f"documents.layout = 'repositories': the tokenizer lacks {needed.token}; "
                "train it with extra_special_tokens = ['<repo_name>', '<file_sep>']"
            )


def token_dtype(wanted: str, vocabulary: int) -> str:
    """The type of the ids.

    Raises:
        UserError: the vocabulary does not fit the one that is asked for.
    """
    smallest = smallest_dtype(vocabulary)
    if wanted == "auto":
        return smallest
    if wanted == "uint16" and smallest != "uint16":
        raise UserError(f"dtype = 'uint16': {vocabulary} ids do not fit 65,536; use 'uint32' or 'auto'")
    return wanted


@lru_cache(maxsize=1)  # a worker packs many shards with one tokenizer
def _encoder(path: Path) -> Encoder:
    return Encoder.of(load_tokenizer(path))


def _pack_shard(
    shard: str, corpus: Corpus, encoder: Encoder, dtype: str, config: PackConfig, output: ArtifactWriter
) -> dict[str, PackedShard]:
    stem, done = PurePosixPath(shard).stem, f"{_WORK}/{shard}.json"
    if output.exists(done):
        return {name: PackedShard(**counts) for name, counts in output.read_json(done).items()}
    table = list(rows(corpus.table(shard)))
    bins: dict[str, _Bin] = {f"{split}/{stem}": _Bin() for split in SPLITS if config.groups == "none"}
    heldout = []
    for document, sections in _encoded(list(documents_of(table, config.seed, config.documents)), encoder):
        rows_of_it = [table[number] for number in document.rows]
        split = split_of(rows_of_it[0]["repo_name"], config.seed, config.heldout_share)
        target = bins.setdefault(f"{split}/{_group(rows_of_it, config.groups)}{stem}", _Bin())
        for section, ids in zip(document.sections, sections, strict=True):
            target.languages[section.language] += len(ids)
        # neighbours in a repository are spread over the shard; the windows' own order mixes the shards
        place = draw(config.seed, document.key, "order")
        target.documents.append((place, np.concatenate(sections).astype(dtype)))
        if split == "heldout":
            heldout += [{name: row[name] for name in _HELDOUT.names} for row in rows_of_it]
    packed = {}
    for name, written in sorted(bins.items()):
        ordered = [ids for _, ids in sorted(written.documents, key=lambda placed: placed[0])]
        TokenShardWriter(dtype).write(output, name, ordered)
        packed[name] = PackedShard(len(ordered), sum(map(len, ordered)), dict(sorted(written.languages.items())))
    output.write_table(f"{_WORK}/{shard}", pa.Table.from_pylist(heldout, schema=_HELDOUT))
    output.write_json(done, {name: vars(counts) for name, counts in packed.items()})
    return packed


def split_of(repo_name: str, seed: int, share: float) -> Split:
    """Where a repository goes: a function of its name and the seed, so that its files stay together."""
    return "heldout" if draw(seed, repo_name, "heldout") < share else "train"


def _encoded(documents: Sequence[Document], encoder: Encoder) -> Iterator[tuple[Document, list[np.ndarray]]]:
    """Each document with the uint32 ids of its sections; all of a shard's texts go through the encoder at once."""
    waiting = iter(encoder.encode([piece for one in documents for piece in _pieces(one) if isinstance(piece, str)]))
    for document in documents:
        yield (
            document,
            [
                np.concatenate(
                    [
                        encoder.special(piece) if isinstance(piece, Special) else next(waiting)
                        for piece in section.pieces
                    ]
                )
                for section in document.sections
            ],
        )


@dataclass
class _Bin:
    """What goes into one token shard: documents with their drawn places."""

    documents: list[tuple[float, np.ndarray]] = field(default_factory=list)
    languages: Counter[str] = field(default_factory=Counter)


def _pieces(document: Document) -> Iterator[Piece]:
    for section in document.sections:
        yield from section.pieces


def _group(rows_of_it: Sequence[Mapping[str, Any]], groups: str) -> str:
    """The folder of a document's shard, with a slash: the language or source that has most of its text."""
    if groups == "none":
        return ""
    sizes: Counter[str] = Counter()
    for row in rows_of_it:
        sizes[row[groups] or ""] += len(row["content"])
    largest = min(sizes, key=lambda name: (-sizes[name], name))
    return quote(largest or "none", safe="") + "/"


def _merge_heldout(names: Sequence[str], output: ArtifactWriter) -> int:
    merged = pa.concat_tables(_with_kind(output.read_table(f"{_WORK}/{name}")) for name in names)
    output.write_table(Tokens.HELDOUT, merged)
    return int(merged.num_rows)


def _with_kind(part: pa.Table) -> pa.Table:
    if "kind" not in part.column_names:  # of a run that was begun before 0.2: the text tells it
        kinds = pa.array([kind_of(content) for content in part["content"].to_pylist()], pa.string())
        part = part.append_column("kind", kinds).select(_HELDOUT.names).cast(_HELDOUT)
    return part


STEP = Step(
    config=PackConfig,
    run=run,
    produces=Tokens.kind,
    version=2,
    consumes={Corpus.kind: Count.ONE, Tokenizer.kind: Count.ONE},
    reads={Corpus.kind: (data_file(""),)},
)

if __name__ == "__main__":
    main(STEP)
