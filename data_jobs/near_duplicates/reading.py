"""How the rows of a shard are read for n-grams: past their licence header, by language, each kind of record apart."""

import numpy as np
import pyarrow as pa
import xxhash

from data_jobs.comments import LICENCE_WORDS, licence_header
from data_jobs.near_duplicates.config import SketchConfig
from data_jobs.near_duplicates.kernel import Reading, Texts

HEADER_BYTES = 8192  # of a file, in which a licence header is looked for
_WORDS = tuple(word.encode() for word in LICENCE_WORDS)
COLUMNS = ("content", "language", "kind")  # what `reading_of` needs


def reading_of(table: pa.Table, texts: Texts, config: SketchConfig) -> Reading:
    """The reading of the rows of a table with `COLUMNS`, whose texts are `texts`."""
    ngrams = np.array([config.ngram_of(language) for language in table["language"].to_pylist()], dtype=np.int64)
    kinds = table["kind"].to_pylist()
    by_kind = {kind: salt_of(kind) for kind in set(kinds)}
    salts = np.array([by_kind[kind] for kind in kinds], dtype=np.uint64)
    starts = texts.offsets[:-1].copy()
    for number, kind in enumerate(kinds):
        if kind == "file":
            starts[number] += _header_bytes(texts, number)
    return Reading(starts, ngrams, salts)


def salt_of(kind: str) -> int:
    """What parts a kind of record from the others; files have none, so that their n-grams are the benchmarks' too."""
    return 0 if kind == "file" else xxhash.xxh64_intdigest(kind.encode())


def _header_bytes(texts: Texts, number: int) -> int:
    start, end = int(texts.offsets[number]), int(texts.offsets[number + 1])
    head = texts.data[start : min(end, start + HEADER_BYTES)].tobytes()
    lowered = head.lower()
    if not any(word in lowered for word in _WORDS):
        return 0
    plain = head.decode("utf-8", "ignore")
    return len(plain[: licence_header(plain)].encode())
