"""The work of `data_jobs.pack`."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
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
from starloom.tokens.shard import TokenShardWriter

SPLITS = ("train", "heldout")
CHECKED_DOCUMENTS = 64
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
        "encoding with tiktoken" if fast else "tiktoken gives other ids for this tokenizer: encoding with tokenizers"
    )

    def work(shard: str) -> dict[str, Packed]:
        return _pack_shard(shard, corpus, tokenizer, fast, dtype, config, context.output)

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
        "route": "tiktoken" if fast else "tokenizers",
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
    table = corpus.read_table(f"data/{shard}", ["content"])
    step = max(1, table.num_rows // CHECKED_DOCUMENTS)
    return tokenizer.agrees(table["content"].to_pylist()[::step])


def _pack_shard(
    shard: str,
    corpus: Artifact,
    tokenizer: CodeTokenizer,
    fast: bool,
    dtype: str,
    config: PackConfig,
    output: ArtifactWriter,
) -> dict[str, Packed]:
    stem, done = PurePosixPath(shard).stem, f"{_WORK}/{shard}.json"
    if output.exists(done):
        return {split: Packed(**counts) for split, counts in output.read_json(done).items()}
    encode = _text_encoder(tokenizer, fast)
    specials = tokenizer.special_ids
    documents: dict[str, list[tuple[float, np.ndarray]]] = {split: [] for split in SPLITS}
    languages: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    heldout = []
    for row in rows(corpus.read_table(f"data/{shard}")):
        split = "heldout" if is_heldout(row["repo_name"], config.seed, config.heldout_share) else "train"
        pieces = [
            np.array([specials[piece.token]], dtype=dtype)
            if isinstance(piece, Special)
            else encode(piece).astype(dtype)
            for piece in render(row, config.seed, config.documents)
        ]
        ids = np.concatenate(pieces)
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


def _text_encoder(tokenizer: CodeTokenizer, fast: bool) -> Callable[[str], np.ndarray]:
    if fast:
        # the ids arrive as a buffer, without a Python object per token
        encoding = tokenizer.fast
        return lambda text: encoding.encode_to_numpy(text, disallowed_special=())
    return lambda text: np.asarray(tokenizer.encode(text), dtype=np.uint32)


def _merge_heldout(names: list[str], output: ArtifactWriter) -> int:
    tables = []
    for name in names:
        with output.open_file(f"{_WORK}/{name}") as file:
            tables.append(pq.read_table(file))
    merged = pa.concat_tables(tables)
    output.write_table("heldout/documents.parquet", merged)
    return int(merged.num_rows)
