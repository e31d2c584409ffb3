"""Stage 2: pairs of files that share a band, a task for a few bands; only (hash, file number) is in memory.

A bucket gives star edges to its least file and edges to a few neighbours: O(files), never all pairs. In a bucket of
at most `neighbours` + 1 files that is all pairs, so a star whose centre turns out unlike the others loses nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_jobs.near_duplicates.arrays import load_array, save_array
from data_jobs.near_duplicates.signing import BANDS, EXACT, LONG, NORMAL, SignedShard, bases_of, read_fields
from data_jobs.shards import map_shards
from starloom.artifact import ArtifactWriter

EDGES = ".edges"
PAIRS, COPIED, WANTED = (f"{EDGES}/{name}.npy" for name in ("pairs", "copied", "wanted"))
_COPIES = range(0)  # no band: the hashes of the whole text


@dataclass(frozen=True)
class Candidates:
    """How many pairs there are, and the shards with files in them.

    The pairs are in `PAIRS`, int64 [pairs, 2], first < second, sorted and distinct; `COPIED`, bool [pairs], has those
    that are alike without a look at n-grams (equal bytes, or short and equal but for white space); `WANTED`, int64
    [files], ascending, has their files.
    """

    pairs: int
    shards: tuple[int, ...]


def find_candidates(
    shards: Sequence[SignedShard],
    bands: int,
    neighbours: int,
    output: ArtifactWriter,
    *,
    bands_per_task: int,
) -> Candidates:
    """Pairs of files that share a band, and copies; a task of a few bands holds only their hashes."""
    known = sum(shard.rows for shard in shards if shard.known)

    def work(chunk: range) -> None:
        if output.exists(_edges_of(chunk)):
            return
        if not chunk:
            save_array(with_new(_copies(shards, output), known), _edges_of(chunk), output)
            return
        numbers, (long, *hashes) = read_fields(shards, [LONG, *(BANDS + band for band in chunk)], output)
        long_enough = long > 0
        numbers = numbers[long_enough]
        edges = [with_new(bucket_edges(values[long_enough], numbers, neighbours), known) for values in hashes]
        save_array(distinct_pairs(edges), _edges_of(chunk), output)

    chunks = [range(first, min(first + bands_per_task, bands)) for first in range(0, bands, bands_per_task)]
    map_shards([_COPIES, *chunks], work, name="candidates")
    (found,) = map_shards([chunks], lambda several: _merge(several, shards, output), name="merge")
    return Candidates(*found)


def _merge(
    chunks: Sequence[range], shards: Sequence[SignedShard], output: ArtifactWriter
) -> tuple[int, tuple[int, ...]]:
    """All pairs together, chunk by chunk: no more than the pairs so far and one chunk's are in memory."""
    copies = load_array(_edges_of(_COPIES), output)
    pairs = copies
    for chunk in chunks:
        pairs = distinct_pairs([pairs, load_array(_edges_of(chunk), output)])
    wanted = np.unique(pairs)
    save_array(pairs, PAIRS, output)
    save_array(_contained(pairs, copies), COPIED, output)
    save_array(wanted, WANTED, output)
    numbers = np.unique(np.searchsorted(bases_of(shards), wanted, side="right") - 1)
    return len(pairs), tuple(numbers.tolist())


def _contained(pairs: np.ndarray, some: np.ndarray) -> np.ndarray:
    width = int(max(pairs.max(initial=0), some.max(initial=0))) + 1
    mask: np.ndarray = np.isin(pairs[:, 0] * width + pairs[:, 1], some[:, 0] * width + some[:, 1])
    return mask


def _edges_of(chunk: range) -> str:
    return f"{EDGES}/bands-{chunk.start}-{chunk.stop}.npy"


def _copies(shards: Sequence[SignedShard], output: ArtifactWriter) -> np.ndarray:
    """Edges between files of equal bytes, and between short files that are equal but for white space.

    Short files (fewer words than an n-gram) have no signature; the longer ones that differ in white space alone have
    equal n-grams and need no rule of their own.
    """
    numbers, (long, exact, normal) = read_fields(shards, [LONG, EXACT, NORMAL], output)
    short = long == 0
    return distinct_pairs([group_edges(exact, numbers), group_edges(normal[short], numbers[short])])


def bucket_edges(hashes: np.ndarray, numbers: np.ndarray, neighbours: int) -> np.ndarray:
    """Edges within buckets of equal hash: to the least file and to each of the `neighbours` files before.

    `hashes` is uint64 [files], `numbers` int64 [files], ascending; the edges are int64 [edges, 2], distinct and sorted.
    """
    order = np.argsort(hashes, kind="stable")  # the numbers ascend already
    ordered = hashes[order]
    same = ordered[1:] == ordered[:-1]
    # most files are alone in their bucket and need no look
    shared = np.concatenate((same, [False])) | np.concatenate(([False], same)) if len(order) else same
    hashes, numbers = ordered[shared], numbers[order][shared]
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
    """Star edges, int64 [edges, 2], between files with equal keys, uint64 [files] (exact and normalized copies)."""
    return bucket_edges(keys, numbers, 1)


def with_new(pairs: np.ndarray, known: int) -> np.ndarray:
    """Of pairs int64 [pairs, 2] those of which a file is new.

    The remembered ones have the numbers below `known`, and all of them stay.
    """
    return pairs[pairs[:, 1] >= known]


def distinct_pairs(parts: Sequence[np.ndarray]) -> np.ndarray:
    """All pairs together, int64 [pairs, 2], sorted, without repeats."""
    merged = np.concatenate([np.empty((0, 2), np.int64), *parts])
    if not len(merged):
        return merged
    merged = merged[np.lexsort((merged[:, 1], merged[:, 0]))]
    new = np.concatenate(([True], (merged[1:] != merged[:-1]).any(axis=1)))
    return merged[new]
