"""The work of `data_jobs.pack`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_jobs.documents import Special, draw, render
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
    """Counts of one shard of one split."""

    documents: int
    tokens: int
    languages: dict[str, int]  # tokens


def pack(config: PackConfig, context: StepContext) -> Outcome:
    """Run the step; see `data_jobs.pack`."""
    corpus, trained = context.only("corpus"), context.only("tokenizer")
    tokenizer = load_tokenizer(trained.local("tokenizer.json"))
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
    if not sum(shard["train"].tokens for shard in packed):
        raise UserError("heldout_share: every repository was held out; lower it or change the seed")
    heldout = _merge_heldout(names, context.output)
    context.output.remove(_WORK)
    shards = {
        f"{split}/{PurePosixPath(name).stem}": vars(shard[split])
        for split in SPLITS
        for name, shard in zip(names, packed, strict=True)
    }
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
        return {split: Packed(**counts) for split, counts in output.read_json(done).items()}
    table = list(rows(corpus.read_table(f"data/{shard}")))
    rendered = [render(row, config.seed, config.documents) for row in table]
    texts = encoder.encode([piece for pieces in rendered for piece in pieces if isinstance(piece, str)])
    specials = {token: np.array([number], dtype=np.uint32) for token, number in encoder.tokenizer.special_ids.items()}
    waiting = iter(texts)
    documents: dict[str, list[tuple[float, np.ndarray]]] = {split: [] for split in SPLITS}
    languages: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    heldout = []
    for row, pieces in zip(table, rendered, strict=True):
        split = "heldout" if is_heldout(row["repo_name"], config.seed, config.heldout_share) else "train"
        parts = [_special(piece, specials) if isinstance(piece, Special) else next(waiting) for piece in pieces]
        ids = np.concatenate(parts).astype(dtype)
        # neighbours in a repository are spread over the shard; the windows' own order mixes the shards
        documents[split].append((draw(config.seed, f"{row['repo_name']}/{row['path']}", "order"), ids))
        languages[split][row["language"] or ""] += len(ids)
        if split == "heldout":
            heldout.append({name: row[name] for name in _HELDOUT.names})
    packed = {}
    for split, written in documents.items():
        ordered = [ids for _, ids in sorted(written, key=lambda document: document[0])]
        TokenShardWriter(dtype).write(output, f"{split}/{stem}", ordered)
        counts = dict(sorted(languages[split].items()))
        packed[split] = Packed(len(ordered), sum(len(ids) for ids in ordered), counts)
    output.write_table(f"{_WORK}/{shard}", pa.Table.from_pylist(heldout, schema=_HELDOUT))
    output.write_json(done, {split: vars(counts) for split, counts in packed.items()})
    return packed


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
