"""Stage 2: pairs of files that share a band, a task for a few bands; only (hash, file number) is in memory.

A bucket gives star edges to its least file and edges to a few neighbours: O(files), never all pairs. In a bucket of
at most `neighbours` + 1 files that is all pairs, so a star whose centre turns out unlike the others loses nothing.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq

from data_jobs.near_duplicates.signing import FOLDER, SignedShard
from data_jobs.shards import map_shards
from starloom.artifact import ArtifactWriter

EDGES = ".edges"


def read_columns(
    shards: Sequence[SignedShard], columns: Sequence[str], output: ArtifactWriter
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """File numbers of all signed rows, ascending, and the wanted columns in the same order."""
    numbers, parts = [], []
    base = 0
    for shard in shards:
        with output.open_file(f"{FOLDER}/{shard.name}") as file:
            table = pq.read_table(file, columns=["row", *columns])
        numbers.append(table["row"].to_numpy().astype(np.int64) + base)
        parts.append({name: table[name].to_numpy() for name in columns})
        base += shard.rows
    return np.concatenate(numbers), {name: np.concatenate([part[name] for part in parts]) for name in columns}


def find_candidates(
    shards: Sequence[SignedShard],
    bands: int,
    ngram: int,
    neighbours: int,
    output: ArtifactWriter,
    *,
    bands_per_task: int,
) -> np.ndarray:
    """Candidate pairs int64 [pairs, 2], first < second, sorted and distinct."""

    chunks = [list(range(first, min(first + bands_per_task, bands))) for first in range(0, bands, bands_per_task)]

    def work(chunk: list[int]) -> list[str]:
        names = {band: f"{EDGES}/band{band:03d}.npy" for band in chunk}
        missing = [band for band in chunk if not output.exists(names[band])]
        if missing:
            numbers, columns = read_columns(shards, ["words", *(f"band{band:03d}" for band in missing)], output)
            long_enough = columns.pop("words") >= ngram
            numbers = numbers[long_enough]
            for band in missing:
                hashes = columns.pop(f"band{band:03d}")[long_enough]
                save_array(bucket_edges(hashes, numbers, neighbours), names[band], output)
        return list(names.values())

    written = [name for names in map_shards(chunks, work, name="candidates") for name in names]
    return distinct_pairs([load_array(name, output) for name in written])


def bucket_edges(hashes: np.ndarray, numbers: np.ndarray, neighbours: int) -> np.ndarray:
    """Edges within buckets of equal hash: to the least file and to each of the `neighbours` files before."""
    order = np.lexsort((numbers, hashes))
    hashes, numbers = hashes[order], numbers[order]
    pairs = []
    for distance in range(1, neighbours + 1):
        same = hashes[distance:] == hashes[:-distance]
        pairs.append(np.stack([numbers[:-distance][same], numbers[distance:][same]], axis=1))
    if len(hashes):
        first = np.concatenate(([True], hashes[1:] != hashes[:-1]))
        starts = np.maximum.accumulate(np.where(first, np.arange(len(hashes)), 0))
        pairs.append(np.stack([numbers[starts][~first], numbers[~first]], axis=1))
    return distinct_pairs(pairs)


def group_edges(keys: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Star edges between files with equal keys (exact and normalized copies)."""
    return bucket_edges(keys, numbers, 1)


def distinct_pairs(parts: Sequence[np.ndarray]) -> np.ndarray:
    """All pairs together, sorted, without repeats."""
    merged = np.concatenate([np.empty((0, 2), np.int64), *parts])
    if not len(merged):
        return merged
    merged = merged[np.lexsort((merged[:, 1], merged[:, 0]))]
    new = np.concatenate(([True], (merged[1:] != merged[:-1]).any(axis=1)))
    return merged[new]


def save_array(array: np.ndarray, name: str, output: ArtifactWriter) -> None:
    """Write an array as ``.npy``, whole or not at all."""
    with output.create(name) as file:
        np.save(file, array)


def load_array(name: str, output: ArtifactWriter) -> np.ndarray:
    """Read what `save_array` wrote."""
    with output.open_file(name) as file:
        loaded: np.ndarray = np.load(file)
    return loaded
