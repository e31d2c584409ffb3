"""Stage 1: signatures of every surviving row, one Parquet file per collected shard, a column per band."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data_jobs.deduplicate import DeduplicateConfig
from data_jobs.near_duplicates.banding import choose_bands
from data_jobs.near_duplicates.kernel import Texts, sign
from data_jobs.shards import map_shards
from starloom.artifact import Artifact, ArtifactWriter
from starloom.decisions import surviving

FOLDER = ".signatures"


@dataclass(frozen=True)
class SignedShard:
    """One collected shard: its rows are numbered base, base + 1, ... across the corpus."""

    name: str
    rows: int
    alive: int
    sources: dict[str, int]  # surviving files
    languages: dict[str, int]


def sign_shards(
    names: Sequence[str],
    collected: Artifact,
    earlier: Sequence[Artifact],
    config: DeduplicateConfig,
    output: ArtifactWriter,
) -> list[SignedShard]:
    """Sign every shard in a task of its own; a finished one is left as it is."""

    def work(name: str) -> SignedShard:
        return _sign_shard(name, collected, earlier, config, output)

    return map_shards(names, work, name="sign")


def _sign_shard(
    name: str, collected: Artifact, earlier: Sequence[Artifact], config: DeduplicateConfig, output: ArtifactWriter
) -> SignedShard:
    kinds = collected.read_table(f"data/{name}", ["source", "language"])
    alive = np.flatnonzero(surviving(name, len(kinds), earlier))
    counts = [
        Counter(value or "" for value in kinds[column].take(pa.array(alive)).to_pylist())
        for column in kinds.column_names
    ]
    signed = SignedShard(name, len(kinds), len(alive), *map(dict, counts))
    if output.exists(f"{FOLDER}/{name}"):
        return signed
    table = collected.read_table(f"data/{name}", ["id", "content"]).take(pa.array(alive))
    bands = choose_bands(config.permutations, config.threshold, config.recall)
    signatures = sign(
        Texts.of(table["content"]),
        ngram=config.ngram,
        count=config.permutations,
        seed=config.seed,
        bands=bands.count,
        rows=bands.rows,
    )
    columns = {
        "row": pa.array(alive, pa.int32()),
        "exact": pa.array([int(one[:16], 16) for one in table["id"].to_pylist()], pa.uint64()),
        "words": pa.array(signatures.words),
        "normal": pa.array(signatures.normal),
    }
    for band in range(bands.count):
        columns[f"band{band:03d}"] = pa.array(np.ascontiguousarray(signatures.bands[:, band]))
    # hashes do not compress, and dictionaries of them only cost time
    import pyarrow.parquet as pq

    with output.create(f"{FOLDER}/{name}") as file:
        pq.write_table(pa.table(columns), file, compression="none", use_dictionary=False)
    return signed
