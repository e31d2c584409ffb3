"""The work of `data_jobs.pack`."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_jobs.documents import REPOSITORY_TOKENS, Document, Piece, Special, documents_of
from data_jobs.draws import draw
from data_jobs.filtering import rows
from data_jobs.pack import PackConfig
from data_jobs.shards import map_shards, shard_names
from starloom.artifact import Artifact, ArtifactWriter
from starloom.errors import UserError
from starloom.schema import CORPUS
from starloom.step import Outcome, StepContext
from starloom.tokenizer import CodeTokenizer, load_tokenizer, smallest_dtype
from starloom.tokens.bpe import CompiledEncoder
from starloom.tokens.shard import TokenShardWriter

SPLITS = ("train", "heldout")
CHECKED_DOCUMENTS, CHECKED_CHARACTERS = 64, 20_000
_WORK = ".work"
_HELDOUT = pa.schema([CORPUS.field(name) for name in ("id", "repo_name", "path", "language", "content")])


@dataclass(frozen=True)
class Packed:
    """Counts of one token shard."""

    documents: int
    tokens: int
    languages: dict[str, int]  # tokens


def pack(config: PackConfig, context: StepContext) -> Outcome:
    """Run the step; see `data_jobs.pack`."""
    corpus, trained = context.only("corpus"), context.only("tokenizer")
    tokenizer = load_tokenizer(trained.local("tokenizer.json"))
    if config.documents.layout == "repositories":
        for needed in REPOSITORY_TOKENS:
            if needed.token not in tokenizer.special_ids:
                raise UserError(
                    f"documents.layout = 'repositories': the tokenizer lacks {needed.token}; "
                    "train it with extra_special_tokens = ['<repo_name>', '<file_sep>']"
                )
    dtype = token_dtype(config.dtype, tokenizer.size)
    names = shard_names(corpus)
    fast = _fast_route_agrees(tokenizer, corpus, names[0])
    context.say(
        "encoding with the compiled loop"
        if fast
        else "warning: the compiled loop gives other ids: encoding with tokenizers, many times slower"
    )

    def work(shard: str) -> dict[str, Packed]:
        encoder = _encoder(str(trained.local("tokenizer.json")), fast)
        return _pack_shard(shard, corpus, encoder, dtype, config, context.output)

    packed = map_shards(names, work, name="pack")
    shards = {name: vars(counts) for made in packed for name, counts in sorted(made.items())}
    if not sum(counts["tokens"] for name, counts in shards.items() if name.startswith("train/")):
        raise UserError("heldout_share: every repository was held out; lower it or change the seed")
    heldout = _merge_heldout(names, context.output)
    context.output.remove(_WORK)
    details = {
        "tokenizer": trained.fingerprint,
        "vocabulary": tokenizer.size,
        "dtype": dtype,
        "route": "compiled" if fast else "tokenizers",
        "shards": shards,
        "heldout_files": heldout,
    }
    documents = sum(shard["documents"] for shard in shards.values())
    return Outcome(rows_in=documents, rows_out=documents, details=details)


def token_dtype(wanted: str, vocabulary: int) -> str:
    """The type of the ids; `UserError` when the vocabulary does not fit the one that is asked for."""
    smallest = smallest_dtype(vocabulary)
    if wanted == "auto":
        return smallest
    if wanted == "uint16" and smallest != "uint16":
        raise UserError(f"dtype = 'uint16': {vocabulary} ids do not fit 65,536; use 'uint32' or 'auto'")
    return wanted


def is_heldout(repo_name: str, seed: int, share: float) -> bool:
    """Whether a repository is held out: a function of its name and the seed, so that its files stay together."""
    return draw(seed, repo_name, "heldout") < share


def _fast_route_agrees(tokenizer: CodeTokenizer, corpus: Artifact, shard: str) -> bool:
    try:
        encoder = CompiledEncoder.of(tokenizer)
    except ValueError:
        return False
    contents = corpus.read_table(f"data/{shard}", ["content"])["content"]
    texts = contents.take(pa.array(range(0, len(contents), max(1, len(contents) // CHECKED_DOCUMENTS)))).to_pylist()
    checked = [text[:CHECKED_CHARACTERS] for text in texts]
    pairs = zip(encoder.encode(checked), checked, strict=True)
    return all(ids is None or ids.tolist() == tokenizer.encode(text) for ids, text in pairs)


@dataclass(frozen=True)
class Encoder:
    """Texts to ids on the fastest route that gives the ids of `tokenizers`."""

    tokenizer: CodeTokenizer
    compiled: CompiledEncoder | None

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """uint32 ids of each text; what the compiled loop leaves out goes through `tokenizers`."""
        found = self.compiled.encode(texts) if self.compiled is not None else [None] * len(texts)
        return [
            np.asarray(self.tokenizer.encode(text), dtype=np.uint32) if ids is None else ids
            for ids, text in zip(found, texts, strict=True)
        ]


@lru_cache(maxsize=2)
def _encoder(path: str, fast: bool) -> Encoder:
    # one in a worker's life: its tables take longer to build than a shard to encode
    tokenizer = load_tokenizer(path)
    return Encoder(tokenizer, CompiledEncoder.of(tokenizer) if fast else None)


def _pack_shard(
    shard: str, corpus: Artifact, encoder: Encoder, dtype: str, config: PackConfig, output: ArtifactWriter
) -> dict[str, Packed]:
    stem, done = PurePosixPath(shard).stem, f"{_WORK}/{shard}.json"
    if output.exists(done):
        return {name: Packed(**counts) for name, counts in output.read_json(done).items()}
    table = list(rows(corpus.read_table(f"data/{shard}")))
    documents = list(documents_of(table, config.seed, config.documents))
    texts = [piece for document in documents for piece in _pieces(document) if isinstance(piece, str)]
    waiting = iter(encoder.encode(texts))
    specials = {token: np.array([number], dtype=np.uint32) for token, number in encoder.tokenizer.special_ids.items()}
    bins: dict[str, _Bin] = {f"{split}/{stem}": _Bin() for split in SPLITS if config.groups == "none"}
    heldout = []
    for document in documents:
        rows_of_it = [table[number] for number in document.rows]
        repo_name = rows_of_it[0]["repo_name"]
        split = "heldout" if is_heldout(repo_name, config.seed, config.heldout_share) else "train"
        parts: list[np.ndarray] = []
        target = bins.setdefault(f"{split}/{_group(rows_of_it, config.groups)}{stem}", _Bin())
        for section in document.sections:
            begun = len(parts)
            parts += [_special(p, specials) if isinstance(p, Special) else next(waiting) for p in section.pieces]
            target.languages[section.language] += sum(len(part) for part in parts[begun:])
        # neighbours in a repository are spread over the shard; the windows' own order mixes the shards
        place = draw(config.seed, document.key, "order")
        target.documents.append((place, np.concatenate(parts).astype(dtype)))
        if split == "heldout":
            heldout += [{name: row[name] for name in _HELDOUT.names} for row in rows_of_it]
    packed = {}
    for name, written in sorted(bins.items()):
        ordered = [ids for _, ids in sorted(written.documents, key=lambda placed: placed[0])]
        TokenShardWriter(dtype).write(output, name, ordered)
        packed[name] = Packed(len(ordered), sum(map(len, ordered)), dict(sorted(written.languages.items())))
    output.write_table(f"{_WORK}/{shard}", pa.Table.from_pylist(heldout, schema=_HELDOUT))
    output.write_json(done, {name: vars(counts) for name, counts in packed.items()})
    return packed


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


def _special(piece: Special, ids: dict[str, np.ndarray]) -> np.ndarray:
    try:
        return ids[piece.token]
    except KeyError:
        raise UserError(f"the tokenizer has no special token {piece.token}, which the documents need") from None


def _merge_heldout(names: list[str], output: ArtifactWriter) -> int:
    tables = []
    for name in names:
        with output.open_file(f"{_WORK}/{name}") as file:
            tables.append(pq.read_table(file))
    merged = pa.concat_tables(tables)
    output.write_table("heldout/documents.parquet", merged)
    return int(merged.num_rows)
