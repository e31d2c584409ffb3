"""Stage 1: signatures of every surviving row, one array per collected shard with a row per field and per band."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data_jobs.near_duplicates.arrays import load_rows, save_array
from data_jobs.near_duplicates.config import SketchConfig, choose_bands
from data_jobs.near_duplicates.kernel import Texts, sign
from data_jobs.near_duplicates.reading import reading_of
from data_jobs.shards import map_shards
from starloom.artifact import Artifact, ArtifactWriter
from starloom.decisions import surviving
from starloom.kinds import data_file

FOLDER = "signatures"
ROW, LONG, EXACT, NORMAL, BANDS = range(5)  # the fields before the first band


@dataclass(frozen=True)
class SignedShard:
    """One collected shard: its rows are numbered base, base + 1, ... across the corpus."""

    name: str
    rows: int
    alive: int
    sources: dict[str, int]  # surviving files
    languages: dict[str, int]
    known: Artifact | None = None  # remembered: its files are in the corpus already, and its arrays are there

    def home(self, output: ArtifactWriter) -> Artifact | ArtifactWriter:
        """Where its arrays are."""
        return self.known or output


def bases_of(shards: Sequence[SignedShard]) -> np.ndarray:
    """int64 [shards + 1]: the number of each shard's first file, and the number of all files at the end."""
    return np.concatenate(([0], np.cumsum([shard.rows for shard in shards]))).astype(np.int64)


def sign_shards(
    names: Sequence[str],
    collected: Artifact,
    earlier: Sequence[Artifact],
    config: SketchConfig,
    output: ArtifactWriter,
) -> list[SignedShard]:
    """Sign every shard in a task of its own; a finished one is left as it is."""

    def work(name: str) -> SignedShard:
        return _sign_shard(name, collected, earlier, config, output)

    return map_shards(names, work, name="sign")


def read_fields(
    shards: Sequence[SignedShard], fields: Sequence[int], output: ArtifactWriter
) -> tuple[np.ndarray, list[np.ndarray]]:
    """File numbers of all signed rows, ascending, and the wanted fields (uint64) in the same order."""
    parts = [load_rows(f"{FOLDER}/{shard.name}.npy", [ROW, *fields], shard.home(output)) for shard in shards]
    numbers = [part[0].astype(np.int64) + base for part, base in zip(parts, bases_of(shards), strict=False)]
    return np.concatenate(numbers), [np.concatenate([part[n + 1] for part in parts]) for n in range(len(fields))]


def signed_rows(shard: SignedShard, output: ArtifactWriter) -> np.ndarray:
    """The rows of a shard that are signed, int64 [rows], ascending."""
    (rows,) = load_rows(f"{FOLDER}/{shard.name}.npy", [ROW], shard.home(output))
    signed: np.ndarray = rows.astype(np.int64)
    return signed


def _sign_shard(
    name: str, collected: Artifact, earlier: Sequence[Artifact], config: SketchConfig, output: ArtifactWriter
) -> SignedShard:
    written = f"{FOLDER}/{name}.npy"
    done = output.exists(written)
    table = collected.read_table(data_file(name), ["source", "language", *(() if done else ("id", "kind", "content"))])
    rows = table.num_rows
    alive = np.flatnonzero(surviving(name, rows, earlier))
    if len(alive) < rows:
        table = table.take(pa.array(alive))
    sources, languages = (
        dict(Counter(value or "" for value in table[column].to_pylist())) for column in ("source", "language")
    )
    if not done:
        save_array(_signatures(table, alive, config), written, output)
    return SignedShard(name, rows, len(alive), sources, languages)


def _signatures(table: pa.Table, alive: np.ndarray, config: SketchConfig) -> np.ndarray:
    """uint64 [fields and bands, files]; hashes do not compress, so they are stored as they are."""
    bands = choose_bands(config.permutations, config.least_threshold, config.recall)
    texts = Texts.of(table["content"])
    reading = reading_of(table, texts, config)
    signatures = sign(
        texts,
        reading,
        count=config.permutations,
        seed=config.seed,
        bands=bands.count,
        rows=bands.rows,
    )
    fields = np.empty((BANDS + bands.count, len(alive)), dtype=np.uint64)
    fields[ROW], fields[LONG], fields[NORMAL] = alive, signatures.words >= reading.ngrams, signatures.normal
    fields[EXACT] = np.array([int(one[:16], 16) for one in table["id"].to_pylist()], dtype=np.uint64) ^ reading.salts
    fields[BANDS:] = signatures.bands.T
    return fields
